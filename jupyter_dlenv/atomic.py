"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_text(
    path: Path, text: str, mode: int = 0o600, owner: tuple[int, int] | None = None, *, durable: bool = True
) -> None:
    """Replace a file's text so that a reader, or a crash, sees the old text or the new one.

    What need not outlive the host's next start is not ``durable``, and costs no wait for a disk.
    Mode and owner (uid, gid) are set on the open file, never by its name, which a container's user may exchange.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
            os.fchmod(file.fileno(), mode)
            if owner is not None:
                os.fchown(file.fileno(), *owner)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
