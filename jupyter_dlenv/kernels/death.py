"""Why a kernel ended, in words that help. Pure."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from ..i18n import _
from ..resources import format_size
from ..spec import JobState, JobStatus, Reason

_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno 28\]|\[Errno 122\]")
_SIGKILL, _SIGSEGV = 137, 139


@dataclass(frozen=True)
class Death:
    """The end of a kernel that nobody asked for.

    Attributes:
        exit_code: None when nobody saw it.
        message: Why it ended, and what helps.
        last_lines: What it wrote last.
        at: Seconds since the epoch, as the engine says it.
    """

    exit_code: int | None
    message: str
    last_lines: str
    at: float | None

    def text(self) -> str:
        """Return all of it, for a log or a notebook."""
        if not self.last_lines:
            return self.message
        return f"{self.message}\n" + _("The last lines it wrote:") + f"\n{self.last_lines}"


@dataclass(frozen=True)
class Circumstances:
    """What was seen around an end.

    Attributes:
        out_of_memory: Docker told that the kernel's memory limit made it kill a process.
        memory_limit, memory_peak: Bytes, None where there is none or nobody knows.
        daemon_gone: Docker did not answer when the kernel stopped listening.
    """

    environment: str
    out_of_memory: bool = False
    memory_limit: int | None = None
    memory_peak: int | None = None
    daemon_gone: bool = False


def explain_death(status: JobStatus, last_lines: str, seen: Circumstances) -> Death:
    """Return the end of a kernel as a person can understand it."""
    head = _("The kernel of {environment} ended.").format(environment=seen.environment)
    return Death(status.exit_code, f"{head} {_cause(status, last_lines, seen)}", last_lines, status.finished_at)


def _cause(status: JobStatus, last_lines: str, seen: Circumstances) -> str:
    if seen.daemon_gone:
        return _("Docker is gone, so nobody saw why. Look at: systemctl status docker")
    if seen.out_of_memory and status.exit_code == _SIGKILL:
        return _memory(seen)
    if _DISK_FULL.search(last_lines):
        return _("The disk is full, so it could not write. Make room: df -h; docker system df; jupyter dlenv doctor")
    if status.reason is Reason.REMOVED:
        return _("Its container was removed from outside (docker rm, or a prune).")
    if status.state is JobState.SUCCEEDED:
        return _("It exited by itself with exit code 0, as after exit() or quit().")
    if status.exit_code == _SIGSEGV:
        return _("It crashed in native code (SIGSEGV, exit code 139); its last lines say where.")
    return _("Exit code {code}. {message}").format(code=status.exit_code, message=status.message)


def _memory(seen: Circumstances) -> str:
    if not seen.memory_limit:
        return _("The host ran out of memory and killed it. Use smaller batches, or set limits with --memory.")
    peak = seen.memory_peak or seen.memory_limit
    more = f"jupyter dlenv env add {shlex.quote(seen.environment)} --memory {_doubled_gib(seen.memory_limit)} ..."
    return _("Out of memory: its limit is {limit}, its peak was {peak}. Raise the limit: {command}").format(
        limit=format_size(seen.memory_limit), peak=format_size(peak), command=more
    )


def _doubled_gib(limit: int) -> str:
    mebibytes = -(-2 * limit // (1 << 20))
    return f"{-(-mebibytes // 1024)}g" if mebibytes >= 1024 else f"{mebibytes}m"
