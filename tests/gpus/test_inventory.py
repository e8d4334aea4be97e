"""The inventory, read by the real nvidia-ml-py from a stand-in for the driver, and from a real GPU where one is."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nvml_machine
import pytest
from nvml_machine import GIB, Card, Machine, Process

from jupyter_dlenv.gpus.health import Signs, judge
from jupyter_dlenv.gpus.inventory import NvmlReader
from jupyter_dlenv.gpus.model import Gpu, GpuProcess, Health, Inventory, Link, Mig, NvmlState
from jupyter_dlenv.gpus.model import Path as Way
from jupyter_dlenv.gpus.topology import Ports, links

PRINT = """
import json
from dataclasses import asdict
from jupyter_dlenv.gpus.inventory import NvmlReader
print(json.dumps(asdict(NvmlReader().read())))
"""


@pytest.fixture
def reader(here: Machine, tmp_path: Path) -> Iterator[NvmlReader]:
    """A reader of the machine, on a host whose kernel tells nothing of the GPUs."""
    reader = NvmlReader(tmp_path / "sys")
    yield reader
    reader.close()


def elsewhere(env: dict[str, str]) -> dict[str, object]:
    """Return what a new process reads."""
    clean = {key: value for key, value in os.environ.items() if key not in ("LD_LIBRARY_PATH", nvml_machine.VARIABLE)}
    done = subprocess.run([sys.executable, "-c", PRINT], env={**clean, **env}, capture_output=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def link(inventory: Inventory, one: int, other: int) -> Link:
    """Return the link between two GPUs."""
    pair = (inventory.gpus[one].uuid, inventory.gpus[other].uuid)
    (found,) = [each for each in inventory.links if (each.first, each.second) == pair]
    return found


# What it tells --------------------------------------------------------------------------------------------------------


def test_all_that_is_told(here: Machine, reader: NvmlReader) -> None:
    card = here.cards[1]
    card.percent, card.memory_percent, card.ecc = 87, 12, 3
    here.run(1, Process(4711, 3 * GIB, 80), Process(42, GIB, kind="g"), Process(99, 2 * GIB, 5, kind="m"))
    inventory = reader.read()
    assert (inventory.state, inventory.message) == (NvmlState.OK, "")
    assert (inventory.driver, inventory.cuda) == ("550.54.15", "12.4")
    assert [gpu.index for gpu in inventory.gpus] == list(range(8))
    assert inventory.gpus[1] == Gpu(
        index=1,
        uuid=card.uuid,
        name="NVIDIA H100 80GB HBM3",
        minor=1,
        bus_id="00000000:19:00.0",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=6 * GIB,
        capability=(9, 0),
        utilization_percent=87,
        memory_utilization_percent=12,
        temperature_c=31,
        power_w=71.5,
        power_limit_w=700.0,
        processes=(
            GpuProcess(42, GIB, computes=False, sm_percent=0),
            GpuProcess(99, 2 * GIB, sm_percent=5),
            GpuProcess(4711, 3 * GIB, sm_percent=80),
        ),
        ecc_uncorrected=3,
    )


def test_what_changes_is_told_anew(here: Machine, reader: NvmlReader) -> None:
    assert reader.read().gpus[0].processes == ()
    here.run(0, Process(7))
    found = reader.read().gpus[0]
    assert [process.pid for process in found.processes or ()] == [7]
    assert found.memory_used_bytes == GIB


def test_what_is_fixed_is_asked_once_a_session_and_for_each_uuid(here: Machine, reader: NvmlReader) -> None:
    reader.read()
    here.cards[0].name = here.cards[1].name = "Another"
    here.cards[1].uuid = "GPU-exchanged"
    here.write()
    found = reader.read()
    assert [gpu.name for gpu in found.gpus[:2]] == ["NVIDIA H100 80GB HBM3", "Another"]
    assert "GPU-exchanged" in {each.first for each in found.links}
    reader.close()
    assert reader.read().gpus[0].name == "Another"


def test_a_gpu_that_is_taken_out_is_gone(here: Machine, reader: NvmlReader) -> None:
    assert len(reader.read().links) == 28
    del here.cards[5:]
    here.paths = dict.fromkeys(here.pairs(), 30)
    here.nvlink = {}
    here.write()
    found = reader.read()
    assert (len(found.gpus), len(found.links)) == (5, 10)


# What is not told is not 0 --------------------------------------------------------------------------------------------

FIELDS = {
    "nvmlDeviceGetName": {"name": ""},
    "nvmlDeviceGetMinorNumber": {"minor": None},
    "nvmlDeviceGetPciInfo_v3": {"bus_id": ""},
    "nvmlDeviceGetMemoryAffinity": {"numa_node": None},
    "nvmlDeviceGetCudaComputeCapability": {"capability": None},
    "nvmlDeviceGetUtilizationRates": {"utilization_percent": None, "memory_utilization_percent": None},
    "nvmlDeviceGetTemperature": {"temperature_c": None},
    "nvmlDeviceGetPowerUsage": {"power_w": None},
    "nvmlDeviceGetEnforcedPowerLimit": {"power_limit_w": None},
    "nvmlDeviceGetTotalEccErrors": {"ecc_uncorrected": None},
    "nvmlDeviceGetMigMode": {},
    "nvmlDeviceGetRemappedRows": {},
    "nvmlDeviceGetRetiredPagesPendingStatus": {},
    "nvmlDeviceGetFieldValues": {},
    "nvmlDeviceGetSupportedEventTypes": {},
    "nvmlDeviceRegisterEvents": {},
    "nvmlEventSetCreate": {},
    "nvmlDeviceGetGraphicsRunningProcesses_v3": {},
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": {},
}


def busy(machine: Machine) -> None:
    """Let the first GPU do something, so that no value is 0."""
    card = machine.cards[0]
    card.percent, card.memory_percent, card.ecc, card.nodes = 50, 20, 1, 2
    machine.run(0, Process(7, percent=50))


@pytest.mark.parametrize("code", [nvml_machine.NOT_SUPPORTED, nvml_machine.FUNCTION_NOT_FOUND, 999])
@pytest.mark.parametrize("function", FIELDS)
def test_what_a_driver_does_not_tell_is_left_open(here: Machine, reader: NvmlReader, function: str, code: int) -> None:
    busy(here)
    before = reader.read().gpus[0]
    reader.close()
    here.fail(function, code)
    assert reader.read().gpus[0] == replace(before, **FIELDS[function])


def test_memory_that_the_driver_reserves_is_not_in_use(here: Machine, reader: NvmlReader) -> None:
    assert reader.read().gpus[0].memory_used_bytes == 0
    here.fail("nvmlDeviceGetMemoryInfo_v2", nvml_machine.NOT_SUPPORTED)
    assert reader.read().gpus[0].memory_used_bytes == GIB // 2
    reader.close()
    here.fail("nvmlDeviceGetMemoryInfo", nvml_machine.NOT_SUPPORTED)
    found = reader.read().gpus[0]
    assert (found.memory_total_bytes, found.memory_used_bytes) == (None, None)


def test_processes_that_are_not_told_are_not_none_at_all(here: Machine, reader: NvmlReader) -> None:
    here.run(0, Process(7))
    here.fail("nvmlDeviceGetComputeRunningProcesses_v3", nvml_machine.NOT_SUPPORTED)
    assert [process.pid for process in reader.read().gpus[0].processes or ()] == [7]
    here.fail("nvmlDeviceGetComputeRunningProcesses_v2", nvml_machine.NOT_SUPPORTED)
    assert reader.read().gpus[0].processes is None


def test_the_share_of_a_process_is_told_or_left_open(here: Machine, reader: NvmlReader) -> None:
    def share() -> int | None:
        (process,) = reader.read().gpus[0].processes or ()
        return process.sm_percent

    here.run(0, Process(7))
    assert share() == 0, "the driver samples, and nothing ran"
    here.cards[0].percent = 30
    here.write()
    assert share() is None, "something ran, and the driver does not say whose it was"
    here.run(0, Process(7, percent=30))
    assert share() == 30
    here.fail("nvmlDeviceGetProcessUtilization", nvml_machine.NOT_SUPPORTED)
    assert share() is None
    here.cards[0].percent = 0
    here.run(0, Process(7))
    assert share() is None, "the driver does not sample"


# Garbage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [name for name in FIELDS if not name.startswith(("nvmlEvent", "nvmlDeviceReg"))])
def test_garbage_is_not_believed(here: Machine, reader: NvmlReader, function: str) -> None:
    busy(here)
    before = reader.read().gpus
    reader.close()
    here.garbage(function, gpu=0)
    found = reader.read().gpus
    assert found[0] == replace(before[0], **FIELDS[function])
    assert found[1:] == before[1:]


def test_garbage_for_versions_memory_and_processes(here: Machine, reader: NvmlReader) -> None:
    here.run(0, Process(7, percent=50))
    for function in ("SystemGetDriverVersion", "SystemGetCudaDriverVersion_v2", "DeviceGetMemoryInfo_v2"):
        here.garbage(f"nvml{function}")
    here.garbage("nvmlDeviceGetProcessUtilization")
    found = reader.read()
    assert (found.driver, found.cuda) == ("", "")
    assert (found.gpus[0].memory_total_bytes, found.gpus[0].memory_used_bytes) == (None, None)
    assert found.gpus[0].processes == (GpuProcess(7, GIB, sm_percent=None),)
    here.garbage("nvmlDeviceGetComputeRunningProcesses_v3")
    assert reader.read().gpus[0].processes == ()


def test_a_gpu_that_does_not_tell_who_it_is(here: Machine, reader: NvmlReader) -> None:
    here.garbage("nvmlDeviceGetUUID", gpu=3)
    found = reader.read()
    assert [gpu.health for gpu in found.gpus].count(Health.OK) == 7
    assert (found.gpus[3].health, found.gpus[3].uuid) == (Health.FAULTY, "")
    assert "UUID" in found.gpus[3].problem


def test_a_driver_that_has_gone_mad_is_survived(here: Machine, reader: NvmlReader) -> None:
    here.garbage("*")
    assert all(gpu.health is Health.FAULTY for gpu in reader.read().gpus)
    here.heal()
    assert [gpu.health for gpu in reader.read().gpus] == [Health.OK] * 8


# Drivers that are missing, old, gone ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="this host has the library")
def test_without_the_library_there_is_no_gpu() -> None:
    found = elsewhere({})
    assert (found["state"], found["gpus"], found["message"]) == ("absent", [], "NVML Shared Library Not Found")


def test_without_a_driver_there_is_no_gpu(here: Machine, reader: NvmlReader) -> None:
    here.unload()
    found = reader.read()
    assert (found.state, found.gpus, found.message) == (NvmlState.ABSENT, (), "Driver Not Loaded")
    here.heal()
    assert reader.read().state is NvmlState.OK


@pytest.mark.parametrize("code", [nvml_machine.VERSION_MISMATCH, nvml_machine.IRQ_ISSUE, 999])
def test_a_driver_that_fails_leaves_open_what_there_is(here: Machine, reader: NvmlReader, code: int) -> None:
    here.fail("nvmlInitWithFlags", code)
    found = reader.read()
    assert (found.state, found.gpus) == (NvmlState.UNKNOWN, ())
    assert found.message
    here.heal()
    assert len(reader.read().gpus) == 8


@pytest.mark.parametrize(
    "code", [nvml_machine.DRIVER_NOT_LOADED, nvml_machine.UNINITIALIZED, nvml_machine.VERSION_MISMATCH, 999]
)
def test_a_driver_that_goes_and_comes_back(here: Machine, reader: NvmlReader, code: int) -> None:
    before = reader.read()
    here.unload(code)
    found = reader.read()
    assert found.state is NvmlState.UNKNOWN
    assert found.message
    assert (found.gpus, found.taken_at) == (before.gpus, before.taken_at)
    here.heal()
    found = reader.read()
    assert (found.state, found.gpus, found.links) == (NvmlState.OK, before.gpus, before.links)


def test_a_driver_that_was_loaded_anew_meanwhile_is_not_noticed(here: Machine, reader: NvmlReader) -> None:
    before = reader.read()
    here.unload()
    here.heal()
    found = reader.read()
    assert (found.state, found.gpus) == (NvmlState.OK, before.gpus)


def test_an_old_driver(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    machine = Machine(folder, gpus=2, library=nvml_machine.build(folder, old=True))
    machine.run(0, Process(7, percent=20))
    found = elsewhere(dict(machine.env()))
    gpus = found["gpus"]
    assert isinstance(gpus, list)
    assert gpus[0]["memory_used_bytes"] == GIB + GIB // 2, "the old call counts what is reserved"
    assert [process["pid"] for process in gpus[0]["processes"]] == [7]


# One GPU --------------------------------------------------------------------------------------------------------------


def test_a_lost_gpu_hides_no_other(here: Machine, reader: NvmlReader) -> None:
    before = reader.read()
    here.xid(2, 48)
    reader.read()
    here.lose(2)
    found = reader.read()
    assert [gpu.health for gpu in found.gpus] == [Health.OK] * 2 + [Health.LOST] + [Health.OK] * 5
    lost = found.gpus[2]
    assert (lost.uuid, lost.name, lost.bus_id) == (before.gpus[2].uuid, before.gpus[2].name, before.gpus[2].bus_id)
    assert (lost.memory_used_bytes, lost.processes, lost.xids) == (None, None, (48,))
    assert lost.problem
    reader.close()
    again = reader.read().gpus[2]
    assert (again.uuid, again.name, again.health) == (lost.uuid, lost.name, Health.LOST)
    here.cards[2].lost = False
    here.write()
    assert reader.read().gpus == before.gpus


def test_a_gpu_that_was_lost_from_the_beginning_has_no_name(here: Machine, reader: NvmlReader) -> None:
    here.lose(2)
    found = reader.read()
    assert len(found.gpus) == 8
    assert (found.gpus[2].uuid, found.gpus[2].name, found.gpus[2].health) == ("", "", Health.LOST)


def test_no_guess_at_a_lost_gpu_names_one_that_is_there(here: Machine, reader: NvmlReader) -> None:
    reader.read()
    here.cards[1].uuid, here.cards[2].uuid = here.cards[2].uuid, here.cards[1].uuid
    here.lose(2)
    reader.close()
    found = reader.read()
    assert found.gpus[1].uuid == here.cards[1].uuid
    assert found.gpus[2].uuid == ""


@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDeviceGetName", "nvmlDeviceGetUUID"])
def test_a_gpu_that_is_lost_while_it_is_asked(here: Machine, reader: NvmlReader, function: str) -> None:
    here.fail(function, nvml_machine.GPU_IS_LOST, gpu=4)
    assert [gpu.index for gpu in reader.read().gpus if gpu.health is Health.LOST] == [4]


def test_gpus_that_cannot_be_opened(here: Machine, reader: NvmlReader) -> None:
    here.fail("nvmlDeviceGetHandleByIndex_v2", nvml_machine.NO_PERMISSION, gpu=1)
    here.fail("nvmlDeviceGetHandleByIndex_v2", nvml_machine.IRQ_ISSUE, gpu=2)
    found = reader.read().gpus
    assert [gpu.index for gpu in found] == [0, 2, 3, 4, 5, 6, 7], "what is kept from us is not ours to list"
    assert found[1].health is Health.FAULTY
    assert "Interrupt Request Issue" in found[1].problem


# MIG ------------------------------------------------------------------------------------------------------------------


def test_mig_devices(here: Machine, reader: NvmlReader) -> None:
    first, second = here.split(5, "1g.10gb", "3g.40gb+me")
    here.cards[5].slices[1].used = 2 * GIB
    here.run(5, Process(7, 2 * GIB, slice=1))
    inventory = reader.read()
    gpu = inventory.gpus[5]
    assert gpu.mig_enabled
    assert (gpu.utilization_percent, gpu.memory_utilization_percent) == (None, None)
    assert gpu.migs == (
        Mig(first, 0, "1g.10gb", 10 * GIB, 0, 7, 0, ()),
        Mig(second, 1, "3g.40gb+me", 10 * GIB, 2 * GIB, 8, 0, (GpuProcess(7, 2 * GIB, sm_percent=None),)),
    )
    names = [unit.name for unit in inventory.units()]
    assert names == ["0", "1", "2", "3", "4", "5:0", "5:1", "6", "7"]
    here.split(5)
    found = reader.read().gpus[5]
    assert (found.mig_enabled, found.migs, found.utilization_percent) == (False, (), 0)


def test_a_split_gpu_without_slices_has_nothing_to_lease(here: Machine, reader: NvmlReader) -> None:
    here.cards[0].split = True
    here.write()
    inventory = reader.read()
    assert (inventory.gpus[0].mig_enabled, inventory.gpus[0].migs) == (True, ())
    assert next(unit.name for unit in inventory.units()) == "1"


def test_gpus_that_know_no_mig(here: Machine, reader: NvmlReader) -> None:
    for card in here.cards:
        card.mig_capable = False
    here.write()
    assert not any(gpu.mig_enabled for gpu in reader.read().gpus)


# Topology -------------------------------------------------------------------------------------------------------------


def test_bridged_pairs(here: Machine, reader: NvmlReader) -> None:
    here.bridge(0, 1, lanes=4)
    here.bridge(0, 2, lanes=2)
    here.paths[0, 1] = 10
    here.write()
    found = reader.read()
    assert (link(found, 0, 1).nvlinks, link(found, 0, 1).path) == (4, Way.ONE_SWITCH)
    assert (link(found, 0, 2).nvlinks, link(found, 0, 2).path) == (2, Way.HOST_BRIDGE)
    assert (link(found, 1, 2).nvlinks, link(found, 0, 4).path) == (0, Way.SYSTEM)
    assert len(found.links) == 28


def test_lanes_that_only_one_end_tells(here: Machine, reader: NvmlReader) -> None:
    here.bridge(0, 1, lanes=4)
    here.fail("nvmlDeviceGetNvLinkState", nvml_machine.NOT_SUPPORTED, gpu=0)
    assert link(reader.read(), 0, 1).nvlinks == 4


@pytest.mark.parametrize("told", [True, False])
def test_switches_connect_all(here: Machine, reader: NvmlReader, told: bool) -> None:
    here.switch(lanes=18)
    if not told:
        here.fail("nvmlDeviceGetNvLinkRemoteDeviceType", nvml_machine.FUNCTION_NOT_FOUND)
    assert {each.nvlinks for each in reader.read().links} == {18}


def test_switches_that_do_not_work_connect_nobody(here: Machine, reader: NvmlReader) -> None:
    here.switch(lanes=18)
    here.nvlink = dict.fromkeys(here.pairs(), 5)
    here.write()
    assert {each.nvlinks for each in reader.read().links} == {0}


def test_a_topology_that_is_not_told(here: Machine, reader: NvmlReader) -> None:
    here.fail("nvmlDeviceGetTopologyCommonAncestor", nvml_machine.NOT_SUPPORTED)
    here.fail("nvmlDeviceGetNvLinkState", nvml_machine.NOT_SUPPORTED)
    here.fail("nvmlDeviceGetP2PStatus", nvml_machine.NOT_SUPPORTED)
    found = reader.read()
    assert (len(found.gpus), found.links) == (8, ())


def test_an_absurd_way_is_not_believed(here: Machine, reader: NvmlReader) -> None:
    here.bridge(0, 1, lanes=4)
    here.garbage("nvmlDeviceGetTopologyCommonAncestor")
    assert [(each.nvlinks, each.path) for each in reader.read().links] == [(4, None)]


def test_lanes_through_switches_are_those_of_the_lesser() -> None:
    ports = [Ports("A", "00000000:01:00.0", (), 18), Ports("B", "00000000:02:00.0", (), 12), Ports("C", "", (), 0)]
    found = links(ports, lambda one, other: None, lambda one, other: None)
    assert found == (Link("A", "B", 12, None),)


def test_nvlink_that_is_usable_has_at_least_one_lane() -> None:
    found = links([Ports("A"), Ports("B")], lambda one, other: 50, lambda one, other: True)
    assert found == (Link("A", "B", 1, Way.SYSTEM),)


@pytest.mark.parametrize(("text", "node"), [("1\n", 1), ("0\n", 0), ("-1\n", None), ("?\n", 0)])
def test_the_kernel_tells_the_numa_node(here: Machine, tmp_path: Path, text: str, node: int | None) -> None:
    folder = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:18:00.0"
    folder.mkdir(parents=True)
    (folder / "numa_node").write_text(text)
    here.cards[0].nodes = 1
    here.write()
    reader = NvmlReader(tmp_path / "sys")
    assert reader.read().gpus[0].numa_node == node
    reader.close()


@pytest.mark.parametrize(("nodes", "node"), [(0, None), (1, 0), (8, 3), (3, None)])
def test_nvml_tells_the_numa_node(here: Machine, reader: NvmlReader, nodes: int, node: int | None) -> None:
    here.cards[0].nodes = nodes
    here.write()
    assert reader.read().gpus[0].numa_node == node


# Health ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("xid", [8, 13, 31, 43, 45, 63, 68, 69, 92, 94, 121, 137, 154])
def test_errors_of_applications_are_told_and_harmless(here: Machine, reader: NvmlReader, xid: int) -> None:
    reader.read()
    here.xid(0, xid)
    found = reader.read().gpus[0]
    assert (found.xids, found.health, found.problem) == ((xid,), Health.OK, "")


@pytest.mark.parametrize("xid", [46, 48, 62, 64, 74, 95, 109, 119, 120, 140, 143, 158])
def test_errors_after_which_a_gpu_needs_a_reset(here: Machine, reader: NvmlReader, xid: int) -> None:
    reader.read()
    here.xid(0, 31)
    here.xid(0, xid)
    here.xid(0, xid)
    found = reader.read().gpus
    assert (found[0].xids, found[0].health) == ((31, xid), Health.FAULTY)
    assert f"Xid {xid}" in found[0].problem
    assert found[1].health is Health.OK
    assert reader.read().gpus[0].health is Health.FAULTY, "it is not forgotten"


def test_xid_79_is_a_loss(here: Machine, reader: NvmlReader) -> None:
    reader.read()
    here.xid(3, 79)
    assert reader.read().gpus[3].health is Health.LOST


def test_errors_before_anybody_listened_are_not_told(here: Machine, reader: NvmlReader) -> None:
    here.xid(0, 95)
    assert reader.read().gpus[0].xids == ()


def rows_pending(card: Card) -> None:
    """A row is to be remapped."""
    card.rows_pending = 1


def rows_failed(card: Card) -> None:
    """A row could not be remapped."""
    card.rows_failed = 1


def pages_pending(card: Card) -> None:
    """A page is to be retired."""
    card.pages_pending = 1


def asks_for_a_reset(card: Card) -> None:
    """The driver asks for it."""
    card.recovery = 1


def asks_for_a_restart(card: Card) -> None:
    """The driver asks for it."""
    card.recovery = 2


@pytest.mark.parametrize(
    "damage", [rows_pending, rows_failed, pages_pending, asks_for_a_reset, asks_for_a_restart], ids=lambda f: f.__name__
)
def test_what_the_driver_remembers(here: Machine, reader: NvmlReader, damage: Callable[[Card], None]) -> None:
    damage(here.cards[6])
    here.write()
    found = reader.read().gpus
    assert [gpu.index for gpu in found if gpu.health is Health.FAULTY] == [6]
    assert found[6].problem.endswith(".")


def test_a_gpu_that_refuses_until_it_is_reset(here: Machine, reader: NvmlReader) -> None:
    here.fail("nvmlDeviceGetUtilizationRates", nvml_machine.RESET_REQUIRED, gpu=6)
    assert [gpu.index for gpu in reader.read().gpus if gpu.health is Health.FAULTY] == [6]


@pytest.mark.parametrize("recovery", [0, 3, 5, 4_294_967_295])
def test_recovery_actions_that_concern_others(recovery: int) -> None:
    assert judge(Signs(recovery=recovery)) == (Health.OK, "")


def test_corrected_and_uncorrected_errors_alone_are_no_fault(here: Machine, reader: NvmlReader) -> None:
    here.cards[0].ecc = 12
    here.write()
    found = reader.read().gpus[0]
    assert (found.ecc_uncorrected, found.health) == (12, Health.OK)


# A real GPU -----------------------------------------------------------------------------------------------------------


def smi(*fields: str) -> list[dict[str, str]]:
    """Return what ``nvidia-smi`` says of each GPU."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [dict(zip(fields, row, strict=True)) for row in rows]


@pytest.mark.gpu
@pytest.mark.skipif(not os.path.exists("/dev/nvidiactl"), reason="needs an NVIDIA GPU")
def test_a_real_gpu_is_told_as_nvidia_smi_tells_it() -> None:
    fixed = ("index", "uuid", "name", "pci.bus_id", "memory.total", "compute_cap", "driver_version", "mig.mode.current")
    told = smi(*fixed, "power.limit", "temperature.gpu", "memory.used")
    found = elsewhere({"LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")})
    gpus = found["gpus"]
    assert isinstance(gpus, list)
    assert (found["state"], found["message"], len(gpus)) == ("ok", "", len(told))
    for gpu, row in zip(gpus, told, strict=True):
        ours = (str(gpu["index"]), gpu["uuid"], gpu["name"], gpu["bus_id"], found["driver"])
        assert ours == tuple(row[key] for key in ("index", "uuid", "name", "pci.bus_id", "driver_version"))
        assert ".".join(map(str, gpu["capability"])) == row["compute_cap"]
        assert gpu["memory_total_bytes"] >> 20 == int(row["memory.total"])
        assert abs((gpu["memory_used_bytes"] >> 20) - int(row["memory.used"])) < 1024
        assert gpu["mig_enabled"] == (row["mig.mode.current"] == "Enabled")
        assert gpu["power_limit_w"] == pytest.approx(float(row["power.limit"]), abs=1)
        assert abs(gpu["temperature_c"] - int(row["temperature.gpu"])) < 20
        assert (gpu["health"], gpu["problem"]) == ("ok", "")
        assert os.path.exists(f"/dev/nvidia{gpu['minor']}")
