"""Whose a process of this host is: the container that it runs in, or the job without one that started it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PROC = "/proc"

_CONTAINER = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_LONGEST_PID = 10  # digits; a container's id can consist of digits too


class _Stat(NamedTuple):
    state: str
    parent: int
    session: int


def containers_of(pid: int, proc: str = PROC) -> tuple[str, ...]:
    """Return the ids of the containers that a process runs in, the outermost first; empty for none.

    Engines name control groups ``/docker/ID`` or ``…/docker-ID.scope``, at any depth; the id is what they share.
    """
    try:
        lines = Path(proc, str(pid), "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    paths = [line.split(":", 2)[-1] for line in lines]
    return tuple(dict.fromkeys(found for path in paths for found in _CONTAINER.findall(path)))


def owners(pids: Iterable[int], native_ids: Collection[str], proc: str = PROC) -> dict[int, str]:
    """Return the native id that each process belongs to, for those that belong to one.

    Args:
        native_ids: Container ids, and process ids as digits, to which all descendants belong.
    """
    wanted = set(native_ids)
    leaders = {int(name): name for name in wanted if name.isdecimal() and len(name) <= _LONGEST_PID}
    found = {pid: _container(pid, wanted, proc) or _leader(pid, leaders, proc) for pid in pids}
    return {pid: name for pid, name in found.items() if name}


def alive(pid: int, proc: str = PROC) -> bool:
    """Return whether a process runs; a zombie does not, and one that is hidden from this user does."""
    stat = _stat(pid, proc)
    if stat is None:
        return proc == PROC and _is_hidden(pid)
    return stat.state not in "ZXx"


def _container(pid: int, wanted: Collection[str], proc: str) -> str:
    return next((name for name in containers_of(pid, proc) if name in wanted), "")


def _leader(pid: int, leaders: Mapping[int, str], proc: str) -> str:
    """Return whose descendant a process is, or whose session it is in: a parent may have ended in between."""
    seen: set[int] = set()
    while leaders and pid > 0 and pid not in seen:
        if pid in leaders:
            return leaders[pid]
        seen.add(pid)
        stat = _stat(pid, proc)
        if stat is None:
            break
        if stat.session in leaders:
            return leaders[stat.session]
        pid = stat.parent
    return ""


def _stat(pid: int, proc: str) -> _Stat | None:
    try:
        text = Path(proc, str(pid), "stat").read_text(encoding="utf-8", errors="replace")
        state, parent, _group, session = text.rpartition(")")[2].split()[:4]  # a program's name may hold ")"
        return _Stat(state, int(parent), int(session))
    except (OSError, ValueError):
        return None


def _is_hidden(pid: int) -> bool:
    """Return whether a process is there that /proc does not show, as with the mount option hidepid."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # ours, and so in /proc, were it still there
