"""Which records of ended jobs are removed: the oldest, beyond an age and beyond a size."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .records import JobFolder, every_job, readable

_DAY_S = 86400.0


@dataclass(frozen=True)
class Kept:
    """An ended job's folder.

    Attributes:
        ended_at: Seconds since the epoch.
        size_bytes: What it takes on the disk.
    """

    folder: JobFolder
    ended_at: float
    size_bytes: int


def too_much(kept: Iterable[Kept], now: float, *, most_days: float, most_bytes: int) -> list[Kept]:
    """Return what is removed, the oldest first; 0 is no limit. Pure."""
    newest_first = sorted(kept, key=lambda each: each.ended_at, reverse=True)
    size, removed = 0, []
    for each in newest_first:
        size += each.size_bytes
        old = most_days > 0 and now - each.ended_at > most_days * _DAY_S
        if old or 0 < most_bytes < size:
            removed.append(each)
    return removed[::-1]


def remove_old_jobs(owner: str, *, most_days: float, most_bytes: int) -> int:
    """Remove an owner's ended jobs beyond the limits, and return how many they were."""
    if not (most_days > 0 or most_bytes > 0):
        return 0
    ended = [
        Kept(folder, final.status.finished_at or record.created_at, _size_of(folder.path))
        for folder in every_job()
        if (final := folder.final()) and (record := readable(folder)) and record.owner == owner
    ]
    removed = too_much(ended, time.time(), most_days=most_days, most_bytes=most_bytes)
    for each in removed:
        each.folder.remove()
    return len(removed)


def _size_of(folder: Path) -> int:
    """Return the blocks that a folder's files take; the left-out middle of a log takes none."""
    sizes = (
        os.lstat(os.path.join(path, name)).st_blocks * 512
        for path, _folders, names in os.walk(folder)
        for name in names
    )
    return sum(sizes)
