"""Whether a folder of a runtime is as it was made: every file by size and SHA-256, at little cost for each start.

Hashing all takes a second, so it is done once for each start of the host, which is when a file system may have lost
something. After that only the folders' time stamps are compared, which change whenever an entry comes or goes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path

from ..atomic import write_text

FILES = "files.json"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def note_files(folder: Path) -> None:
    """Write down size and hash of every file, in the folder itself."""
    paths = [Path(parent, name) for parent, _folders, names in os.walk(folder) for name in names if name != FILES]
    files = {str(path.relative_to(folder)): (path.stat().st_size, sha256(path)) for path in paths}
    (folder / FILES).unlink(missing_ok=True)  # it may be a link to another folder's
    (folder / FILES).write_text(json.dumps(files), encoding="utf-8")


def damaged_files(folder: Path) -> list[str]:
    """Return the files that are missing or not as they were noted."""
    try:
        files = json.loads((folder / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [FILES]
    return [name for name, (size, digest) in files.items() if not _is_intact(folder / name, size, digest)]


def is_whole(folder: Path) -> bool:
    """Return whether a folder is there and undamaged, and remember that it is."""
    if not folder.is_dir():
        return False
    if _is_as_remembered(folder):
        return True
    if damaged_files(folder):
        return False
    remember(folder)
    return True


def remember(folder: Path) -> None:
    """Note that a folder is whole as it is now."""
    folders = {parent: os.stat(parent).st_mtime_ns for parent, _folders, _names in os.walk(folder)}
    write_text(_stamp(folder), json.dumps({"boot": _boot(), "folders": folders}), mode=0o600)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_intact(path: Path, size: int, digest: str) -> bool:
    try:
        return path.lstat().st_size == size and sha256(path) == digest
    except OSError:
        return False


def _stamp(folder: Path) -> Path:
    # One a host: several may share a home, and each has its own start.
    return folder.parent / f"{folder.name}.{platform.node()}.checked"


def _is_as_remembered(folder: Path) -> bool:
    try:
        seen = json.loads(_stamp(folder).read_text(encoding="utf-8"))
        return bool(seen["boot"] == _boot()) and all(
            os.stat(parent).st_mtime_ns == changed for parent, changed in seen["folders"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def _boot() -> str:
    """Return what is another with each start of the host, empty where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
