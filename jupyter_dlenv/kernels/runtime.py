"""The kernel runtime: the read-only folder that turns an image with a Python into a kernel.

One folder a Python minor, C library and machine, made once below the data folder and seen by containers at
:data:`MOUNT_POINT`::

    boot.py  finder.py  lazy.py  compile.py   run by the image's interpreter
    site/                            the wheels of the lock, and the notebook's side of this package
    manifest.json                    what the finder needs to decide
    files.json                       size and SHA-256 of every file

The wheels lie in a folder of their own, named after the lock, and a runtime links them. An upgrade of the lock or of
our own files makes a new runtime beside the old one, which running kernels go on using. What ``integrity`` finds
damaged is made anew.

Bytecode comes from this host's interpreter where its minor is the image's. Otherwise the image compiles, and because
bytecode is code, what an image made serves that image only: its ID is part of the folder's name then.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import DLEnvError, EngineError, UnusableImage
from ..i18n import _
from ..images.facts import ImageFacts
from ..images.probe import ShortRunner
from ..resources import Mount
from ..spec import CONTAINER_ROOT
from . import integrity, manifest, wheels
from .wheels import Target

MOUNT_POINT = f"{CONTAINER_ROOT}/runtime"
BYTECODE = f"{CONTAINER_ROOT}/bytecode"
CONNECTION_FILE = f"{CONTAINER_ROOT}/run/connection.json"

COMPILE_TIMEOUT_S = 300

CompileIn = Callable[[Sequence[str], Sequence[Mount]], None]
"""Runs a command in a container of the image, with these mounts and no network; raises when it fails."""

_PACKAGE = Path(__file__).parents[1]
_SCRIPTS = ("boot.py", "finder.py", "lazy.py", "compile.py")
_NOTEBOOK_SIDE = (
    "__init__.py",
    "_version.py",
    "resources.py",
    "spec.py",
    "errors.py",
    "i18n.py",
    "options.py",
    "lastwords.py",
    "dockerignore.py",
    "notebook",
    "locale",
)
_TOO_OLD_SIDE = ("kernels/too_old.py", "i18n.py", "locale")
"""What stands in its place where Python is older than our notebook side can be."""
_OLDEST_WITH_MAGICS = (3, 8)
_UNUSED = ("bin", "etc", "share")
_UNCHECKED_HASH = (1).to_bytes(4, "little")
_LARGEST_BYTECODE = 16 << 20


@dataclass(frozen=True)
class Runtime:
    """A prepared folder."""

    key: str
    path: Path


def target_of(facts: ImageFacts) -> Target:
    """Return which runtime an image needs.

    Raises:
        UnusableImage: It is no CPython 3 with the global lock, or its C library is unknown.
    """
    if facts.implementation != "CPython" or facts.free_threaded:
        name = _("free-threaded CPython") if facts.free_threaded else facts.implementation
        raise UnusableImage(
            _("The image's Python at {python} is {name}; kernels need CPython with its global lock.").format(
                python=facts.python, name=name
            )
        )
    if facts.version[0] < 3:
        raise UnusableImage(
            _("The image's only Python is {version}. Python 2 cannot be a kernel.").format(version=facts.minor),
            hint=_("Jobs and shells work with this image; for kernels choose one with Python 3."),
        )
    if not facts.libc:
        raise UnusableImage(_("The image's C library is neither glibc nor musl, so no wheels fit it."))
    return Target(facts.version[:2], facts.libc, facts.machine)


def kernel_argv(facts: ImageFacts, connection_file: str = CONNECTION_FILE) -> tuple[str, ...]:
    """Return the command that starts a kernel in a container of the image."""
    # As ipykernel's own kernelspec does: debugpy misses breakpoints in frozen modules.
    options = ("-Xfrozen_modules=off",) if facts.version >= (3, 11) else ()
    return (*_without_variables(facts), facts.python, *options, f"{MOUNT_POINT}/boot.py", "-f", connection_file)


def _without_variables(facts: ImageFacts) -> tuple[str, ...]:
    """Return what to put before a command of the image's Python, that starts it in spite of the image's variables."""
    if not facts.harmful:
        return ()
    # Docker can set a variable, not take one away, and Pythons before 3.8 take an empty PYTHONHOME at its word.
    return ("/bin/sh", "-c", f'unset {" ".join(facts.harmful)}; exec "$0" "$@"')


def compile_argv(facts: ImageFacts) -> tuple[str, ...]:
    """Return the command that compiles the runtime at :data:`MOUNT_POINT` into :data:`BYTECODE`."""
    return (facts.python, "-I", "-S", "-W", "ignore", f"{MOUNT_POINT}/compile.py", BYTECODE)


def prepare(
    facts: ImageFacts, *, image_id: str, data_dir: Path, compile_in: CompileIn, progress: Callable[[str], None]
) -> Runtime:
    """Return the runtime for an image, making it first where it is missing.

    Several processes may call this at once. Blocks for some seconds the first time; call it from a thread.

    Args:
        facts: What the probe said.
        image_id: Whose bytecode it is, where this host's interpreter cannot make it.
        data_dir: Runtimes lie in its ``runtimes`` folder.
        compile_in: Called at most once, only for a Python minor other than the host's.
        progress: Called with a line for a person before each step.

    Raises:
        UnusableImage: No runtime serves this Python or system.
        DLEnvError: The wheels could not be fetched.
    """
    target = target_of(facts)
    lock = wheels.lock_for(target, facts.libc_version)
    runtimes = data_dir / "runtimes"

    def fetch(folder: Path) -> None:
        progress(_("Fetching the kernel runtime for Python {minor}").format(minor=target.minor))
        _fetch(folder / "site", target)

    def assemble(folder: Path) -> None:
        fetched = _made_once(runtimes, _key(target, lock), fetch)
        progress(_("Compiling the kernel runtime for Python {minor}").format(minor=target.minor))
        _link(fetched.path, folder)
        _add_own_files(folder, target)
        _open_up(folder)
        with _bytecode_folder(folder) as out:
            if _host_compiles(target):
                _compile_here(folder, out)
            else:
                compile_in(compile_argv(facts), [Mount(str(folder), MOUNT_POINT, True), Mount(str(out), BYTECODE)])
            _adopt_bytecode(folder, out, target)

    compiler = "" if _host_compiles(target) else image_id
    return _made_once(runtimes, _key(target, lock, _own_digest(target), compiler), assemble)


async def ensure_runtime(
    engine: ShortRunner, image_id: str, facts: ImageFacts, *, data_dir: Path, progress: Callable[[str], None]
) -> Runtime:
    """Return :func:`prepare`'s result without blocking the event loop, compiling in the engine's containers.

    Raises:
        UnusableImage: No runtime serves this Python or system.
        DLEnvError: The wheels could not be fetched.
        EngineError: The image's Python could not compile it.
    """
    loop = asyncio.get_running_loop()
    if (3, 0) <= facts.version < _OLDEST_WITH_MAGICS:
        progress(
            _("The image has Python {minor}: a plain kernel, without %dlrun and its like, which need 3.8.").format(
                minor=facts.minor
            )
        )

    def compile_in(argv: Sequence[str], mounts: Sequence[Mount]) -> None:
        answer = engine.run_short(image_id, argv, mounts=mounts, timeout_s=COMPILE_TIMEOUT_S)
        code, output = asyncio.run_coroutine_threadsafe(answer, loop).result()
        if code:
            last = output.decode(errors="replace").strip()[-500:]
            raise EngineError(_("Compiling the kernel runtime in the image failed: {output}").format(output=last))

    def say(line: str) -> None:
        loop.call_soon_threadsafe(progress, line)

    return await asyncio.to_thread(
        prepare, facts, image_id=image_id, data_dir=data_dir, compile_in=compile_in, progress=say
    )


def _key(target: Target, *parts: str) -> str:
    """Return a folder name: the target, and a digest of all that decides the folder's content."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"cp{target.python[0]}{target.python[1]}-{target.libc}-{target.machine}-{digest}"


def _made_once(runtimes: Path, key: str, make: Callable[[Path], None]) -> Runtime:
    """Return a folder that is complete, because it is made in a temporary one beside it and renamed."""
    runtime = Runtime(key, runtimes / key)
    if integrity.is_whole(runtime.path):
        return runtime
    with _locked(runtimes, key):
        if integrity.is_whole(runtime.path):
            return runtime  # Another process made it meanwhile.
        for leftover in runtimes.glob(f".{key}.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=runtimes, prefix=f".{key}."))
        try:
            make(temporary)
            integrity.note_files(temporary)
            _open_up(temporary)
            _put_aside(runtime.path)
            os.rename(temporary, runtime.path)
            integrity.remember(runtime.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return runtime


def _put_aside(damaged: Path) -> None:
    """Move a damaged folder out of the way; kernels that run from it keep what is left until next time."""
    if damaged.exists():
        os.rename(damaged, tempfile.mkdtemp(dir=damaged.parent, prefix=f".{damaged.name}."))


@contextmanager
def _locked(runtimes: Path, key: str) -> Iterator[None]:
    runtimes.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(runtimes / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetch(site: Path, target: Target) -> None:
    wheels.download(target, site)
    for name in _UNUSED:
        shutil.rmtree(site / name, ignore_errors=True)


def _add_own_files(folder: Path, target: Target) -> None:
    site = folder / "site"
    for path in _own_files(target):
        copy = _place(path, folder, site / _PACKAGE.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_PACKAGE / path, copy)
    manifest.write_own_metadata(site, _own_version())
    distributions = manifest.describe(site, target)
    about = {"python": target.minor, "libc": target.libc, "machine": target.machine, "distributions": distributions}
    (folder / "manifest.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _compile_here(folder: Path, out: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-W", "ignore", str(folder / "compile.py"), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise DLEnvError(_("Compiling the kernel runtime failed: {output}").format(output=done.stderr.strip()[-500:]))


def _own_digest(target: Target) -> str:
    files = [f"{path}\0{integrity.sha256(_PACKAGE / path)}\n" for path in _own_files(target)]
    return wheels.digest(_own_version() + "".join(files))


def _own_files(target: Target) -> list[Path]:
    """Return the paths, below the package, of every file of ours in a runtime."""
    paths = [Path("kernels") / name for name in _SCRIPTS]
    for name in _NOTEBOOK_SIDE if target.python >= _OLDEST_WITH_MAGICS else _TOO_OLD_SIDE:
        found = _PACKAGE / name
        below = found.rglob("*") if found.is_dir() else [found]
        paths += [path.relative_to(_PACKAGE) for path in below if path.is_file() and "__pycache__" not in path.parts]
    return sorted(paths)


def _place(path: Path, folder: Path, package: Path) -> Path:
    """Return where a file of ours goes: scripts into the runtime's folder, the rest into the package in its site."""
    if path.name == Path(_TOO_OLD_SIDE[0]).name:
        return package / "__init__.py"
    return folder / path.name if path.parts[0] == "kernels" else package / path


def _own_version() -> str:
    try:
        return importlib.metadata.version(manifest.OWN_NAME)
    except importlib.metadata.PackageNotFoundError:
        return "0"  # A checkout that nobody installed.


def _host_compiles(target: Target) -> bool:
    return sys.implementation.name == "cpython" and sys.version_info[:2] == target.python


def _link(sources: Path, folder: Path) -> None:
    """Fill a folder with the same files; their inodes are shared, which is safe because images never write them."""
    for parent, _folders, names in os.walk(sources):
        copies = folder / Path(parent).relative_to(sources)
        copies.mkdir(exist_ok=True)
        for name in names:
            if name == integrity.FILES:
                continue
            try:
                os.link(os.path.join(parent, name), copies / name)
            except OSError:  # A file system without links.
                shutil.copyfile(os.path.join(parent, name), copies / name)


@contextmanager
def _bytecode_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that a container's user may write, whoever that is; nobody else reaches it."""
    private = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    out = private / "out"
    try:
        out.mkdir()
        out.chmod(0o777)
        yield out
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _adopt_bytecode(folder: Path, out: Path, target: Target) -> None:
    """Take over the bytecode of the sources that are there, and nothing else of what an image may have written.

    Raises:
        DLEnvError: There is none.
    """
    tag = f"cpython-{target.python[0]}{target.python[1]}"
    adopted = 0
    for parent, _folders, names in os.walk(out):  # does not follow links to folders
        for name in names:
            compiled = Path(parent, name)
            source = folder / compiled.relative_to(out).with_suffix(".py")
            code = _bytecode_of(compiled, source)
            if code is None:
                continue
            cached = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
            cached.parent.mkdir(exist_ok=True)
            cached.write_bytes(code)
            adopted += 1
    if not adopted:
        raise DLEnvError(_("The image's Python compiled nothing of the kernel runtime."))


def _bytecode_of(compiled: Path, source: Path) -> bytes | None:
    if compiled.suffix != ".pyc" or not source.is_file():
        return None
    try:
        with open(os.open(compiled, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            code = file.read(_LARGEST_BYTECODE)
    except OSError:
        return None
    return code if code[4:8] == _UNCHECKED_HASH or code[4:12] == _stamp_of(source) else None


def _stamp_of(source: Path) -> bytes:
    """Return what follows the magic number in Python 3.6's bytecode of a source: its time and size."""
    about = source.stat()
    return (int(about.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + about.st_size.to_bytes(4, "little")


def _open_up(folder: Path) -> None:
    """Make everything readable for whoever a container runs as, whatever the umask was."""
    for parent, _folders, names in os.walk(folder):
        os.chmod(parent, 0o755)
        for name in names:
            os.chmod(os.path.join(parent, name), 0o444)
