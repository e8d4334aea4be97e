"""How GPUs stand for the next request, and whose the processes on them are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_dlenv.gpus.containers import alive, containers_of, owners
from jupyter_dlenv.gpus.model import Gpu, GpuProcess, Health, Inventory, Mig, NvmlState
from jupyter_dlenv.gpus.state import Holder, Standing, UnitState, describe, states, usage

GIB = 1 << 30
ONE, OTHER = "a" * 64, "b" * 64
KERNEL = Holder("1a2b3c4d-0000-4000-8000-000000000000", "alice", "kernel", "torch", ONE)
JOB = Holder("5e6f7a8b-0000-4000-8000-000000000000", "bob", "trainer", "train", OTHER)


def gpu(*processes: GpuProcess, used: int | None = 0, index: int = 0) -> Gpu:
    return Gpu(
        index, f"GPU-{index}", "test", memory_total_bytes=80 * GIB, memory_used_bytes=used, processes=tuple(processes)
    )


def stands(
    *gpus: Gpu,
    leases: Mapping[str, Sequence[Holder]] | None = None,
    of: Mapping[int, str] | None = None,
    dead: Collection[int] = (),
    ended: Collection[str] = (),
) -> tuple[UnitState, ...]:
    return states(Inventory(gpus), leases or {}, of or {}, lambda pid: pid not in dead, ended)


def test_an_idle_gpu_is_free_although_the_driver_takes_some_of_its_memory() -> None:
    (state,) = stands(gpu(used=255 << 20))
    assert (state.standing, state.reason) == (Standing.FREE, "")


def test_a_leased_gpu_tells_its_holders_and_who_else_computes_on_it() -> None:
    (state,) = stands(gpu(GpuProcess(1), GpuProcess(2)), leases={"GPU-0": [KERNEL]}, of={1: ONE})
    assert (state.standing, state.holders, state.foreign) == (Standing.LEASED, (KERNEL,), (2,))
    assert state.reason == "Held by kernel torch 1a2b3c4d of alice."


def test_what_a_holder_of_another_gpu_does_here_is_foreign() -> None:
    first, second = stands(gpu(GpuProcess(1)), gpu(index=1), leases={"GPU-1": [KERNEL]}, of={1: ONE})
    assert (first.standing, first.foreign) == (Standing.BUSY, (1,))
    assert second.standing is Standing.LEASED


def test_others_that_compute_make_it_busy_and_a_desktop_does_not() -> None:
    (busy,) = stands(gpu(*(GpuProcess(pid, 4 * GIB) for pid in range(11, 17)), used=24 * GIB))
    assert (busy.standing, busy.foreign) == (Standing.BUSY, (11, 12, 13, 14, 15, 16))
    assert busy.reason == "Somebody else computes on it (host processes: 11, 12, 13, 14, 2 more)."
    (desktop,) = stands(gpu(GpuProcess(11, GIB, computes=False), used=GIB))
    assert desktop.standing is Standing.FREE


@pytest.mark.parametrize(
    ("processes", "used", "standing"),
    [
        ((), 257 << 20, Standing.DRAINING),
        ((), None, Standing.FREE),
        ((GpuProcess(1, 2 * GIB, computes=False),), 2 * GIB + (300 << 20), Standing.DRAINING),
        ((GpuProcess(1, None, computes=False),), 20 * GIB, Standing.FREE),
        ((GpuProcess(9),), 0, Standing.DRAINING),
        ((GpuProcess(9), GpuProcess(1, GIB)), 2 * GIB, Standing.BUSY),
        ((GpuProcess(9, GIB, computes=False),), GIB, Standing.DRAINING),
    ],
)
def test_memory_that_nobody_living_holds_is_draining(
    processes: tuple[GpuProcess, ...], used: int | None, standing: Standing
) -> None:
    (state,) = stands(gpu(*processes, used=used), dead={9})
    assert state.standing is standing
    assert bool(state.reason) is (standing is not Standing.FREE)


def test_nothing_can_be_said_of_memory_where_the_driver_lists_no_processes() -> None:
    (state,) = stands(replace(gpu(used=20 * GIB), processes=None))
    assert state.standing is Standing.FREE


def test_the_last_processes_of_an_ended_holder_are_not_foreign() -> None:
    (state,) = stands(gpu(GpuProcess(1, GIB), used=GIB), of={1: ONE}, ended={ONE})
    assert (state.standing, state.foreign) == (Standing.DRAINING, ())


def test_a_driver_that_does_not_answer_leaves_the_holders_shown() -> None:
    seen = Inventory((gpu(), gpu(index=1)), state=NvmlState.UNKNOWN, message="NVML hangs.")
    found = states(seen, {"GPU-1": [JOB]}, {}, lambda _pid: True)
    assert [(each.standing, each.holders, each.reason) for each in found] == [
        (Standing.UNKNOWN, (), "NVML hangs."),
        (Standing.UNKNOWN, (JOB,), "NVML hangs."),
    ]


@pytest.mark.parametrize("health", [Health.LOST, Health.FAULTY])
def test_a_faulty_gpu_says_why(health: Health) -> None:
    (state,) = stands(replace(gpu(), health=health, problem="It fell off the bus."), leases={"GPU-0": [JOB]})
    assert (state.standing, state.reason, state.holders) == (Standing.FAULTY, "It fell off the bus.", (JOB,))


def test_each_mig_device_stands_for_itself() -> None:
    parts = (
        Mig("MIG-a", 0, memory_used_bytes=0, processes=()),
        Mig("MIG-b", 1, memory_used_bytes=GIB, processes=(GpuProcess(5, GIB),)),
        Mig("MIG-c", 2, memory_used_bytes=GIB, processes=()),
    )
    split = replace(gpu(GpuProcess(5, GIB), used=2 * GIB), mig_enabled=True, migs=parts)
    assert [(each.unit.name, each.standing) for each in stands(split)] == [
        ("0:0", Standing.FREE),
        ("0:1", Standing.BUSY),
        ("0:2", Standing.DRAINING),
    ]
    assert [each.holders for each in stands(split, leases={"MIG-a": [JOB]})] == [(JOB,), (), ()]
    assert {each.standing for each in stands(split, leases={"GPU-0": [JOB]})} == {Standing.LEASED}


def test_only_those_who_share_make_a_shared_gpu() -> None:
    share = [replace(KERNEL, shared=True), replace(JOB, shared=True)]
    (both,) = stands(gpu(), leases={"GPU-0": share})
    (one,) = stands(gpu(), leases={"GPU-0": [share[0], JOB]})
    assert (both.shared, one.shared) == (True, False)
    assert both.reason == "Held by kernel torch 1a2b3c4d of alice, job train 5e6f7a8b of bob."


def test_a_holder_is_told_what_it_uses_itself() -> None:
    shared = [KERNEL, JOB]
    first = gpu(GpuProcess(1, GIB, sm_percent=60), GpuProcess(2, 2 * GIB, sm_percent=10), GpuProcess(3, 4 * GIB))
    second = gpu(GpuProcess(4, GIB, sm_percent=30), index=1)
    found = stands(first, second, leases={"GPU-0": shared, "GPU-1": [KERNEL]}, of={1: ONE, 2: OTHER, 4: ONE})
    assert usage(KERNEL, found) == (2 * GIB, 45)
    assert usage(JOB, found) == (2 * GIB, 10)
    assert usage(replace(JOB, id="elsewhere"), found) == (None, None)
    assert usage(replace(JOB, native_id=""), found) == (None, None)


def test_usage_that_the_driver_does_not_tell_is_not_zero() -> None:
    (silent,) = stands(replace(gpu(), processes=None), leases={"GPU-0": [KERNEL]})
    assert usage(KERNEL, [silent]) == (None, None)
    partly = stands(
        gpu(GpuProcess(1, GIB, sm_percent=5), GpuProcess(2)), leases={"GPU-0": [JOB]}, of={1: OTHER, 2: OTHER}
    )
    assert usage(JOB, partly) == (None, 5)
    assert usage(JOB, stands(gpu(), leases={"GPU-0": [JOB]})) == (0, 0)
    hanging = states(Inventory((gpu(),), state=NvmlState.UNKNOWN), {"GPU-0": [JOB]}, {}, lambda _pid: True)
    assert usage(JOB, hanging) == (None, None)


def test_a_holder_in_words() -> None:
    assert describe(JOB) == "job train 5e6f7a8b of bob"
    assert describe(Holder("x", role="shell")) == "shell x"


# Processes ------------------------------------------------------------------------------------------------------------


def proc(root: Path, pid: int, *cgroups: str, parent: int = 1, session: int = 0, state: str = "S") -> None:
    folder = root / str(pid)
    folder.mkdir()
    (folder / "cgroup").write_text("".join(f"{line}\n" for line in cgroups))
    (folder / "stat").write_text(f"{pid} (a) name) {state} {parent} {pid} {session or pid} 0 -1")


@pytest.mark.parametrize(
    "path",
    [
        f"/docker/{ONE}",
        f"/system.slice/docker-{ONE}.scope",
        f"/docker/{ONE}/init.scope",
        f"/../docker-{ONE}.scope",
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ONE}.scope/kernel",
        f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ONE}.scope",
    ],
)
def test_containers_are_found_in_all_forms_of_control_groups(tmp_path: Path, path: str) -> None:
    proc(tmp_path, 7, f"0::{path}")
    proc(tmp_path, 8, "12:cpu,cpuacct:/", f"11:memory:{path}", f"1:name=systemd:{path}")
    assert containers_of(7, str(tmp_path)) == containers_of(8, str(tmp_path)) == (ONE,)


def test_other_control_groups_hold_no_container(tmp_path: Path) -> None:
    proc(tmp_path, 7, "0::/user.slice/user-1000.slice/session-2.scope", f"0::/x/{ONE}f", f"0::/docker/{ONE[:60]}")
    assert containers_of(7, str(tmp_path)) == containers_of(8, str(tmp_path)) == ()


def test_a_nested_container_belongs_to_whichever_is_ours(tmp_path: Path) -> None:
    proc(tmp_path, 7, f"0::/docker/{ONE}/docker/{OTHER}")
    assert containers_of(7, str(tmp_path)) == (ONE, OTHER)
    assert owners([7], {OTHER}, str(tmp_path)) == {7: OTHER}
    assert owners([7], {ONE, OTHER}, str(tmp_path)) == {7: ONE}
    assert owners([7], {"c" * 64}, str(tmp_path)) == {}


def test_descendants_belong_to_a_job_without_a_container(tmp_path: Path) -> None:
    proc(tmp_path, 100)
    proc(tmp_path, 101, parent=100)
    proc(tmp_path, 102, parent=101, session=102)
    proc(tmp_path, 103, parent=1, session=100)  # its parent has ended
    proc(tmp_path, 104, parent=1)
    proc(tmp_path, 105, parent=106)
    proc(tmp_path, 106, parent=105)  # a loop, as of numbers that were used again meanwhile
    found = owners([100, 101, 102, 103, 104, 105, 999], {"100"}, str(tmp_path))
    assert found == dict.fromkeys((100, 101, 102, 103), "100")


def test_a_container_s_id_of_digits_is_no_process(tmp_path: Path) -> None:
    digits = "1" * 64
    proc(tmp_path, 7, f"0::/docker/{digits}")
    assert owners([7], {digits}, str(tmp_path)) == {7: digits}


def test_who_is_alive(tmp_path: Path) -> None:
    proc(tmp_path, 1)
    proc(tmp_path, 2, state="Z")
    proc(tmp_path, 3, state="D")
    assert [alive(pid, str(tmp_path)) for pid in (1, 2, 3, 4)] == [True, False, True, False]


def test_real_processes_are_told_apart() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    command = [sys.executable, "-c", program]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout
    assert child.stdout.readline() == b"1\n"
    grandchildren = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    pids = [child.pid, *map(int, grandchildren.read_text().split())] if grandchildren.exists() else [child.pid]
    try:
        assert owners([*pids, os.getpid()], {str(child.pid)}) == dict.fromkeys(pids, str(child.pid))
        assert alive(child.pid)
        assert alive(1)
    finally:
        child.communicate(b"\n", timeout=60)
    assert not alive(child.pid)
