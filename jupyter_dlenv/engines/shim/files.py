"""The files of a run folder that tell who lives and how it went."""

import contextlib
import fcntl
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

ALIVE, DONE, FIRST, LAUNCH, RESULT, STOP = b"alive", b"done", b"first", b"launch.json", b"result.json", b"stop"
LAUNCHER_LOG = "raw/launcher.log"


def folder_of(index: int) -> str:
    """Return the folder of a replica below the run folder, empty or with a slash at its end."""
    return f"node-{index}/" if index else ""


def hold_alive(folder: bytes) -> None:
    """Lock a replica's ``alive`` for as long as this process lives; it is there from the first moment on locked."""
    new = os.path.join(folder, ALIVE + b".new")
    with contextlib.suppress(OSError):  # a file system without locks: nobody sees this replica vanish
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(new, os.path.join(folder, ALIVE))


def create(path: bytes, data: bytes = b"") -> bool:
    """Make a file that must not be there yet; False where it is, or the disk refuses it."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        os.write(descriptor, data)
    os.close(descriptor)
    return True


def read_json(path: bytes) -> "Dict[str, Any]":
    """Return the object that a file holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds something else.
    """
    with open(path, "rb") as file:
        value = json.loads(file.read().decode("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{os.fsdecode(path)} holds no object")
    return value
