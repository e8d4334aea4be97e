"""Whether a running job seems to hang: nothing written for long, and nothing computed meanwhile. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..i18n import _

_SPINNING_PERCENT = 95
_BUSY_CORES = 0.02
_NAMED_RANKS = 4
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Pulse:
    """What a running job did lately.

    Attributes:
        silent_s: For how long its log has not grown, and no progress bar moved.
        gpus: How many GPUs it has.
        gpus_still_s: For how long :func:`is_still` was true of all of them, None where they cannot tell.
        cores: CPU cores that its containers used on average while it was silent, None where nobody measured.
        ranks: For how long each rank has been silent, by its rank in the whole job.
    """

    silent_s: float
    gpus: int = 0
    gpus_still_s: float | None = None
    cores: float | None = None
    ranks: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stall:
    """What is said about a job that seems to hang.

    Attributes:
        message: What was seen, in a sentence.
        remedy: Where to look.
        ranks: Those that have been silent longest, the longest first.
    """

    message: str
    remedy: str
    ranks: tuple[int, ...] = ()


def is_still(utilization_percent: int | None, memory_percent: int | None) -> bool:
    """Tell whether a GPU does nothing: it is idle, or spins in a collective call without touching its memory.

    A rank that waits for another in NCCL keeps its GPU at 100 %, with hardly any access to memory.
    """
    if utilization_percent is None:
        return False
    return utilization_percent == 0 or (utilization_percent >= _SPINNING_PERCENT and memory_percent == 0)


def stalled(job: str, pulse: Pulse, after_s: float) -> Stall | None:
    """Return what to say about a running job that seems to hang, None while there is no reason to say anything.

    Args:
        job: What commands call it: its name or id.
        after_s: How long it may be silent and still; 0 or less for ever.
    """
    if after_s <= 0 or pulse.silent_s < after_s or not _still(pulse, after_s):
        return None
    quiet = _quietest(pulse.ranks)
    said = (
        _("No line for {minutes} min and its GPUs are idle: a rank may hang.")
        if pulse.gpus
        else _("No line for {minutes} min and hardly any CPU in use: it may hang.")
    )
    message = said.format(minutes=int(pulse.silent_s // _MINUTE_S))
    if quiet:
        named = ", ".join(f"{rank}" for rank in quiet[:_NAMED_RANKS])
        message += " " + _("Silent longest: rank {ranks}.").format(ranks=named)
    return Stall(message, _remedy(job, pulse), quiet)


def _still(pulse: Pulse, after_s: float) -> bool:
    if pulse.gpus:
        return pulse.gpus_still_s is not None and pulse.gpus_still_s >= after_s
    return pulse.cores is not None and pulse.cores < _BUSY_CORES


def _quietest(ranks: Mapping[int, float]) -> tuple[int, ...]:
    """Return the ranks that stopped clearly before the others; none where all stopped together."""
    if len(ranks) < 2:
        return ()
    longest = max(ranks.values())
    early = [rank for rank, silent_s in ranks.items() if silent_s > min(ranks.values()) + 1 and silent_s > longest - 1]
    return tuple(sorted(early, key=lambda rank: (-ranks[rank], rank)))


def _remedy(job: str, pulse: Pulse) -> str:
    look = _("Look: jupyter dlenv shell {job}, there py-spy dump --pid PID.").format(job=job)
    if not pulse.gpus:
        return look
    return look + " " + _("Next time with -e NCCL_DEBUG=INFO -e TORCH_NCCL_TRACE_BUFFER_SIZE=2000.")
