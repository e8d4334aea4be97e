"""Which GPUs a request gets, and what it is told when it cannot get them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import pytest

from jupyter_dlenv.errors import NoGpu
from jupyter_dlenv.gpus.choice import asked, choose, may_keep, require_possible, why_not
from jupyter_dlenv.gpus.model import Gpu, Link, Mig, Path, Unit
from jupyter_dlenv.gpus.state import Holder, Standing, UnitState
from jupyter_dlenv.resources import GpuRequest

GIB = 1 << 30
ALONE = Holder("1a2b3c4d-x", "alice", "kernel", "torch")
SHARER = replace(ALONE, shared=True)


def unit(index: int, gib: int | None = 80, *, numa: int | None = None, cc: tuple[int, int] | None = (8, 0)) -> Unit:
    size = None if gib is None else gib * GIB
    return Unit(
        f"GPU-{index}",
        str(index),
        Gpu(index, f"GPU-{index}", "test", numa_node=numa, memory_total_bytes=size, capability=cc),
    )


def mig(index: int, part: int, gib: int = 10) -> Unit:
    device = Mig(f"MIG-{index}-{part}", part, memory_total_bytes=gib * GIB)
    whole = Gpu(index, f"GPU-{index}", "test", memory_total_bytes=80 * GIB, mig_enabled=True, migs=(device,))
    return Unit(device.uuid, f"{index}:{part}", whole, device)


def free(units: Iterable[Unit]) -> list[UnitState]:
    return [UnitState(each, Standing.FREE) for each in units]


def host(count: int, **standings: Standing | Holder) -> list[UnitState]:
    """Return GPUs, free but for those named g0, g1, ..."""
    rows = free(unit(index) for index in range(count))
    for name, what in standings.items():
        row = rows[int(name[1:])]
        if isinstance(what, Holder):
            rows[int(name[1:])] = replace(row, standing=Standing.LEASED, holders=(what,))
        else:
            rows[int(name[1:])] = replace(row, standing=what)
    return rows


def chosen(text: str, rows: Sequence[UnitState], links: Sequence[Link] = (), **more: bool) -> str | None:
    """Return the indices that a request gets, as text."""
    found = choose(GpuRequest.parse(text, **more), rows, links)
    return None if found is None else ",".join(uuid.removeprefix("GPU-") for uuid in found)


def linked(*pairs: tuple[int, int], lanes: int = 0, path: Path | None = None) -> list[Link]:
    return [Link(f"GPU-{first}", f"GPU-{second}", lanes, path) for first, second in pairs]


# What is available ----------------------------------------------------------------------------------------------------


def test_nothing_is_chosen_when_nothing_is_asked_or_too_few_are_free() -> None:
    assert choose(GpuRequest(), host(2), ()) is None
    assert chosen("2", host(2, g0=ALONE)) is None
    assert chosen("1", host(2, g0=ALONE)) == "1"


@pytest.mark.parametrize("standing", [Standing.FAULTY, Standing.UNKNOWN, Standing.LEASED])
def test_what_is_faulty_unknown_or_leased_is_never_taken(standing: Standing) -> None:
    assert chosen("1+busy", host(1, g0=ALONE if standing is Standing.LEASED else standing), shared=True) is None


def test_busy_gpus_are_taken_when_asked_for_and_after_the_free_ones() -> None:
    rows = host(4, g0=Standing.BUSY, g1=Standing.DRAINING)
    assert [chosen(text, rows) for text in ("2", "3", "2+busy", "3+busy", "4+busy")] == [
        "2,3",
        None,
        "2,3",
        "1,2,3",
        "0,1,2,3",
    ]


def test_sharers_take_free_gpus_first_and_then_those_with_the_fewest_holders() -> None:
    rows = host(4, g0=SHARER, g1=SHARER, g2=ALONE)
    rows[0] = replace(rows[0], holders=(SHARER, replace(SHARER, id="b")))
    assert [chosen(str(count), rows, shared=True) for count in (1, 2, 3, 4)] == ["3", "1,3", "0,1,3", None]
    assert chosen("2", rows) is None


def test_a_shared_gpu_with_foreign_processes_counts_as_busy() -> None:
    rows = [replace(row, foreign=(7,)) for row in host(1, g0=SHARER)]
    assert (chosen("1", rows, shared=True), chosen("1+busy", rows, shared=True)) == (None, "0")


def test_all_are_all_that_work_and_only_together() -> None:
    assert chosen("all", host(3, g1=Standing.FAULTY)) == "0,2"
    assert chosen("all", host(3, g1=ALONE)) is None
    assert chosen("all", host(3, g1=Standing.UNKNOWN)) is None
    assert choose(GpuRequest(every=True), [], ()) is None


def test_names_are_uuids_or_indices_in_the_order_asked() -> None:
    rows = [*host(2), *free([mig(2, 0), mig(2, 1)])]
    assert choose(GpuRequest.parse("2:1,GPU-1,0"), rows, ()) == ("MIG-2-1", "GPU-1", "GPU-0")
    assert choose(GpuRequest.parse("MIG-2-0"), rows, ()) == ("MIG-2-0",)
    assert choose(GpuRequest.parse("0,GPU-0"), rows, ()) is None
    assert choose(GpuRequest.parse("7,"), rows, ()) is None
    assert choose(GpuRequest.parse("0,1"), rows, (), {"GPU-1"}) is None


def test_whole_gpus_come_before_mig_devices_and_never_both() -> None:
    rows = [*free([mig(0, 0), mig(0, 1), mig(0, 2)]), *host(2)]
    assert [choose(GpuRequest(count), rows, ()) for count in (1, 2, 3, 4)] == [
        ("GPU-0",),
        ("GPU-0", "GPU-1"),
        ("MIG-0-0", "MIG-0-1", "MIG-0-2"),
        None,
    ]
    assert choose(GpuRequest(every=True), rows, ()) == ("GPU-0", "GPU-1")
    assert choose(GpuRequest(every=True), rows[:3], ()) == ("MIG-0-0", "MIG-0-1", "MIG-0-2")


def test_a_free_mig_device_comes_before_a_busy_gpu() -> None:
    rows = [*host(1, g0=Standing.BUSY), *free([mig(1, 0)])]
    assert choose(GpuRequest(1, busy=True), rows, ()) == ("MIG-1-0",)


def test_least_memory_and_capability_hold_for_each_and_unknown_is_not_enough() -> None:
    rows = free([unit(0, 24), unit(1, 80), unit(2, None), unit(3, 80, cc=(9, 0)), unit(4, 80, cc=None)])
    forty, hopper = GpuRequest(1, min_memory_bytes=40 * GIB), GpuRequest(1, min_capability=(8, 9))
    assert choose(forty, rows, ()) == ("GPU-1",)
    assert choose(replace(forty, count=4), rows, ()) is None
    assert choose(hopper, rows, ()) == ("GPU-3",)
    assert choose(replace(hopper, count=2), rows, ()) is None
    assert choose(GpuRequest(names=("0",), count=1, min_memory_bytes=40 * GIB), rows, ()) is None
    assert choose(GpuRequest(every=True, min_memory_bytes=40 * GIB), rows, ()) == ("GPU-1", "GPU-3", "GPU-4")


# The best-connected set -----------------------------------------------------------------------------------------------


def test_nvlink_comes_before_the_bus_and_that_before_numa() -> None:
    rows = free(unit(index, numa=0 if index < 4 else 1) for index in range(8))
    near = linked((2, 5), path=Path.ONE_SWITCH)
    assert chosen("2", rows) == "0,1"
    assert chosen("2", rows[3:]) == "4,5"  # 3 lies on the other node
    assert chosen("2", rows, near) == "2,5"
    assert chosen("2", rows, [*near, *linked((1, 6), lanes=1, path=Path.SYSTEM)]) == "1,6"
    assert chosen("2", rows, [*near, *linked((1, 6), lanes=1), *linked((4, 7), lanes=4)]) == "4,7"


def test_a_connected_group_is_found_among_many() -> None:
    group = (3, 17, 29, 40)
    links = linked(*combinations(group, 2), lanes=2)
    assert chosen("4", host(48), links) == "3,17,29,40"  # 194,580 sets: grown, not tried


def test_a_single_gpu_comes_from_where_it_tears_least() -> None:
    pairs = linked((0, 1), (2, 3), (4, 5), lanes=4)
    assert chosen("1", host(6, g2=ALONE), pairs) == "3"
    assert chosen("2", host(6, g2=ALONE), pairs) == "0,1"
    assert chosen("3", host(6, g2=ALONE), pairs) == "0,1,3"
    switches = linked((0, 1), (0, 2), (1, 2), path=Path.ONE_SWITCH)
    assert chosen("1", host(4), switches) == "3"


def test_among_equals_the_smallest_memory_and_then_the_lowest_index() -> None:
    rows = free(unit(index, gib) for index, gib in enumerate((80, 24, 40, 24, 80)))
    assert [chosen(str(count), rows) for count in (1, 2, 3)] == ["1", "1,3", "1,2,3"]
    assert choose(GpuRequest(1, min_memory_bytes=30 * GIB), rows, ()) == ("GPU-2",)
    assert chosen("2", rows, linked((0, 4), lanes=1)) == "0,4"
    assert chosen("1", rows, linked((1, 2), lanes=1)) == "3"


def test_mig_devices_of_one_gpu_stay_together() -> None:
    rows = free([mig(0, 0), mig(1, 0), mig(1, 1)])
    assert choose(GpuRequest(2), rows, linked((0, 1), lanes=12)) == ("MIG-1-0", "MIG-1-1")
    assert choose(GpuRequest(1), rows, ()) == ("MIG-0-0",)


def test_what_is_taken_beyond_the_free_ones_is_near_to_them() -> None:
    rows = host(4, g1=Standing.BUSY, g2=Standing.BUSY, g3=Standing.BUSY)
    assert chosen("2+busy", rows, linked((0, 3), lanes=1)) == "0,3"


def test_what_is_kept_for_others_is_not_taken() -> None:
    assert choose(GpuRequest(1), host(2), (), {"GPU-0"}) == ("GPU-1",)
    assert choose(GpuRequest(2), host(2), (), {"GPU-0"}) is None


def test_small_machines_get_the_best_of_all_sets() -> None:
    for seed in range(60):
        dice = random.Random(seed)
        rows = free(unit(index, dice.choice((24, 80)), numa=dice.choice((0, 1))) for index in range(7))
        pairs = [pair for pair in combinations(range(7), 2) if dice.random() < 0.6]
        links = [Link(f"GPU-{a}", f"GPU-{b}", dice.choice((0, 0, 1, 4)), dice.choice(list(Path))) for a, b in pairs]
        for count in range(1, 7):
            found = choose(GpuRequest(count), rows, links)
            assert found
            assert worth(found, rows, links) == max(worth(each, rows, links) for each in sets(rows, count)), seed


def sets(rows: Sequence[UnitState], count: int) -> Iterable[tuple[str, ...]]:
    return combinations([row.unit.uuid for row in rows], count)


def worth(uuids: Sequence[str], rows: Sequence[UnitState], links: Sequence[Link]) -> tuple[int, int, int, int]:
    """Return lanes, nearness, NUMA and memory of a set, each with more being better; written without our code."""
    inside = [link for link in links if {link.first, link.second} <= set(uuids)]
    nodes = {row.unit.uuid: row.unit.gpu.numa_node for row in rows}
    sizes = {row.unit.uuid: row.unit.memory_total_bytes or 0 for row in rows}
    return (
        sum(link.nvlinks for link in inside),
        sum(60 - link.path for link in inside if link.path is not None),
        sum(nodes[first] == nodes[second] for first, second in combinations(uuids, 2)),
        -sum(sizes[uuid] for uuid in uuids),
    )


def test_many_gpus_take_no_time_that_grows_with_their_sets() -> None:
    assert len(choose(GpuRequest(500), host(1000), ()) or ()) == 500
    nodes = free(unit(index, numa=index % 8) for index in range(400))
    found = choose(GpuRequest(8), nodes, ())
    assert found
    assert len({int(uuid.removeprefix("GPU-")) % 8 for uuid in found}) == 1


# What people are told -------------------------------------------------------------------------------------------------


def refused(text: str, rows: Sequence[UnitState], memory: str = "", said: str = "") -> NoGpu:
    with pytest.raises(NoGpu) as caught:
        require_possible(GpuRequest.parse(text, memory=memory), rows, said)
    return caught.value


def test_what_is_only_taken_just_now_is_possible() -> None:
    for text in ("0", "1", "2", "all", "0,1", "GPU-1"):
        require_possible(GpuRequest.parse(text), host(2, g0=ALONE, g1=Standing.UNKNOWN))


def test_a_host_without_gpus_hands_on_what_the_driver_says() -> None:
    error = refused("1", [], said="NVML Shared Library Not Found")
    assert "--gpus 1: this host has no GPU" in error.message
    assert "NVML Shared Library Not Found" in error.message
    assert "--nproc" in error.hint


def test_too_many_are_refused_with_as_many_as_there_are() -> None:
    error = refused("4", host(3, g1=Standing.FAULTY))
    assert error.message.startswith("--gpus 4: 2 of the 3 GPUs")
    assert error.hint == "--gpus 2"


def test_better_ones_than_there_are_are_refused_with_the_best() -> None:
    rows = free([unit(0, 24), unit(1, 40), unit(2, None)])
    error = refused("2", rows, "40g")
    assert error.message.startswith("--gpus 2 --gpu-memory 40g: 1 of the 3 GPUs")
    assert "GPU 0: 24.0 GiB, compute capability 8.0" in error.message
    assert "GPU 2: n/a" in error.message
    assert error.hint == "--gpus 1 --gpu-memory 40g"
    assert refused("1", rows, "80g").hint == "--gpus 1 --gpu-memory 40g"
    assert refused("1+cc9.0", rows).hint == "--gpus 1"


def test_hints_are_requests_that_can_be_met() -> None:
    rows = [*host(3, g0=Standing.FAULTY), *free([mig(3, 0)])]
    for text in ("9", "9,", "3,", "GPU-3", "0,GPU-0", "1,GPU-1", "0,", "2+cc9.0"):
        words = refused(text, rows).hint.split()
        assert words[0] == "--gpus"
        memory = words[3] if "--gpu-memory" in words else ""
        require_possible(GpuRequest.parse(words[1], memory=memory), rows)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    error = refused("GPU-9", host(2))
    assert "there is no GPU GPU-9 here. There are: 0, 1" in error.message
    assert error.hint == "--gpus 0,"


@pytest.mark.parametrize("name", ["0,", "GPU-0"])
def test_a_split_gpu_is_refused_with_its_parts(name: str) -> None:
    error = refused(name, free([mig(0, 0), mig(0, 1)]))
    assert "MIG-0-0, MIG-0-1" in error.message
    assert error.hint == "--gpus MIG-0-0"


def test_one_gpu_under_two_names_is_refused() -> None:
    assert refused("0,GPU-0", host(2)).hint == "--gpus GPU-0"


def test_a_faulty_gpu_by_name_says_what_it_has() -> None:
    rows = [replace(row, reason="It fell off the bus.") for row in host(2, g0=Standing.FAULTY)]
    assert "It fell off the bus." in refused("0,", rows).message


def test_why_not_counts_what_is_in_the_way() -> None:
    rows = host(5, g0=ALONE, g1=ALONE, g2=Standing.BUSY, g3=Standing.DRAINING)
    assert why_not(GpuRequest(2), rows) == (
        "--gpus 2: 1 of 5 GPUs are free "
        "(held by kernel torch 1a2b3c4d of alice; 1 busy with other processes; 1 draining)."
    )
    assert why_not(GpuRequest.parse("0,4"), rows) == (
        "--gpus 0,4: 1 of 2 GPUs are free (held by kernel torch 1a2b3c4d of alice)."
    )
    assert why_not(GpuRequest(1), host(1, g0=Standing.UNKNOWN)).endswith("(1 of which the driver says nothing).")


def test_a_request_as_options_reads_back() -> None:
    for text, memory in (("2", ""), ("all+cc8.9", "40g"), ("0,+busy", "512m"), ("GPU-a,1:0", "")):
        request = GpuRequest.parse(text, memory=memory, shared=True)
        words = asked(request).split()
        assert words[-1] == "--shared"
        assert GpuRequest.parse(words[1], memory=words[3] if memory else "", shared=True) == request


def test_a_request_is_told_as_it_was_typed() -> None:
    request = GpuRequest.parse("2+busy+cc8.0", memory="40g", shared=True)
    assert asked(request) == "--gpus 2+busy+cc8.0 --gpu-memory 40g --shared"


@pytest.mark.parametrize(
    ("row", "text", "shared", "kept"),
    [
        (UnitState(unit(0), Standing.FREE), "1", False, True),
        (UnitState(unit(0), Standing.DRAINING), "1", False, True),
        (UnitState(unit(0), Standing.FAULTY), "1", False, False),
        (UnitState(unit(0), Standing.UNKNOWN), "1", False, False),
        (UnitState(unit(0), Standing.BUSY, foreign=(7,)), "1", False, False),
        (UnitState(unit(0), Standing.BUSY, foreign=(7,)), "1+busy", False, True),
        (UnitState(unit(0), Standing.LEASED, (replace(ALONE, id="mine"),)), "1", False, True),
        (UnitState(unit(0), Standing.LEASED, (ALONE,)), "1", False, False),
        (UnitState(unit(0), Standing.LEASED, (SHARER,)), "1", False, False),
        (UnitState(unit(0), Standing.LEASED, (SHARER,)), "1", True, True),
    ],
)
def test_what_a_job_may_go_on_with(row: UnitState, text: str, shared: bool, kept: bool) -> None:
    assert may_keep(GpuRequest.parse(text, shared=shared), row, "mine") is kept
