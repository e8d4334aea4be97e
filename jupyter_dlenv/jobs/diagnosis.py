"""Exit code and last words -> cause and remedy. Pure."""

from __future__ import annotations

import re
import signal

from ..i18n import _
from ..resources import format_size
from ..spec import Reason

_ROOT_CAUSE = re.compile(r"^Root Cause \(first observed failure\):$", re.MULTILINE)
_RANK = re.compile(r"^\s*rank\s*: (\d{1,9}) \(local_rank: \d+\)$", re.MULTILINE)
_EXIT_CODE = re.compile(r"^\s*exitcode\s*: (-?\d{1,5})\b", re.MULTILINE)

_PREFIX = re.compile(r"^(?:\[rank\d+\]:(?: |$)|\[\d+\] )", re.MULTILINE)  # torch's excepthook, the merged log
_TRACEBACK = re.compile(r"^(?:  [+] Exception Group )?Traceback \(most recent call last\):$")
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
_MESSAGE_LINES = 20
_GIB = 1 << 30


def failing_rank(launcher_text: str) -> tuple[int, int] | None:
    """Return the rank that failed first and its exit code (128 and more for a signal), as torchrun tells it.

    None when torchrun's report of a failure is not in the text.
    """
    text = _PREFIX.sub("", launcher_text)
    begins = [match.end() for match in _ROOT_CAUSE.finditer(text)]
    block = text[begins[-1] :] if begins else ""
    rank, code = _RANK.search(block), _EXIT_CODE.search(block)
    if not rank or not code:
        return None
    number = int(code.group(1))
    return int(rank.group(1)), 128 - number if number < 0 else number


def last_traceback(text: str) -> str:
    """Return the last Python traceback of a text, with the exceptions that led to it; empty when there is none."""
    lines = _PREFIX.sub("", text).replace("\r", "").split("\n")
    begins = [index for index, line in enumerate(lines) if _TRACEBACK.match(line)]
    if not begins:
        return ""
    end = _end(lines, begins[-1])
    begin = begins.pop()
    while begins and _is_chained(lines, begin):
        begin = begins.pop()
    return "\n".join(lines[begin:end])


def _is_chained(lines: list[str], begin: int) -> bool:
    before = [line for line in lines[max(0, begin - 3) : begin] if line.strip()]
    return bool(before) and before[-1].strip() in _CHAINED


def _end(lines: list[str], begin: int) -> int:
    """Return where a traceback ends: after its frames and the message, which may have several lines."""
    index = begin + 1
    while index < len(lines) and lines[index].startswith(" "):
        index += 1
    limit = min(len(lines), index + _MESSAGE_LINES)
    while index < limit and lines[index].strip():
        index += 1
    return index


def explain(
    exit_code: int,
    oom_killed: bool = False,
    memory_limit: int | None = None,
    stopped_by_us: bool = False,
    timeout_s: float | None = None,
) -> tuple[Reason, str]:
    """Return why a job ended and a sentence for a person, empty when it just succeeded.

    Args:
        exit_code: As shells say it: 128 and more for a signal.
        oom_killed: Whether the kernel killed a process of the job for its memory.
        memory_limit: The job's memory limit in bytes, None or 0 for none.
        stopped_by_us: Whether its owner stopped it.
        timeout_s: The time limit in seconds when that ended it, else None.
    """
    if exit_code == 0:
        return Reason.COMPLETED, ""
    if timeout_s is not None:
        return Reason.TIMEOUT, _(
            "Stopped at its time limit of {seconds:g} s. Raise it with --timeout, and save checkpoints."
        ).format(seconds=timeout_s)
    if stopped_by_us:
        return Reason.STOPPED, _("Stopped by its owner.")
    if oom_killed:
        return Reason.OUT_OF_MEMORY, _out_of_memory(memory_limit)
    return _by_code(exit_code)


def _out_of_memory(memory_limit: int | None) -> str:
    if not memory_limit:
        return _("The host ran out of memory and killed a process. Use smaller batches or fewer loader workers.")
    return _("It needed more than its memory limit of {limit}. Raise it, for example --memory {more}.").format(
        limit=format_size(memory_limit), more=_doubled(memory_limit)
    )


def _doubled(size: int) -> str:
    """Return twice a size as ``--memory`` takes it."""
    twice = 2 * size
    return f"{-(-twice // _GIB)}g" if twice >= _GIB else f"{-(-twice // (1 << 20))}m"


def _by_code(exit_code: int) -> tuple[Reason, str]:
    known = {
        125: (Reason.ENGINE, _("Nothing was run: its run folder was not usable.")),
        126: (Reason.USER_ERROR, _("The command is there but could not be run. Is it executable?")),
        127: (Reason.USER_ERROR, _("The command was not found. Is it installed in this image?")),
        130: (Reason.KILLED, _("Interrupted from outside (SIGINT).")),
        134: (Reason.USER_ERROR, _("It aborted (SIGABRT): a native library gave up; the lines before say why.")),
        135: (
            Reason.OUT_OF_MEMORY,
            _("Bus error (SIGBUS): mostly a full /dev/shm. Raise --shm-size, or use fewer loader workers."),
        ),
        137: (
            Reason.KILLED,
            _("Killed from outside (SIGKILL), not for its memory limit: by a person, or by a host short of memory."),
        ),
        139: (
            Reason.USER_ERROR,
            _("It crashed (SIGSEGV) in native code. Set -e PYTHONFAULTHANDLER=1 to see where."),
        ),
        143: (Reason.KILLED, _("Terminated from outside (SIGTERM).")),
    }
    return known.get(exit_code) or _by_signal(exit_code - 128) or (Reason.USER_ERROR, _exited(exit_code))


def _by_signal(number: int) -> tuple[Reason, str] | None:
    if number not in set(signal.Signals):
        return None
    return Reason.USER_ERROR, _("Ended by signal {name}.").format(name=signal.Signals(number).name)


def _exited(exit_code: int) -> str:
    return _("Ended with exit code {code}.").format(code=exit_code)
