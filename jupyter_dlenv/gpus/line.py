"""Those who wait for GPUs, in lines. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..resources import GpuRequest


@dataclass(frozen=True)
class Waiting:
    """A request that waits.

    Attributes:
        id: Of the kernel, job or shell.
        sequence: Smaller came earlier.
        alive: Whether somebody is there who would start it.
        limit_s: Seconds after which a time limit ends it, None without one.
    """

    id: str
    owner: str
    request: GpuRequest
    sequence: int
    alive: bool = True
    limit_s: float | None = None


class Shape:
    """Those who wait for the same, by owner.

    Attributes:
        heads: The first of each owner whom somebody would start, in the order of the queue.
    """

    def __init__(self, request: GpuRequest) -> None:
        self.request = request
        self.heads: list[Waiting] = []
        self._members: dict[str, list[Waiting]] = {}
        self._head: dict[str, Waiting] = {}

    def add(self, waiting: Waiting) -> None:
        """Take a request in."""
        insort(self._members.setdefault(waiting.owner, []), waiting, key=_order)
        self._refresh(waiting.owner)

    def remove(self, waiting: Waiting) -> None:
        """Take a request out."""
        members = self._members[waiting.owner]
        del members[bisect_left(members, _order(waiting), key=_order)]
        self._refresh(waiting.owner)

    def after(self, waiting: Waiting) -> Waiting | None:
        """Return the next of the same owner whom somebody would start."""
        members = self._members[waiting.owner]
        begin = bisect_right(members, _order(waiting), key=_order)
        return next((members[index] for index in range(begin, len(members)) if members[index].alive), None)

    def _refresh(self, owner: str) -> None:
        old, new = self._head.pop(owner, None), next((each for each in self._members[owner] if each.alive), None)
        if new is not None:
            self._head[owner] = new
        if old is new:
            return
        if old is not None:
            del self.heads[bisect_left(self.heads, _order(old), key=_order)]
        if new is not None:
            insort(self.heads, new, key=_order)


class Line:
    """Those who wait, for callers that look often: a look does not go through all of them."""

    def __init__(self, waiting: Iterable[Waiting] = ()) -> None:
        self.shapes: dict[GpuRequest, Shape] = {}
        self._waiting: dict[str, Waiting] = {}
        for each in waiting:
            self.add(each)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(sorted(self._waiting.values(), key=_order))

    def add(self, waiting: Waiting) -> None:
        """Take a request in, at the place that its sequence gives it."""
        self._waiting[waiting.id] = waiting
        self.shapes.setdefault(waiting.request, Shape(waiting.request)).add(waiting)

    def remove(self, waiting_id: str) -> None:
        """Take a request out; nothing happens when it is not there."""
        waiting = self._waiting.pop(waiting_id, None)
        if waiting is not None:
            self.shapes[waiting.request].remove(waiting)


def _order(waiting: Waiting) -> tuple[int, str]:
    return waiting.sequence, waiting.id
