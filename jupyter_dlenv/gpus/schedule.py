"""Who of those that wait for GPUs gets them now. Pure.

First come, first served, with backfill. A request that cannot start yet has GPUs kept for it: those that it can use and
that are free, and of the others those that are free soonest, as far as time limits tell. Who came later starts on what
is left, or on kept GPUs if its own time limit ends it before they are all there. So a large request never starves: from
the moment on at which it is first in its line, what becomes free stays free for it.

One request is kept for per set of GPUs that would do, the first that is blocked. Requests for different named GPUs, or
for large ones and for any, are lines of their own, so that none of them waits for another's luck. Keeping for every
request of a line instead would hold back more than it protects.

Within one owner's requests for the same, nobody is overtaken at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from ..errors import NoGpu
from ..i18n import _
from ..resources import GpuRequest
from .choice import asked, require_possible, why_not
from .line import Line, Shape, Waiting
from .model import Link
from .state import Holder, Standing, UnitState
from .stock import NEVER, Stock

__all__ = ["NEVER", "Decision", "Kept", "Line", "Place", "Stock", "Waiting", "places", "schedule"]


@dataclass(frozen=True)
class Kept:
    """GPUs kept for a request.

    Attributes:
        id: The request.
        uuids: What is kept.
        start: When all of it is free at the latest, in seconds since the epoch; ``NEVER`` when nobody knows.
    """

    id: str
    uuids: frozenset[str]
    start: float


@dataclass(frozen=True)
class Decision:
    """What a look at the queue decides.

    Attributes:
        grants: UUIDs by the ids of those who start now.
        kept: What is kept for those who wait.
    """

    grants: Mapping[str, tuple[str, ...]]
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a request stands in the queue.

    Attributes:
        position: 1 for the first of those whom somebody would start.
        reason: Why it waits, one sentence.
        kept_for: Id of the request for which what it could use is kept; empty when nothing is.
        starts_at: When it starts at the latest, in seconds since the epoch; None when nobody knows.
    """

    position: int
    reason: str
    kept_for: str = ""
    starts_at: float | None = None


def schedule(
    queue: Line | Iterable[Waiting], states: Stock | Iterable[UnitState], links: Sequence[Link], now: float
) -> Decision:
    """Return who starts now, and with which GPUs.

    Args:
        states: How the GPUs stand; in a stock, those that are granted are leased afterwards.
        now: Seconds since the epoch.
    """
    return _Look(queue, states, links, now).decide()


def places(
    queue: Line | Iterable[Waiting], states: Iterable[UnitState], links: Sequence[Link], now: float
) -> dict[str, Place]:
    """Return each request's place in the queue by id; this goes through all of them."""
    line = queue if isinstance(queue, Line) else Line(queue)
    look = _Look(line, Stock(states), links, now)
    decision = look.decide(explain=True)
    starts = {kept.id: kept.start for kept in decision.kept if now < kept.start < NEVER}
    found, position = {}, 1
    for waiting in line:
        if waiting.id in decision.grants:
            place = Place(position, _("The GPUs are there; it starts now."))
        elif waiting.alive:
            told = look.told[waiting.owner, waiting.request]
            place = Place(position, told.reason, told.kept_for, starts.get(waiting.id))
        else:
            place = Place(position, _nobody())
        found[waiting.id] = place
        position += waiting.alive
    return found


class _Look:
    """One look at the queue: grants and what is kept are counted in as it goes on.

    Attributes:
        told: Why the first of each owner and request waits.
    """

    def __init__(
        self, queue: Line | Iterable[Waiting], states: Stock | Iterable[UnitState], links: Sequence[Link], now: float
    ) -> None:
        self.told: dict[tuple[str, GpuRequest], Place] = {}
        self._line = queue if isinstance(queue, Line) else Line(queue)
        self._stock = states if isinstance(states, Stock) else Stock(states)
        self._links, self._now = links, now
        self._grants: dict[str, tuple[str, ...]] = {}
        self._kept: list[Kept] = []
        self._spare = set(self._stock.open)  # what is kept for nobody
        self._lines: set[frozenset[str]] = set()
        self._failed: set[tuple[GpuRequest, tuple[int, ...]]] = set()
        self._reasons: dict[tuple[GpuRequest, tuple[int, ...]], Place] = {}

    def decide(self, *, explain: bool = False) -> Decision:
        """Go through the queue as far as anything can come of it, or to its end for the sake of reasons."""
        heap = [_entry(shape, shape.heads, 0) for shape in self._line.shapes.values() if shape.heads]
        heapify(heap)
        while heap and (self._stock.open or explain):
            _sequence, _id, index, rest, shape = heappop(heap)
            waiting = rest[index]
            bars = self._bars(waiting)
            uuids = self._try(shape.request, bars)
            if uuids is None:
                if explain:
                    self.told[waiting.owner, waiting.request] = self._why(shape.request, bars)
                if explain or self._spare:
                    self._keep(waiting.id, shape.request)
                if not explain:
                    rest, index = self._others(shape.request, self._bars(waiting), rest[index + 1 :]), -1
            else:
                self._grant(waiting, uuids)
                if following := shape.after(waiting):
                    heappush(heap, _entry(shape, [following], 0))
            if index + 1 < len(rest):
                heappush(heap, _entry(shape, rest, index + 1))
        return Decision(self._grants, tuple(self._kept))

    def _try(self, request: GpuRequest, bars: tuple[int, ...]) -> tuple[str, ...] | None:
        key = request, bars
        if key in self._failed:
            return None
        uuids = self._stock.choose(request, self._links, self._there(bars))
        if uuids is None:
            self._failed.add(key)
        return uuids

    def _others(self, request: GpuRequest, bars: tuple[int, ...], rest: list[Waiting]) -> list[Waiting]:
        """Return who of the rest might get what one did not get: those whom a shorter limit lets use what is kept."""
        starts = [self._kept[index].start for index in bars if self._kept[index].start < NEVER]
        longest = max(starts, default=0) - self._now
        found = [each for each in rest if each.limit_s is not None and each.limit_s <= longest]
        return found if found and self._stock.could(request) else []

    def _bars(self, waiting: Waiting) -> tuple[int, ...]:
        """Return what is kept from a request, by position: all that it would not give back in time."""
        end = NEVER if waiting.limit_s is None else self._now + waiting.limit_s
        return tuple(index for index, kept in enumerate(self._kept) if not end <= kept.start < NEVER)

    def _there(self, bars: tuple[int, ...]) -> set[str]:
        """Return what could be had, less what is kept."""
        if len(bars) == len(self._kept):
            return self._spare
        return self._stock.open.difference(*(self._kept[index].uuids for index in bars))

    def _grant(self, waiting: Waiting, uuids: tuple[str, ...]) -> None:
        self._grants[waiting.id] = uuids
        ends_at = None if waiting.limit_s is None else self._now + waiting.limit_s
        holder = Holder(waiting.id, waiting.owner, shared=waiting.request.shared, ends_at=ends_at)
        for uuid in uuids:
            row = self._stock.rows[uuid]
            self._stock.put(replace(row, standing=Standing.LEASED, holders=(*row.holders, holder)))
        self._spare &= self._stock.open

    def _keep(self, waiting_id: str, request: GpuRequest) -> None:
        """Keep GPUs for a request that is blocked, if it is the first of its line; nothing is kept for two.

        Where nothing is spare, it makes no difference to what is decided.
        """
        line = self._stock.line(request)
        if not line or line in self._lines:
            return
        self._lines.add(line)
        barred = frozenset[str]().union(*(kept.uuids for kept in self._kept))
        plans = [self._stock.plan(request, way, barred, self._now) for way in self._stock.ways(request)]
        start, uuids = min(plans, key=lambda plan: plan[0])
        self._kept.append(Kept(waiting_id, uuids, start))
        self._spare -= uuids

    def _why(self, request: GpuRequest, bars: tuple[int, ...]) -> Place:
        if (request, bars) not in self._reasons:
            self._reasons[request, bars] = self._reason(request, bars)
        return self._reasons[request, bars]

    def _reason(self, request: GpuRequest, bars: tuple[int, ...]) -> Place:
        rows = list(self._stock.rows.values())
        try:
            require_possible(request, rows)
        except NoGpu as error:
            return Place(0, error.message)
        could_have = self._stock.choose(request, self._links, self._stock.open)
        if could_have is None:
            return Place(0, why_not(request, rows))
        kept = next(self._kept[index] for index in bars if self._kept[index].uuids & set(could_have))
        text = _("{asked}: what is free is kept for {id}, which was asked for earlier.")
        return Place(0, text.format(asked=asked(request), id=kept.id[:8]), kept.id)


def _entry(shape: Shape, rest: list[Waiting], index: int) -> tuple[int, str, int, list[Waiting], Shape]:
    return rest[index].sequence, rest[index].id, index, rest, shape


def _nobody() -> str:
    return _("Nobody is there who would start it: no server and no agent of its owner (jupyter dlenv agent) runs.")
