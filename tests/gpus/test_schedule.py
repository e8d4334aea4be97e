"""Who of those that wait gets GPUs, and what the others are told; with a simulation that has an oracle of its own."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from jupyter_dlenv.gpus.model import Gpu, Link, Mig, Unit
from jupyter_dlenv.gpus.schedule import NEVER, Decision, Line, Stock, Waiting, places, schedule
from jupyter_dlenv.gpus.state import Holder, Standing, UnitState
from jupyter_dlenv.resources import GpuRequest

GIB = 1 << 30
NOW = 1000.0


def unit(index: int, gib: int = 80) -> Unit:
    gpu = Gpu(index, f"GPU-{index}", "test", memory_total_bytes=gib * GIB)
    return Unit(gpu.uuid, str(index), gpu)


def part(index: int, number: int) -> Unit:
    device = Mig(f"MIG-{index}-{number}", number, memory_total_bytes=10 * GIB)
    gpu = Gpu(index, f"GPU-{index}", "test", memory_total_bytes=80 * GIB, mig_enabled=True, migs=(device,))
    return Unit(device.uuid, f"{index}:{number}", gpu, device)


def row(index: int, *ends: float | None, shared: bool = False, gib: int = 80) -> UnitState:
    """Return a GPU that is held until each of the times, free without one."""
    holders = tuple(Holder(f"h{index}-{n}", shared=shared, ends_at=end) for n, end in enumerate(ends))
    return UnitState(unit(index, gib), Standing.LEASED if holders else Standing.FREE, holders)


def asks(name: str, what: str = "1", *, owner: str = "", limit: float | None = None, alive: bool = True) -> Waiting:
    """Return a request whose name tells its place: ``a`` came before ``b``."""
    shared, text = what.endswith(" shared"), what.removesuffix(" shared")
    text, _space, memory = text.partition(" ")
    request = GpuRequest.parse(text, memory=memory, shared=shared)
    return Waiting(name, owner or name, request, ord(name[0]), alive, limit)


def granted(queue: Sequence[Waiting], rows: Sequence[UnitState]) -> str:
    """Return who gets what as text: ``a:0,1 b:2``."""
    grants = schedule(queue, rows, (), NOW).grants
    return " ".join(f"{name}:{','.join(uuid[4:] for uuid in uuids)}" for name, uuids in sorted(grants.items()))


# By hand --------------------------------------------------------------------------------------------------------------


def test_first_come_first_served_whatever_the_order_of_the_list() -> None:
    assert granted([asks("b"), asks("c"), asks("a")], [row(0), row(1)]) == "a:0 b:1"
    assert granted([], [row(0)]) == granted([asks("a")], []) == ""


def test_what_is_free_is_kept_for_a_large_request() -> None:
    rows = [row(0), row(1), row(2, None), row(3, NOW + 100)]
    queue = [asks("a", "3"), asks("b"), asks("c", limit=100), asks("d", limit=101)]
    assert granted(queue, rows) == "c:0"
    (kept,) = schedule(queue[:1], rows, (), NOW).kept
    assert (kept.id, kept.uuids, kept.start) == ("a", {"GPU-0", "GPU-1", "GPU-3"}, NOW + 100)


def test_nobody_starts_on_what_is_kept_until_nobody_knows_when() -> None:
    rows = [row(0), row(1, None)]
    assert granted([asks("a", "2"), asks("b", limit=1)], rows) == ""
    assert schedule([asks("a", "2")], rows, (), NOW).kept[0].start == NEVER


def test_others_on_a_leased_gpu_end_at_no_known_time() -> None:
    rows = [row(0), replace(row(1, NOW + 10), foreign=(7,)), row(2, NOW + 20)]
    (kept,) = schedule([asks("a", "2")], rows, (), NOW).kept
    assert (kept.uuids, kept.start) == ({"GPU-0", "GPU-2"}, NOW + 20)


def test_a_holder_beyond_its_time_may_end_at_any_moment() -> None:
    rows = [row(0), row(1, NOW - 50)]
    assert schedule([asks("a", "2")], rows, (), NOW).kept[0].start == NOW
    assert granted([asks("a", "2"), asks("b", limit=1)], rows) == ""


def test_later_ones_start_on_what_is_left() -> None:
    rows = [row(0, gib=24), row(1), row(2, NOW + 60), row(3, NOW + 90)]
    queue = [asks("a", "2 40g"), asks("b"), asks("c")]
    assert granted(queue, rows) == "b:0"
    assert schedule(queue, rows, (), NOW).kept[0].uuids == {"GPU-1", "GPU-2"}


def test_requests_for_different_named_gpus_do_not_block_each_other() -> None:
    rows = [row(0, None), row(1, None), row(2), row(3)]
    assert granted([asks("a", "0,"), asks("b", "1,2"), asks("c", "3,"), asks("d", "2,"), asks("e")], rows) == "c:3"
    assert granted([asks("a", "0,"), asks("b", "2", owner="x"), asks("c")], rows) == "b:2,3"


def test_all_of_them_are_kept_for_who_wants_all() -> None:
    rows = [row(0), row(1, NOW + 60), row(2)]
    assert granted([asks("a", "all"), asks("b"), asks("c", limit=60)], rows) == "c:0"
    assert granted([asks("a", "all"), asks("b")], [row(0), row(1)]) == "a:0,1"


def test_one_owner_s_requests_for_the_same_keep_their_order() -> None:
    rows = [row(0), row(1, NOW + 100)]
    queue = [asks("a", "2"), asks("b", owner="x"), asks("c", owner="x", limit=10), asks("d", owner="y", limit=10)]
    assert granted(queue, rows) == "d:0"
    assert granted([asks("b", owner="x"), asks("c", owner="x")], [row(0)]) == "b:0"


def test_sharers_join_sharers_and_nobody_else() -> None:
    rows = [row(0, None, shared=True), row(1, None)]
    assert granted([asks("a", "1 shared"), asks("b", "1 shared"), asks("c")], rows) == "a:0 b:0"
    assert granted([asks("a", "1 shared"), asks("b", "1 shared"), asks("c")], [row(0)]) == "a:0 b:0"


def test_sharers_do_not_starve_who_wants_a_gpu_alone() -> None:
    rows = [row(0, None, None, shared=True), row(1, None, shared=True)]
    queue = [asks("a"), asks("b", "2 shared"), asks("c", "1 shared")]
    assert granted(queue, rows) == "c:0"  # GPU 1 empties for a
    assert granted([asks("a"), asks("b", "1, shared")], rows) == ""


def test_who_has_nobody_to_start_it_gets_and_keeps_nothing() -> None:
    rows = [row(0), row(1, None)]
    assert granted([asks("a", "2", alive=False), asks("b")], rows) == "b:0"
    queue = [asks("a", owner="x", alive=False), asks("b", owner="x")]
    assert granted(queue, rows) == "b:0"


def test_who_wants_a_gpu_that_is_gone_keeps_nothing() -> None:
    rows = [row(0), row(1, None)]
    assert granted([asks("a", "3"), asks("b", "7,"), asks("c", "2 90g"), asks("d")], rows) == "d:0"
    rows[1] = replace(rows[1], standing=Standing.FAULTY)
    assert granted([asks("a", "2"), asks("b", "all")], rows) == "b:0"


def test_nothing_starts_while_the_driver_does_not_answer() -> None:
    rows = [replace(row(0), standing=Standing.UNKNOWN), replace(row(1), standing=Standing.UNKNOWN)]
    assert granted([asks("a"), asks("b", "1+busy")], rows) == ""


def test_busy_gpus_are_for_those_who_ask_for_them() -> None:
    rows = [replace(row(0), standing=Standing.BUSY, foreign=(7,)), replace(row(1), standing=Standing.DRAINING)]
    assert granted([asks("a"), asks("b", "1+busy"), asks("c", "1+busy")], rows) == "b:0"
    (kept,) = schedule([asks("a"), asks("b", "1+busy")], rows, (), NOW).kept
    assert (kept.id, kept.uuids, kept.start) == ("a", {"GPU-1"}, NEVER)
    assert granted([asks("b", "1+busy"), asks("c", "1+busy")], rows) == "b:1 c:0"


def test_the_best_connected_ones_are_granted() -> None:
    links = [Link("GPU-1", "GPU-3", nvlinks=2)]
    assert schedule([asks("a", "2")], [row(index) for index in range(4)], links, NOW).grants == {
        "a": ("GPU-1", "GPU-3")
    }


def test_mig_devices_serve_when_no_whole_gpu_does() -> None:
    rows = [row(0, NOW + 10), *(UnitState(part(1, number), Standing.FREE) for number in range(2))]
    assert granted([asks("a", "2"), asks("b"), asks("c", "1 40g")], rows) == "a:1-0,1-1"
    (kept,) = schedule([asks("a", "3")], rows, (), NOW).kept or (None,)
    assert kept is None


# What people are told -------------------------------------------------------------------------------------------------


def test_places_count_those_ahead_who_would_start() -> None:
    queue = [asks("a", "2"), asks("b", "2", alive=False), asks("c"), asks("d", "9"), asks("e", limit=5)]
    found = places(queue, [row(0), row(1, NOW + 100)], (), NOW)
    assert {name: place.position for name, place in found.items()} == {"a": 1, "b": 2, "c": 2, "d": 3, "e": 4}
    assert found["a"].reason.startswith("--gpus 2: 1 of 2 GPUs are free (held by")
    assert (found["a"].kept_for, found["a"].starts_at) == ("", NOW + 100)
    assert "jupyter dlenv agent" in found["b"].reason
    assert (found["c"].kept_for, found["c"].starts_at) == ("a", None)
    assert found["c"].reason == "--gpus 1: what is free is kept for a, which was asked for earlier."
    assert found["d"].reason.startswith("--gpus 9: 2 of the 2 GPUs")
    assert "starts now" in found["e"].reason


def test_a_full_host_tells_when_the_first_starts() -> None:
    queue = [asks("a"), asks("b", owner="x"), asks("c", owner="x")]
    found = places(queue, [row(0, NOW + 30), row(1, NOW + 20)], (), NOW)
    assert [found[name].starts_at for name in "abc"] == [NOW + 20, None, None]
    assert found["b"].reason == found["c"].reason != ""
    assert places(queue, [row(0, None)], (), NOW)["a"].starts_at is None


def test_everybody_has_a_place_on_a_host_that_lost_its_gpus() -> None:
    assert set(places([asks("a"), asks("b", "all"), asks("c", "0,")], [], (), NOW)) == {"a", "b", "c"}


def test_a_line_forgets_who_was_taken_out_and_takes_others_in_where_they_belong() -> None:
    line = Line([asks("c", owner="x"), asks("b", owner="x"), asks("a", owner="x", alive=False)])
    line.remove("nobody")
    assert [each.id for each in line] == ["a", "b", "c"]
    assert list(schedule(line, [row(0)], (), NOW).grants) == ["b"]
    line.remove("b")
    assert list(schedule(line, [row(0)], (), NOW).grants) == ["c"]
    line.remove("c")
    assert list(schedule(line, [row(0)], (), NOW).grants) == []
    line.add(asks("d"))
    assert list(schedule(line, [row(0)], (), NOW).grants) == ["d"]


# Simulated ------------------------------------------------------------------------------------------------------------

HOST = [*(unit(index, 80 if index < 6 else 24) for index in range(10)), part(10, 0), part(10, 1)]
LINKS = [Link(f"GPU-{index}", f"GPU-{index + 1}", nvlinks=4) for index in range(0, 8, 2)]
WISHES = (
    "1",
    "1",
    "1",
    "2",
    "2",
    "4",
    "8",
    "all",
    "0,",
    "3,4",
    "8,9",
    "10:1",
    "1 40g",
    "4 40g",
    "1 shared",
    "2 shared",
)


@dataclass
class World:
    """A host with its queue, told from the outside: who holds what until when, and who waits.

    Attributes:
        ends: When each holder really ends, by id.
        promised: Earliest time by which each was promised to have started.
    """

    held: dict[str, list[Waiting]] = field(default_factory=lambda: {each.uuid: [] for each in HOST})
    began: dict[str, float] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    queue: dict[str, Waiting] = field(default_factory=dict)
    promised: dict[str, float] = field(default_factory=dict)

    def state(self, each: Unit) -> UnitState:
        holders = tuple(self._holder(waiting) for waiting in self.held[each.uuid])
        return UnitState(each, Standing.LEASED if holders else Standing.FREE, holders)

    def _holder(self, waiting: Waiting) -> Holder:
        end = None if waiting.limit_s is None else self.began[waiting.id] + waiting.limit_s
        return Holder(waiting.id, waiting.owner, shared=waiting.request.shared, ends_at=end)

    def available(self, request: GpuRequest, kept: Collection[str] = ()) -> set[str]:
        """Return what a request could take, read off the rules."""
        sharers = {uuid for uuid, by in self.held.items() if by and all(each.request.shared for each in by)}
        free = {uuid for uuid, by in self.held.items() if not by}
        return (free | sharers if request.shared else free) - set(kept)

    def can_start(self, request: GpuRequest, kept: Collection[str] = ()) -> bool:
        there = self.available(request, kept)
        if request.names:
            return {each.uuid for each in HOST if each.name in request.names} <= there
        fits = [each for each in HOST if (each.memory_total_bytes or 0) >= request.min_memory_bytes]
        whole, parts = ({each.uuid for each in fits if (each.mig is None) is kind} for kind in (True, False))
        if request.every:
            return whole <= there
        return max(len(whole & there), len(parts & there)) >= request.count

    def end(self, now: float) -> set[str]:
        """End those whose time has come; return the GPUs that they had."""
        over = {name for name, end in self.ends.items() if end <= now}
        had = {uuid for uuid, by in self.held.items() for each in by if each.id in over}
        for uuid in had:
            self.held[uuid] = [each for each in self.held[uuid] if each.id not in over]
        self.ends = {name: end for name, end in self.ends.items() if name not in over}
        return had


def arrivals(dice: random.Random, count: int) -> list[tuple[float, Waiting]]:
    found, now = [], 0.0
    for number in range(count):
        now += dice.expovariate(0.3)
        limit = dice.choice((None, dice.uniform(1, 60)))
        waiting = asks("x", dice.choice(WISHES), owner=dice.choice("pqr"), limit=limit, alive=dice.random() > 0.05)
        found.append((now, replace(waiting, id=f"{number}", sequence=number)))
    return found


def check(world: World, decision: Decision, now: float, dice: random.Random) -> None:
    """Start who is granted GPUs, and fail where a rule is broken."""
    for name, uuids in decision.grants.items():
        waiting = world.queue.pop(name)
        request = waiting.request
        assert waiting.alive
        assert set(uuids) <= world.available(request), "given twice"
        assert len(set(uuids)) == len(uuids) == (10 if request.every else request.count)
        units = {each.uuid: each for each in HOST}
        assert all((units[uuid].memory_total_bytes or 0) >= request.min_memory_bytes for uuid in uuids)
        assert not request.names or [units[uuid].name for uuid in uuids] == list(request.names)
        assert request.names or len({units[uuid].mig is None for uuid in uuids}) == 1, "both kinds in one set"
        assert now <= world.promised.pop(name, NEVER), "promised earlier"
        world.began[name] = now
        world.ends[name] = now + (dice.uniform(0.2, 1) * waiting.limit_s if waiting.limit_s else dice.uniform(1, 60))
        for uuid in uuids:
            world.held[uuid].append(waiting)
    check_those_who_wait(world, decision)


def check_those_who_wait(world: World, decision: Decision) -> None:
    kept = [uuid for each in decision.kept for uuid in each.uuids]
    assert len(kept) == len(set(kept)), "kept for two"
    assert all(world.queue[each.id].alive for each in decision.kept)
    first: dict[tuple[str, GpuRequest], Waiting] = {}
    for waiting in sorted((each for each in world.queue.values() if each.alive), key=lambda each: each.sequence):
        first.setdefault((waiting.owner, waiting.request), waiting)
    for waiting in first.values():
        assert not world.can_start(waiting.request, kept), "idle GPUs that nobody else needs"
    earliest = min((each.sequence for each in first.values()), default=-1)
    for waiting in first.values():
        assert waiting.sequence != earliest or not world.can_start(waiting.request), "the first waits for nothing"
    for each in decision.kept[:1]:
        world.promised[each.id] = min(world.promised.get(each.id, NEVER), each.start)


def in_order(decision: Decision, before: Mapping[str, Waiting]) -> bool:
    """Tell whether no owner's request was overtaken by a later one for the same."""
    left = [each for each in before.values() if each.id not in decision.grants and each.alive]
    return not any(
        (each.owner, each.request) == (before[name].owner, before[name].request)
        for name in decision.grants
        for each in left
        if each.sequence < before[name].sequence
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_simulated_host_keeps_the_rules(seed: int) -> None:
    dice, world = random.Random(seed), World()
    coming = arrivals(dice, 60)
    living = {waiting.id for _time, waiting in coming if waiting.alive}
    line, stock = Line(), Stock(world.state(each) for each in HOST)
    while coming or world.ends:
        now = min([time for time, _waiting in coming[:1]] + list(world.ends.values()))
        ended = world.end(now)
        for each in HOST:
            if each.uuid in ended:
                stock.put(world.state(each))
        if coming and coming[0][0] <= now:
            _time, waiting = coming.pop(0)
            world.queue[waiting.id] = waiting
            line.add(waiting)
        before, states = dict(world.queue), [world.state(each) for each in HOST]
        decision = schedule(list(world.queue.values()), states, LINKS, now)
        told = places(line, states, LINKS, now)
        assert in_order(decision, before)
        assert schedule(line, stock, LINKS, now).grants == decision.grants
        assert {name for name, place in told.items() if "starts now" in place.reason} == set(decision.grants)
        check(world, decision, now, dice)
        for name in decision.grants:
            line.remove(name)
        assert [each for each in world.queue.values() if told[each.id].position < 1 or not told[each.id].reason] == []
    assert set(world.began) == living, "somebody never started"


@pytest.mark.parametrize(("limit", "wish"), [(None, "4"), (5.0, "4"), (5.0, "all"), (None, "all")])
def test_a_stream_of_small_ones_does_not_starve_a_large_one(limit: float | None, wish: str) -> None:
    rows = {each.uuid: UnitState(each, Standing.FREE) for each in (unit(index) for index in range(4))}
    ends: dict[str, float] = {}
    queue = [Waiting("large", "x", GpuRequest.parse(wish), 2)]
    for second in range(20):
        for uuid in [uuid for uuid, end in ends.items() if end <= second]:
            rows[uuid] = replace(rows[uuid], standing=Standing.FREE, holders=())
            del ends[uuid]
        small = [Waiting(f"{second}-{n}", f"{n}", GpuRequest(1), second * 10 + n, limit_s=limit) for n in range(3)]
        queue += small
        grants = schedule(queue, list(rows.values()), (), second).grants
        if "large" in grants:
            break
        for name, uuids in grants.items():
            end = second + 5.0
            ends |= dict.fromkeys(uuids, end)
            holder = Holder(name, ends_at=None if limit is None else end)
            rows |= {uuid: replace(rows[uuid], standing=Standing.LEASED, holders=(holder,)) for uuid in uuids}
        queue = [each for each in queue if each.id not in grants]
    assert second <= 5
