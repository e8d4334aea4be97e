"""Which GPUs can be leased now: what NVML shows, joined with who holds what. Pure, but for asking who is alive."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..i18n import _
from ..resources import format_size
from .containers import alive as is_alive
from .model import Health, Inventory, NvmlState, Unit

_UNACCOUNTED_BYTES = 256 << 20  # less is what the driver takes for itself
_SHOWN = 4


class Standing(str, Enum):
    """How a GPU stands for the next request."""

    FREE = "free"
    LEASED = "leased"
    BUSY = "busy"
    DRAINING = "draining"
    FAULTY = "faulty"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        id: Id of the kernel, job or shell.
        role: ``kernel``, ``trainer`` or ``shell``.
        native_id: The engine's name for it (a container's id), empty while it is not there yet.
        shared: Whether others may hold the same GPUs.
        ends_at: When its time limit ends it, in seconds since the epoch; None without one.
    """

    id: str
    owner: str = ""
    role: str = ""
    name: str = ""
    native_id: str = ""
    shared: bool = False
    ends_at: float | None = None


@dataclass(frozen=True)
class UnitState:
    """A GPU or MIG device as the ledger sees it.

    Attributes:
        holders: Who holds it; more than one only when all share it.
        foreign: Processes on it that compute and belong to none of its holders.
        own: Processes on it that belong to its holders, with the holder's native id.
        reason: Why it cannot be leased, one sentence; empty when it can.
    """

    unit: Unit
    standing: Standing
    holders: tuple[Holder, ...] = ()
    foreign: tuple[int, ...] = ()
    reason: str = ""
    own: Mapping[int, str] = field(default_factory=dict, hash=False)

    @property
    def shared(self) -> bool:
        """True when it is held only by those who share it."""
        return bool(self.holders) and all(holder.shared for holder in self.holders)


@dataclass(frozen=True)
class _Use:
    """What runs on a unit; ``left`` is set when something on it has ended and not yet gone."""

    own: Mapping[int, str]
    foreign: tuple[int, ...]
    left: str


def states(
    inventory: Inventory,
    leases: Mapping[str, Sequence[Holder]],
    owners: Mapping[int, str],
    alive: Callable[[int], bool] = is_alive,
    ended: Collection[str] = (),
) -> tuple[UnitState, ...]:
    """Return how each GPU stands.

    Args:
        leases: Holders by UUID.
        owners: Native id by process id, for processes that belong to a holder or to what is in ``ended``.
        alive: Tells whether a process runs: the driver lists some for a while that do not.
        ended: Native ids of what has ended and given its GPUs back; its last processes are no others' work.
    """
    return tuple(_state(inventory, unit, _holders(unit, leases), owners, alive, ended) for unit in inventory.units())


def usage(holder: Holder, states: Iterable[UnitState]) -> tuple[int | None, int | None]:
    """Return the memory in bytes that a holder uses on its GPUs, and the share of their time in per cent.

    Both are sums over its processes, the share a mean over its GPUs, so that 100 is all of them; None where the driver
    does not tell.
    """
    held = [state for state in states if holder.id in {each.id for each in state.holders}]
    told = all(each.unit.processes is not None and each.standing is not Standing.UNKNOWN for each in held)
    if not held or not holder.native_id or not told:
        return None, None
    mine = [
        process
        for state in held
        for process in state.unit.processes or ()
        if state.own.get(process.pid) == holder.native_id
    ]
    memory = [process.memory_bytes for process in mine if process.memory_bytes is not None]
    shares = [process.sm_percent for process in mine if process.sm_percent is not None]
    share = min(100, round(sum(shares) / len(held))) if shares or not mine else None
    return sum(memory) if len(memory) == len(mine) else None, share


def describe(holder: Holder) -> str:
    """Return a holder in words: ``kernel torch 1a2b3c4d of alice``."""
    kinds = {"kernel": _("kernel"), "trainer": _("job"), "shell": _("shell")}
    words = " ".join(filter(None, (kinds.get(holder.role, holder.role), holder.name, holder.id[:8])))
    return _("{what} of {owner}").format(what=words, owner=holder.owner) if holder.owner else words


def listed(holders: Iterable[Holder]) -> str:
    """Return holders in words, the first few of them, each once."""
    return _few(list({holder.id: describe(holder) for holder in holders}.values()))


def _holders(unit: Unit, leases: Mapping[str, Sequence[Holder]]) -> tuple[Holder, ...]:
    # Who holds a GPU that was split meanwhile holds its parts.
    found = [*leases.get(unit.uuid, ()), *(leases.get(unit.gpu.uuid, ()) if unit.mig else ())]
    return tuple({holder.id: holder for holder in found}.values())


def _state(
    inventory: Inventory,
    unit: Unit,
    holders: tuple[Holder, ...],
    owners: Mapping[int, str],
    alive: Callable[[int], bool],
    ended: Collection[str],
) -> UnitState:
    use = _use(unit, {holder.native_id for holder in holders}, owners, alive, ended)
    standing, reason = _standing(inventory, unit, holders, use)
    return UnitState(unit, standing, holders, use.foreign, reason, use.own)


def _standing(inventory: Inventory, unit: Unit, holders: Sequence[Holder], use: _Use) -> tuple[Standing, str]:
    if inventory.state is NvmlState.UNKNOWN:
        return Standing.UNKNOWN, inventory.message or _("The driver does not answer.")
    if unit.gpu.health is not Health.OK:
        return Standing.FAULTY, unit.gpu.problem or _("The driver reports a fault of this GPU.")
    if holders:
        return Standing.LEASED, _("Held by {holders}.").format(holders=listed(holders))
    if use.foreign:
        pids = _few([str(pid) for pid in use.foreign])
        return Standing.BUSY, _("Somebody else computes on it (host processes: {pids}).").format(pids=pids)
    return (Standing.DRAINING, use.left) if use.left else (Standing.FREE, "")


def _few(words: Sequence[str]) -> str:
    more = [_("{count} more").format(count=len(words) - _SHOWN)] if len(words) > _SHOWN else []
    return ", ".join([*words[:_SHOWN], *more])


def _use(
    unit: Unit,
    natives: Collection[str],
    owners: Mapping[int, str],
    alive: Callable[[int], bool],
    ended: Collection[str],
) -> _Use:
    processes = unit.processes or ()
    gone = {each.pid for each in processes if owners.get(each.pid, "") in ended or not alive(each.pid)}
    living = [each for each in processes if each.pid not in gone]
    own = {each.pid: owners[each.pid] for each in living if owners.get(each.pid) in natives}
    foreign = tuple(sorted({each.pid for each in living if each.computes and each.pid not in own}))
    if any(each.computes for each in processes if each.pid in gone):
        return _Use(own, foreign, _("What ran on it has ended, and the driver has not yet let go of it."))
    return _Use(own, foreign, _unaccounted(unit, [each.memory_bytes for each in living]))


def _unaccounted(unit: Unit, memory: Sequence[int | None]) -> str:
    """Return what to say of memory that nobody living accounts for; empty where there is none, or nothing is told."""
    known = [size for size in memory if size is not None]
    if unit.processes is None or unit.memory_used_bytes is None or len(known) < len(memory):
        return ""
    left = unit.memory_used_bytes - sum(known)
    if left <= _UNACCOUNTED_BYTES:
        return ""
    return _("{size} of its memory are taken, and nothing that runs accounts for them.").format(size=format_size(left))
