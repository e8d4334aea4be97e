"""Start an IPython kernel in an image that may hold nothing but Python.

The image's own interpreter runs this file from the read-only kernel runtime. Standard library only until the finder
stands, Python 3.6 syntax. Nothing of the runtime reaches child processes: no variable and no path entry names it.

Environment:
    DLENV_PACKAGES_PATH: A folder of installed packages to put before the image's, for interpreters without user site.
    DLENV_OWNER_LOCK: A file that the kernel's owner keeps locked; the kernel ends when nobody does.
    DLENV_OWNER_GRACE: For how many seconds the lock may stay free, 120 unless given.
"""

# ruff: noqa: E402
import os
import sys


def standard_library_first(path):
    # type: (List[str]) -> List[str]
    """Return the same entries, those of the standard library before all others."""
    library = os.path.dirname(os.__file__)
    return sorted(path, key=lambda entry: entry != library and os.path.basename(entry) != "lib-dynload")


# PYTHONPATH comes before the standard library, and a queue.py or code.py there would be imported in the kernel's stead.
GIVEN_PATH = list(sys.path)
if __name__ == "__main__":
    sys.path[:] = standard_library_first(GIVEN_PATH)

import contextlib
import faulthandler
import gc
import json
import signal
import time
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, List, Optional

HERE = os.path.dirname(os.path.abspath(__file__))
SITE = os.path.join(HERE, "site")
EXTENSION = "jupyter_dlenv"
TERMINATE_SECONDS = 5.0


def process_birth(pid: int) -> Optional[str]:
    """Return when a living process started, in the kernel's clock ticks; None once it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def lock_is_free(path: str) -> bool:
    """Return whether nobody holds the file's lock; a file that is gone is held by nobody."""
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def end_process(pid: int, birth: str) -> None:
    """Terminate a process, and kill it when it is still there five seconds later."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if process_birth(pid) != birth:
            return
        os.kill(pid, signum)
        deadline = time.monotonic() + TERMINATE_SECONDS
        while process_birth(pid) == birth and time.monotonic() < deadline:
            time.sleep(0.1)


def watch(path: str, grace: float, pid: int, birth: str) -> None:
    """Look once a second, while the process lives, and end it once the lock has been free for so many seconds."""
    free_since: Optional[float] = None
    while process_birth(pid) == birth:
        now = time.monotonic()
        free_since = (now if free_since is None else free_since) if lock_is_free(path) else None
        if free_since is not None and now - free_since >= grace:
            end_process(pid, birth)
            return
        time.sleep(1)


def start_watchdog(path: str, grace: float) -> None:
    """Leave a process behind that ends this one when its owner is gone.

    It is forked twice: as a child of the kernel it would turn up in ``os.wait()`` and in process lists of user code,
    and ipykernel would end it together with the children that user code started.
    """
    pid, birth = os.getpid(), process_birth(os.getpid())
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            detach()
            watch(path, grace, pid, str(birth))
    finally:
        os._exit(0)


def detach() -> None:
    """Leave the session, ignore the terminal's signals and give up every inherited file."""
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            os.closerange(int(name), int(name) + 1)


def put_before_image(folder: str) -> None:
    """Put a packages folder, and what its .pth files name, before the image's own site-packages."""
    import site

    known = list(sys.path)
    site.addsitedir(folder)
    added = [entry for entry in sys.path if entry not in known]
    image: List[str] = getattr(site, "getsitepackages", list)()
    index = min((known.index(entry) for entry in image if entry in known), default=len(known))
    sys.path[:] = known[:index] + added + known[index:]


def add_packages() -> None:
    """Make packages that are installed from this kernel importable at once, whichever way pip is told to take."""
    import site

    folder = os.environ.get("DLENV_PACKAGES_PATH", "")
    if folder:
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)
        sys.path_importer_cache.pop(folder, None)  # Known as missing, it would never be looked into again.
        put_before_image(folder)
    elif site.ENABLE_USER_SITE and os.environ.get("PYTHONUSERBASE"):
        folder = site.getusersitepackages()
        if folder not in sys.path:  # site.py left it out, because it does not exist yet.
            with contextlib.suppress(OSError):
                os.makedirs(folder, exist_ok=True)
            put_before_image(folder)


def in_given_order(path: List[str], given: List[str]) -> List[str]:
    """Return a path whose entries that were given have their order back; those that came later keep their places."""
    ordered = iter([entry for entry in given if entry in path])
    return [next(ordered, entry) if entry in given else entry for entry in path]


def beside(name: str) -> Any:
    """Import a file beside this one under a name that no user module has."""
    spec = spec_from_file_location(f"_dlenv_{name}", os.path.join(HERE, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install_finder() -> Any:
    """Read the manifest and put the finder in place."""
    with open(os.path.join(HERE, "manifest.json"), encoding="utf-8") as file:
        distributions = json.load(file)["distributions"]
    return beside("finder").install(SITE, distributions)


def kernel_app(finder: Any) -> Any:
    """Return the class of the kernel's application."""
    ipykernel: Any = import_module("ipykernel.kernelapp")
    given = os.environ.get("MPLBACKEND")

    # The same name, because libraries take a configuration with the section "IPKernelApp" for a notebook.
    class IPKernelApp(ipykernel.IPKernelApp):  # type: ignore[misc]  # no types where this runs
        def init_gui_pylab(self) -> None:
            super().init_gui_pylab()
            if not given:
                # ipykernel names its backend in the environment, where processes that lack that backend inherit it.
                os.environ.pop("MPLBACKEND", None)
                finder.inline_backend = True

        def log_connection_info(self) -> None:
            """Say nothing: the container's log is for what goes wrong."""

    return IPKernelApp


def run_kernel(finder: Any, arguments: List[str]) -> None:
    """Run the kernel until it is shut down."""
    beside("lazy").put_off_debugger()
    sys.argv[0] = os.path.join(SITE, "ipykernel_launcher.py")  # what code that looks for a notebook expects here
    shell: Any = import_module("ipykernel.zmqshell").ZMQInteractiveShell
    # It would add the packages of $VIRTUAL_ENV, which the image's Python on its PATH, and so every job, does without.
    shell.init_virtualenv = lambda self: None
    class_ = kernel_app(finder)
    several = hasattr(class_, "extra_extensions")  # IPython of Python 3.6 takes one
    app = class_.instance(**({"extra_extensions": [EXTENSION]} if several else {"extra_extension": EXTENSION}))
    app.initialize(arguments)
    sys.path[:] = in_given_order(sys.path, GIVEN_PATH)
    # So that %load_ext, which notebooks for any kernel begin with, does not complain that it was done already.
    app.shell.extension_manager.loaded.discard(EXTENSION)
    if hasattr(gc, "freeze"):  # from Python 3.7
        gc.freeze()  # what is there now stays, so no collection need look at it
    gc.enable()
    app.start()


def main() -> None:
    """Prepare the interpreter and run the kernel with this process's arguments."""
    gc.disable()  # collections in the middle of so many imports find nothing and take their time
    for path in (sys.path, GIVEN_PATH):
        if HERE in path:
            path.remove(HERE)
    os.environ.pop("JPY_PARENT_PID", None)  # A host's process id; ipykernel would exit for want of that parent.
    # A copy, because ipykernel takes descriptor 2 for the notebook, and what it has not read when it crashes is lost.
    faulthandler.enable(os.dup(2))
    owner_lock = os.environ.pop("DLENV_OWNER_LOCK", "")
    grace = float(os.environ.pop("DLENV_OWNER_GRACE", "") or 120)
    if owner_lock:
        start_watchdog(owner_lock, grace)
    add_packages()
    run_kernel(install_finder(), sys.argv[1:])


if __name__ == "__main__":
    main()
