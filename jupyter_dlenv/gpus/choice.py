"""Which GPUs a request gets. Pure.

By UUID, never by count, because Docker turns a count into GPUs 0..N-1 for everybody.

Of the sets that would do, the best-connected one is taken: NVLink lanes between its GPUs come first, then nearness on
the bus, then the same NUMA node. Among equals it is the set with the least memory, so that large GPUs stay free for
those who need them; then the one that tears the fewest connections to GPUs that stay free; then the lowest indices.

Somebody who shares gets a free GPU while there is one, and else the one with the fewest holders: a shared GPU gives
each only a part of its memory and time, and packing sharers while GPUs idle would help nobody who is there now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from ..errors import NoGpu
from ..i18n import _
from ..resources import GpuRequest, format_size
from .connections import Connections, best
from .model import Link, Unit
from .state import Standing, UnitState, listed

_USED = {Standing.DRAINING: 1000, Standing.BUSY: 1001}  # behind any number of sharers
_GIB = 1 << 30


def choose(
    request: GpuRequest, states: Sequence[UnitState], links: Sequence[Link], barred: Collection[str] = ()
) -> tuple[str, ...] | None:
    """Return the UUIDs that a request gets now, None when it has to wait.

    Args:
        barred: UUIDs that are kept for others.
    """
    ways = [
        (needed(request, rows), [row for row in rows if row.unit.uuid not in barred])
        for rows in alternatives(request, states)
    ]
    return select(request, ways, links, states)


def select(
    request: GpuRequest,
    ways: Iterable[tuple[int, Sequence[UnitState]]],
    links: Sequence[Link],
    others: Iterable[UnitState],
) -> tuple[str, ...] | None:
    """Return the UUIDs that a request gets of what it could be met from, None when it has to wait.

    Args:
        ways: How many it takes, and of which.
        others: All GPUs, for the sake of those that stay free.
    """
    options = []
    for count, rows in ways:
        ranked = [(rank, row) for row in rows if (rank := rank_of(request, row)) is not None]
        if len(ranked) >= count > 0:
            options.append((sorted(rank for rank, _row in ranked)[count - 1], count, ranked))
    if not options:
        return None
    _worst, count, ranked = min(options, key=lambda option: option[0])  # whole GPUs stand before MIG devices
    if len(ranked) == count:
        return tuple(row.unit.uuid for _rank, row in ranked)
    free = (row.unit for row in others if row.standing is Standing.FREE)
    return _pick(ranked, count, Connections(links, free))


def _pick(ranked: Sequence[tuple[int, UnitState]], count: int, connections: Connections) -> tuple[str, ...]:
    """Return the best of more than enough, those of a better rank before all others."""
    chosen: list[Unit] = []
    for rank in sorted({rank for rank, _row in ranked}):
        units = [row.unit for each, row in ranked if each == rank]
        if len(chosen) + len(units) > count:
            units = best(chosen, units, count - len(chosen), connections)
        chosen += units
        if len(chosen) == count:
            break
    uuids = {unit.uuid for unit in chosen}
    return tuple(row.unit.uuid for _rank, row in ranked if row.unit.uuid in uuids)


def alternatives(request: GpuRequest, states: Sequence[UnitState]) -> list[list[UnitState]]:
    """Return what a request could be met from if nobody held anything: whole GPUs, and else MIG devices.

    Each list has enough; there is none when the request cannot be met here. Never both kinds in one, because a program
    sees a single MIG device and no GPU beside it.
    """
    if request.names:
        found = _named(request, states)
        distinct = {row.unit.uuid for row in found}
        return [found] if len(distinct) == len(request.names) and all(_will_do(request, row) for row in found) else []
    fitting = [row for row in states if _will_do(request, row)]
    kinds = [[row for row in fitting if row.unit.mig is None], [row for row in fitting if row.unit.mig is not None]]
    enough = [rows for rows in kinds if len(rows) >= max(1, request.count)]
    return enough[:1] if request.every else enough


def needed(request: GpuRequest, rows: Sequence[UnitState]) -> int:
    """Return how many of an alternative a request takes."""
    return len(rows) if request.every or request.names else request.count


def rank_of(request: GpuRequest, state: UnitState) -> int | None:
    """Return how willingly a request takes a GPU now, 0 for a free one; None when it may not."""
    if state.standing is Standing.FREE:
        return 0
    if state.standing is Standing.LEASED and request.shared and state.shared:
        return len(state.holders) if request.busy or not state.foreign else None
    return _USED.get(state.standing) if request.busy else None


def require_possible(request: GpuRequest, states: Sequence[UnitState], message: str = "") -> None:
    """Return when a request can be met on this host, now or later.

    Args:
        message: What the driver says when it shows no GPU.

    Raises:
        NoGpu: What is asked for and what there is, with a command that works.
    """
    if not request.wanted or alternatives(request, states):
        return
    if not states:
        text = _("{asked}: this host has no GPU that the driver shows ({found}).")
        raise NoGpu(text.format(asked=asked(request), found=message or _("no device")), hint=_on_cpu())
    raise _wrong_name(request, states) or _too_much(request, states)


def why_not(request: GpuRequest, states: Sequence[UnitState]) -> str:
    """Return one sentence that says why a request cannot be met now."""
    rows = [row for rows in alternatives(request, states) for row in rows] or [
        row for row in (_named(request, states) if request.names else states) if _fits(request, row.unit)
    ]
    taken = [row for row in rows if rank_of(request, row) is None]
    text = _("{asked}: {free} of {all} GPUs are free").format(
        asked=asked(request), free=len(rows) - len(taken), all=len(rows)
    )
    details = "; ".join(_details(taken))
    return f"{text} ({details})." if details else f"{text}."


def asked(request: GpuRequest) -> str:
    """Return a request as options of a command."""
    memory = f" --gpu-memory {_size(request.min_memory_bytes)}" if request.min_memory_bytes else ""
    return f"--gpus {request}{memory}" + (" --shared" if request.shared else "")


def may_keep(request: GpuRequest, state: UnitState, job_id: str) -> bool:
    """Return whether a job may go on with a GPU that it has just had; what drains there is its own."""
    if state.standing in (Standing.FAULTY, Standing.UNKNOWN) or (state.foreign and not request.busy):
        return False
    others = [holder for holder in state.holders if holder.id != job_id]
    return not others or (request.shared and all(holder.shared for holder in others))


def _size(size: int) -> str:
    """Return a size as people write it in an option; what is not even is told a little smaller."""
    for scale, letter in ((_GIB, "g"), (1 << 20, "m")):
        if size % scale == 0:
            return f"{size // scale}{letter}"
    return f"{size >> 20}m" if size >= 1 << 20 else str(size)


def _named(request: GpuRequest, states: Sequence[UnitState]) -> list[UnitState]:
    """Return what is named, in the order of the names."""
    by_name = {row.unit.name: row for row in states} | {row.unit.uuid: row for row in states}
    return [by_name[name] for name in request.names if name in by_name]


def _will_do(request: GpuRequest, state: UnitState) -> bool:
    return state.standing is not Standing.FAULTY and _fits(request, state.unit)


def _fits(request: GpuRequest, unit: Unit) -> bool:
    """Return whether a unit has what is asked for; what the driver does not tell, it does not have."""
    memory, capability = request.min_memory_bytes, request.min_capability
    if memory and (unit.memory_total_bytes or 0) < memory:
        return False
    return capability == (0, 0) or (unit.gpu.capability or (0, 0)) >= capability


def _details(taken: Sequence[UnitState]) -> list[str]:
    counts = Counter(row.standing for row in taken)
    holders = [holder for row in taken for holder in row.holders]
    found = [_("held by {holders}").format(holders=listed(holders))] if holders else []
    texts = {
        Standing.BUSY: _("{count} busy with other processes"),
        Standing.DRAINING: _("{count} draining"),
        Standing.FAULTY: _("{count} faulty"),
        Standing.UNKNOWN: _("{count} of which the driver says nothing"),
    }
    return found + [text.format(count=counts[standing]) for standing, text in texts.items() if counts[standing]]


# What cannot be -------------------------------------------------------------------------------------------------------


def _wrong_name(request: GpuRequest, states: Sequence[UnitState]) -> NoGpu | None:
    """Return what is wrong with a request's names, None when they are right."""
    known = {name for row in states for name in (row.unit.name, row.unit.uuid)}
    for name in request.names:
        if name not in known:
            return _no_such(name, request, states)
    uuids = [row.unit.uuid for row in _named(request, states)]
    once = tuple(dict.fromkeys(uuids))
    if len(once) == len(uuids):
        return None
    hint = _remedy(request, states, GpuRequest(len(once), names=once))
    return NoGpu(_("{asked}: a GPU is named twice.").format(asked=asked(request)), hint=hint)


def _no_such(name: str, request: GpuRequest, states: Sequence[UnitState]) -> NoGpu:
    units = [row.unit for row in states]
    parts = [unit for unit in units if unit.mig and name in (unit.gpu.uuid, str(unit.gpu.index))]
    if parts:
        text = _("{asked}: GPU {name} is split into MIG devices and cannot be had whole. They are: {migs}")
        text = text.format(asked=asked(request), name=name, migs=", ".join(unit.uuid for unit in parts))
        return NoGpu(text, hint=_remedy(request, states, *(GpuRequest(1, names=(unit.uuid,)) for unit in parts)))
    text = _("{asked}: there is no GPU {name} here. There are: {names}")
    text = text.format(asked=asked(request), name=name, names=", ".join(unit.name for unit in units))
    return NoGpu(text, hint=_remedy(request, states, *(GpuRequest(1, names=(unit.name,)) for unit in units)))


def _too_much(request: GpuRequest, states: Sequence[UnitState]) -> NoGpu:
    """Return what is wrong with a request that asks for more, or for better ones, than there are."""
    rows = _named(request, states) if request.names else list(states)
    fitting = [row for row in rows if _will_do(request, row)]
    text = _("{asked}: {count} of the {all} GPUs in question have what is asked for.").format(
        asked=asked(request), count=len(fitting), all=len(rows)
    )
    notes = [_note(row) for row in rows if not _will_do(request, row)]
    return NoGpu("\n".join([text, *notes[:8]]), hint=_remedy(request, states))


def _note(row: UnitState) -> str:
    unit = row.unit
    size = format_size(unit.memory_total_bytes) if unit.memory_total_bytes else _("n/a")
    capability = "{}.{}".format(*unit.gpu.capability) if unit.gpu.capability else _("n/a")
    text = _("GPU {name}: {size}, compute capability {capability}").format(
        name=unit.name, size=size, capability=capability
    )
    return f"{text}. {row.reason}" if row.standing is Standing.FAULTY else text


def _remedy(request: GpuRequest, states: Sequence[UnitState], *better: GpuRequest) -> str:
    """Return options that this host can meet and that are nearest to those that it cannot."""
    for wish in (*better, *_lesser(request, states)):
        if alternatives(wish, states):
            return asked(wish)
    return _on_cpu()


def _lesser(request: GpuRequest, states: Sequence[UnitState]) -> Iterable[GpuRequest]:
    def wish(count: int, memory: int, capability: tuple[int, int]) -> GpuRequest:
        return GpuRequest(
            count, busy=request.busy, shared=request.shared, min_memory_bytes=memory, min_capability=capability
        )

    memory, capability = request.min_memory_bytes, request.min_capability
    largest = max((row.unit.memory_total_bytes or 0 for row in states), default=0)
    for count in range(min(len(states), request.count or 1), 0, -1):
        yield wish(count, memory, capability)
    if memory and largest >= _GIB:
        yield wish(1, largest // _GIB * _GIB, capability)
    yield wish(1, 0, capability)
    yield wish(1, 0, (0, 0))


def _on_cpu() -> str:
    return _("Run on the CPU: leave --gpus out and give --nproc N. What there is: jupyter dlenv gpus")
