"""What launchers report about the process that failed first. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .reading import without_prefixes

_ROOT_CAUSE = re.compile(r"^Root Cause \(first observed failure\):$", re.MULTILINE)
_TIME = re.compile(r"^\s{0,20}time {0,20}: (\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d)$", re.MULTILINE)
_RANK = re.compile(r"^\s{0,20}rank {0,20}: (\d{1,9}) \(local_rank: \d+\)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"^\s{0,20}exitcode {0,20}: (-?\d{1,5})\b", re.MULTILINE)
_OURS = re.compile(
    r"^\[dlenv\] rank (\d{1,9}) (?:\([^\n]{0,200}\) )?failed first: exit code (-?\d{1,5})\b", re.MULTILINE
)
_MPI_EXIT = re.compile(r"^\s{0,9}Process name: \[\S{1,100},(\d{1,9})\]\s{1,9}Exit code: {1,9}(\d{1,3})\b", re.MULTILINE)
_MPI_SIGNAL = re.compile(
    r"noticed that process rank (\d{1,9}) with PID \d{1,9} on node \S{1,200} exited on\s{1,3}signal (\d{1,2})\b"
)
_LAUNCHERS_OWN = re.compile(r"^torch\.distributed\.elastic\.multiprocessing\.errors\.ChildFailedError", re.MULTILINE)
_TRACEBACK = "Traceback (most recent call last):"
_BLOCK = 4000


@dataclass(frozen=True)
class Report:
    """Which process a launcher saw fail first.

    Attributes:
        rank: In the whole job.
        exit_code: As shells say it: 128 and more for a signal.
        time: When, as text that sorts; empty where the launcher does not tell.
    """

    rank: int
    exit_code: int
    time: str = ""

    def own_words(self, launcher: str) -> str:
        """Return what this process wrote into the launcher's text, as far as that can be told."""
        mark = f"[rank{self.rank}]:"
        marked = [line for line in launcher.splitlines() if line.startswith(mark)]
        if any(_TRACEBACK in line for line in marked):
            return "\n".join(marked)
        found = list(_LAUNCHERS_OWN.finditer(launcher))
        before = launcher[: found[-1].start()] if found else launcher
        return before.rpartition(_TRACEBACK)[0] if found and _TRACEBACK in before else before


def report_of(launcher_text: str) -> Report | None:
    """Return the last report in a launcher's text: torchrun's, Open MPI's, or our own program's that starts ranks."""
    text = without_prefixes(launcher_text)
    begins = [match.end() for match in _ROOT_CAUSE.finditer(text)]
    block = text[begins[-1] : begins[-1] + _BLOCK] if begins else ""
    rank, code, time = _RANK.search(block), _EXIT_CODE.search(block), _TIME.search(block)
    if rank and code:
        return Report(int(rank.group(1)), _as_shells_say(int(code.group(1))), time.group(1) if time else "")
    if exited := _OURS.search(launcher_text) or _MPI_EXIT.search(text):
        return Report(int(exited.group(1)), _as_shells_say(int(exited.group(2))))
    killed = _MPI_SIGNAL.search(text)
    return Report(int(killed.group(1)), 128 + int(killed.group(2))) if killed else None


def failing_rank(launcher_text: str) -> tuple[int, int] | None:
    """Return the rank that failed first and its exit code (128 and more for a signal), as its launcher tells it.

    None when no report of a failure is in the text.
    """
    report = report_of(launcher_text)
    return (report.rank, report.exit_code) if report else None


def _as_shells_say(number: int) -> int:
    return 128 - number if number < 0 else number
