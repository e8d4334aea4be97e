"""What an owner notes of each kernel for the one who comes after it: beside the kernel's folder, never shown to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..errors import DLEnvError
from ..paths import kernels_dir
from ..spec import from_json, require_id


@dataclass(frozen=True)
class KernelRecord:
    """One running kernel.

    Attributes:
        kernel_id: Jupyter's name for it.
        folder_id: Names its folder; another for a kernel that came from a pool.
        environment: As its kernelspec holds it.
        key: Signs its messages.
        root: The notebook folder that it sees.
        server_root: The root folder of the server that started it; empty without a server.
        grace_s: How long it lives without an owner.
        digest: What it was started from.
        place: Where its engine has it; another server of the same person may use another engine. Empty if not noted.
        pooled: Nobody has claimed it yet.
        session: The notebook's session: id, path, name, type; empty while there is none.
    """

    kernel_id: str
    folder_id: str
    environment: Mapping[str, Any]
    key: str
    root: str
    cwd: str
    server_root: str
    grace_s: float
    digest: str = ""
    place: str = ""
    pooled: bool = False
    session: Mapping[str, str] = field(default_factory=dict)


def _path(folder_id: str) -> Path:
    return kernels_dir() / "records" / f"{require_id(folder_id)}.json"


def write(record: KernelRecord) -> None:
    """Write or replace a kernel's record, readable by its owner alone."""
    path = _path(record.folder_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_text(path, json.dumps(asdict(record)), durable=False)


def read(folder_id: str) -> KernelRecord | None:
    """Return a kernel's record; None where there is none, or another version wrote it."""
    try:
        return from_json(KernelRecord, json.loads(_path(folder_id).read_text(encoding="utf-8")))
    except (OSError, ValueError, DLEnvError):
        return None


def note_session(folder_id: str, session: Mapping[str, str]) -> None:
    """Note which notebook a kernel belongs to; writes only what has changed."""
    record = read(folder_id)
    if record is not None and dict(record.session) != dict(session):
        write(replace(record, session=dict(session)))


def forget(folder_id: str) -> None:
    """Remove a kernel's record."""
    _path(folder_id).unlink(missing_ok=True)


def every() -> list[KernelRecord]:
    """Return the records of all kernels of this user."""
    folder = kernels_dir() / "records"
    names = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    return [record for name in names if (record := _read_named(name)) is not None]


def _read_named(name: str) -> KernelRecord | None:
    try:
        return read(name)
    except DLEnvError:
        return None  # a file that somebody else put there
