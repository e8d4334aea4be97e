"""What requests can get and when, kept ready for callers that look often. Decides alone; nothing is read or written."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

from ..resources import GpuRequest
from .choice import alternatives, needed, rank_of, select
from .model import Link
from .state import Standing, UnitState

NEVER = float("inf")
_STRANGERS = 1000  # count like more holders than a GPU ever has: nothing of ours ends them
_OPEN = (Standing.FREE, Standing.BUSY, Standing.DRAINING)


@dataclass(frozen=True)
class Way:
    """GPUs from which a request could be met if nobody held any, and how many of them it takes."""

    uuids: frozenset[str]
    order: tuple[str, ...]
    needed: int


class Stock:
    """The GPUs of a host by how they stand; a change costs no look at all of them.

    Attributes:
        rows: States by UUID.
        open: What some request could get as it is now; others may want it free, or alone.
    """

    def __init__(self, states: Iterable[UnitState] = ()) -> None:
        self.rows: dict[str, UnitState] = {}
        self.open: set[str] = set()
        self._foreign: set[str] = set()
        self._position: dict[str, int] = {}
        self._soonest: list[tuple[float, int, int, str]] = []
        self._ways: dict[GpuRequest, list[Way]] = {}
        self._lines: dict[GpuRequest, frozenset[str]] = {}
        for state in states:
            self.put(state)

    def put(self, state: UnitState) -> None:
        """Take a GPU in, or how it stands now."""
        uuid = state.unit.uuid
        old = self.rows.get(uuid)
        if old is None:
            self._position[uuid] = len(self._position)
        elif old.standing is not Standing.FREE:
            del self._soonest[bisect_left(self._soonest, self._entry(old))]
        if old is None or old.unit is not state.unit or Standing.FAULTY in (old.standing, state.standing):
            self._ways.clear()
            self._lines.clear()
        self.rows[uuid] = state
        if state.standing is not Standing.FREE:
            insort(self._soonest, self._entry(state))
        (self.open.add if _is_open(state) else self.open.discard)(uuid)
        (self._foreign.add if state.foreign else self._foreign.discard)(uuid)

    def ways(self, request: GpuRequest) -> list[Way]:
        """Return the ways to meet a request; none when it cannot be met here."""
        if request not in self._ways:
            found = []
            for rows in alternatives(request, list(self.rows.values())):
                order = tuple(row.unit.uuid for row in rows)
                found.append(Way(frozenset(order), order, needed(request, rows)))
            self._ways[request] = found
        return self._ways[request]

    def line(self, request: GpuRequest) -> frozenset[str]:
        """Return all that a request could be met from; empty when it cannot be met here."""
        if request not in self._lines:
            first, *others = [way.uuids for way in self.ways(request)] or [frozenset[str]()]
            self._lines[request] = first.union(*others)
        return self._lines[request]

    def choose(self, request: GpuRequest, links: Sequence[Link], there: AbstractSet[str]) -> tuple[str, ...] | None:
        """Return the UUIDs that a request gets now, None when it has to wait.

        Args:
            there: What it may get of what is open: some may be kept for others.
        """
        if not there:
            return None
        usable = [(way, way.uuids & there) for way in self.ways(request) if len(there) >= way.needed]
        enough = [(way.needed, self._in_order(way, found)) for way, found in usable if len(found) >= way.needed]
        if not enough:
            return None
        return select(request, enough, links, (self.rows[uuid] for uuid in self.open))

    def could(self, request: GpuRequest) -> bool:
        """Return whether there might be enough now, if nothing were kept for anybody."""
        ways = [way for way in self.ways(request) if len(self.open) >= way.needed]
        return any(len(way.uuids & self.open) >= way.needed for way in ways)

    def plan(self, request: GpuRequest, way: Way, barred: AbstractSet[str], now: float) -> tuple[float, frozenset[str]]:
        """Return when a request has GPUs enough at the latest, ``NEVER`` when nobody knows, and which it gets first.

        Args:
            barred: UUIDs that do not count because they are kept for others.
        """
        ready = [uuid for uuid in way.uuids & (self.open - barred) if self._rank(request, uuid) is not None]
        later = way.uuids.difference(ready, barred)
        known = later if request.busy else later - self._foreign
        lacking = way.needed - len(ready)
        sure = list(islice((entry for entry in self._soonest if entry[-1] in known and entry[0] < NEVER), lacking))
        if len(sure) == lacking:
            return max(now, sure[-1][0] if sure else now), frozenset([*ready, *(entry[-1] for entry in sure)])
        # Of those that nobody knows an end of, the ones with the fewest holders, so that it is the same each time.
        later = later.difference(entry[-1] for entry in sure)
        unsure = islice((entry for entry in self._soonest if entry[-1] in later), lacking - len(sure))
        return NEVER, frozenset([*ready, *(entry[-1] for entry in [*sure, *unsure])])

    def _rank(self, request: GpuRequest, uuid: str) -> int | None:
        return rank_of(request, self.rows[uuid])

    def _in_order(self, way: Way, uuids: frozenset[str]) -> list[UnitState]:
        """Return rows as a person named them, or as they were put in."""
        named = way.needed == len(way.order)
        order = way.order if named else sorted(uuids, key=self._position.__getitem__)
        return [self.rows[uuid] for uuid in order]

    def _entry(self, state: UnitState) -> tuple[float, int, int, str]:
        """Return a key that sorts what is taken by when it will be free, as far as anybody knows."""
        uuid, end = state.unit.uuid, NEVER
        if state.standing is Standing.LEASED:
            end = max(NEVER if holder.ends_at is None else holder.ends_at for holder in state.holders)
        hold = len(state.holders) if state.standing in (Standing.LEASED, Standing.DRAINING) else _STRANGERS
        return end, hold, self._position[uuid], uuid


def _is_open(state: UnitState) -> bool:
    return state.standing in _OPEN or (state.standing is Standing.LEASED and state.shared)
