"""The command becomes a process: its environment, its secrets, and why it could not."""

import errno
import json
import os
import signal
import sys

from .signals import HANDLED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    Outputs = Optional[Tuple[int, int]]


OWN_IP = "{own-ip}"


class CannotStart(Exception):
    """The command did not become a process.

    Attributes:
        exit_code: 127 for a missing program, 126 for one that cannot run, as shells say it; 125 for our own trouble.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def environment(launch: "Dict[str, Any]", secrets: "Dict[str, str]") -> "Dict[bytes, bytes]":
    """Return the command's environment: ours as it was before Python touched it, the launch's, the secrets."""
    result = dict(os.environb)
    try:
        with open("/proc/self/environ", "rb") as file:
            if b"\0LC_CTYPE=" not in b"\0" + file.read():
                result.pop(b"LC_CTYPE", None)  # Python sets it in the C locale
    except OSError:
        pass  # no /proc: the variable does no harm
    for key, value in list(launch["env"].items()) + list(secrets.items()):
        result[raw(key)] = raw(value)
    return result


def own_ip_wanted(launch: "Dict[str, Any]") -> bool:
    """Tell whether a variable holds this replica's address."""
    return any(OWN_IP in value for env in _environments(launch) for value in env.values())


def fill_in_own_ip(launch: "Dict[str, Any]", address: str) -> None:
    """Put this replica's address into the variables that want it."""
    for env in _environments(launch):
        env.update((key, value.replace(OWN_IP, address)) for key, value in list(env.items()))


def _environments(launch: "Dict[str, Any]") -> "List[Dict[str, str]]":
    return [launch["env"]] + [process.get("env", {}) for process in launch.get("processes") or ()]


def take_secrets(run_dir: bytes) -> "Dict[str, str]":
    """Return what secrets.json holds, and remove it before the command could read it.

    Raises:
        CannotStart: It is there and cannot be read or removed.
    """
    path = os.path.join(run_dir, b"secrets.json")
    try:
        with open(path, encoding="utf-8") as file:
            secrets = dict(json.load(file))
        os.unlink(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CannotStart(125, f"The secrets could not be taken: {error}.") from error
    return secrets


def start(argv: "List[bytes]", env: "Dict[bytes, bytes]", cwd: bytes, outputs: "Outputs" = None) -> int:
    """Start a command in a session of its own and return its process id.

    ``outputs`` are descriptors for its standard output and error, ours without them.

    Raises:
        CannotStart: It did not become a process.
    """
    reader, writer = os.pipe()
    pid = _fork(os.fsdecode(argv[0]))
    if not pid:
        _become(argv, env, cwd, outputs, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as report:
        failure = report.read()  # ends when the new program begins: the pipe does not survive it
    if failure:
        os.waitpid(pid, 0)
        raise cannot_start(failure[:1], int(failure[1:]), argv[0].decode("utf-8", "replace"), cwd)
    return pid


def start_own(run: "Callable[[], int]", outputs: "Outputs") -> int:
    """Start a function of ours as a command, which saves an interpreter's start, and return its process id.

    It ends with what the function returns, and has no file open that a command would not have.

    Raises:
        CannotStart: It did not become a process.
    """
    pid = _fork(run.__name__)
    if pid:
        return pid
    try:
        _begin_session(outputs)
        for name in os.listdir("/proc/self/fd"):
            if not _inherited(int(name)):
                os.close(int(name))
        os._exit(run())
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(125)


def _fork(what: str) -> int:
    try:
        return os.fork()
    except OSError as error:
        raise CannotStart(125, f"No process for {what}: {error.strerror}.") from error


def _inherited(descriptor: int) -> bool:
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return True  # the one that the list was read from, closed since


def cannot_start(step: bytes, code: int, program: str, cwd: bytes) -> CannotStart:
    """Return the error for what the new process could not do."""
    if step == b"d":
        return CannotStart(126, f"The working folder {os.fsdecode(cwd)}: {os.strerror(code)}.")
    if code not in (errno.ENOENT, errno.ENOTDIR):
        return CannotStart(126, f"{program} cannot be run: {os.strerror(code)}.")
    if "/" in program and os.path.exists(program):
        return CannotStart(127, f"{program} cannot be run: the interpreter named in its first line is missing.")
    return CannotStart(127, f"{program}: no such program.")


def _become(argv: "List[bytes]", env: "Dict[bytes, bytes]", cwd: bytes, outputs: "Outputs", writer: int) -> None:
    """Turn this forked process into the command. Never returns."""
    step = b"d"
    try:
        _begin_session(outputs)
        os.chdir(cwd)
        step = b"x"
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(writer, step + str(error.errno).encode())
    except ValueError:  # a NUL, or a variable without a name
        os.write(writer, step + str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def _begin_session(outputs: "Outputs") -> None:
    """Give this forked process what a command begins with: a session, usual signals, no input, its outputs."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for signum in (*HANDLED, signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores the last two
        signal.signal(signum, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, output in zip((1, 2), outputs or (1, 2)):
        os.dup2(output, descriptor)


def raw(text: str) -> bytes:
    """Return a text's bytes; what was no UTF-8 is again what it was."""
    return text.encode("utf-8", "surrogateescape")
