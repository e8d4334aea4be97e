"""Which GPUs belong together: how well sets of them are connected, and the best of such sets. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import comb

from .model import Link, Path, Unit

# A connection is one number of three digits: NVLink lanes, nearness on the bus, the same NUMA node. Sums of connections
# then compare like the sums of each digit, the first digit first.
_LANE = 1 << 64
_NEAR = 1 << 32
_FARTHEST = 60
_SAME_GPU = (_FARTHEST - Path.SAME_BOARD) * _NEAR

_MOST_SETS = 20_000
_MOST_SEEDS = 64
_UNKNOWN_MEMORY = 1 << 60

_Rating = tuple[int, int, int, tuple[int, ...]]
"""The smallest is best: how well connected, memory, what is torn, positions."""


class Connections:
    """How units are connected.

    Args:
        links: Of the GPUs.
        free: What nobody holds; a set should tear few connections to what stays of it.
    """

    def __init__(self, links: Iterable[Link], free: Iterable[Unit] = ()) -> None:
        self._bus: dict[str, dict[str, int]] = defaultdict(dict)
        for link in links:
            near = 0 if link.path is None else max(0, _FARTHEST - link.path)
            weight = link.nvlinks * _LANE + near * _NEAR
            self._bus[link.first][link.second] = self._bus[link.second][link.first] = weight
        self._not_counted = free
        self._free: Counter[str] = Counter()
        self._nodes: Counter[int | None] = Counter()

    def between(self, first: Unit, second: Unit) -> int:
        """Return how well two units are connected; more is better."""
        if first.gpu.uuid == second.gpu.uuid:
            return _SAME_GPU + 1
        weight = _usable(first, self._bus.get(first.gpu.uuid, {}).get(second.gpu.uuid, 0))
        return weight + (first.gpu.numa_node is not None and first.gpu.numa_node == second.gpu.numa_node)

    def to_free(self, unit: Unit) -> int:
        """Return how well a free unit is connected to all others that are free."""
        for each in self._not_counted:
            self._free[each.gpu.uuid] += 1
            self._nodes[each.gpu.numa_node] += 1
        self._not_counted = ()
        others = self._bus.get(unit.gpu.uuid, {}).items()
        weight = sum(_usable(unit, each) * self._free[other] for other, each in others if other in self._free)
        neighbours = 0 if unit.gpu.numa_node is None else max(0, self._nodes[unit.gpu.numa_node] - 1)
        return weight + max(0, self._free[unit.gpu.uuid] - 1) * _SAME_GPU + neighbours

    def all_alike(self, units: Sequence[Unit]) -> bool:
        """Return whether it does not matter for connections which of the units are taken."""
        gpus = {unit.gpu.uuid for unit in units}
        alone = len(gpus) == len(units) and len({unit.gpu.numa_node for unit in units}) <= 1
        return alone and (not self._bus or gpus.isdisjoint(self._bus))


def best(chosen: Sequence[Unit], units: Sequence[Unit], count: int, connections: Connections) -> list[Unit]:
    """Return so many of the units that go best with each other and with those chosen already."""
    if connections.all_alike([*chosen, *units]):
        return sorted(units, key=_memory)[:count]
    if comb(len(units), count) <= _MOST_SETS:
        return _Search(chosen, units, connections).exhaustive(count)
    return _Search(chosen, units, connections).greedy(count)


class _Search:
    """Compares sets of units, which it knows by their positions."""

    def __init__(self, chosen: Sequence[Unit], units: Sequence[Unit], connections: Connections) -> None:
        self._units = units
        self._between = connections.between
        self._memory = [_memory(unit) for unit in units]
        self._free = [connections.to_free(unit) for unit in units]
        self._given = [sum(connections.between(unit, each) for each in chosen) for unit in units]
        self._anywhere = not chosen

    def exhaustive(self, count: int) -> list[Unit]:
        """Look at every set."""
        size = range(len(self._units))
        pairs = combinations(size, 2) if count > 1 else ()
        table = {(a, b): self._between(self._units[a], self._units[b]) for a, b in pairs}

        def rating(found: tuple[int, ...]) -> _Rating:
            return self._rating(found, sum(table[pair] for pair in combinations(found, 2)))

        return [self._units[index] for index in min(combinations(size, count), key=rating)]

    def greedy(self, count: int) -> list[Unit]:
        """Let sets grow from several beginnings, each by the unit that fits best, and return the best of them."""
        *_rating, found = min(self._grown(seed, count) for seed in self._seeds())
        return [self._units[index] for index in found]

    def _seeds(self) -> Sequence[int | None]:
        if not self._anywhere:
            return [None]
        seen = {(self._units[i].gpu.numa_node, self._memory[i], self._free[i]): i for i in range(len(self._units))}
        every = range(len(self._units)) if len(self._units) <= _MOST_SEEDS else seen.values()
        return sorted(every)[:_MOST_SEEDS]

    def _grown(self, seed: int | None, count: int) -> _Rating:
        gains, within = [0] * len(self._units), 0
        found: list[int] = []
        left = dict.fromkeys(range(len(self._units)))
        while len(found) < count:
            fit = min(left, key=lambda i: (-gains[i] - self._given[i], self._memory[i], self._free[i], i))
            index = fit if found or seed is None else seed
            within += gains[index]
            found.append(index)
            del left[index]
            for other in left:
                gains[other] += self._between(self._units[index], self._units[other])
        return self._rating(tuple(sorted(found)), within)

    def _rating(self, found: tuple[int, ...], within: int) -> _Rating:
        connected = within + sum(self._given[index] for index in found)
        torn = sum(self._free[index] for index in found) - 2 * within
        return -connected, sum(self._memory[index] for index in found), torn, found


def _usable(unit: Unit, weight: int) -> int:
    return weight % _LANE if unit.mig else weight  # MIG devices have no NVLink


def _memory(unit: Unit) -> int:
    size = unit.memory_total_bytes
    return _UNKNOWN_MEMORY if size is None else size
