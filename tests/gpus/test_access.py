"""Which way GPUs take into a container, what a container is given, and plain device nodes for real."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker_images
import pytest
from docker.errors import APIError
from gpu_daemon import sleeper, unit

from jupyter_dlenv.doctor import access_finding, toolkit_findings
from jupyter_dlenv.engines.docker.daemon import DaemonInfo, daemon_info
from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.failures import api_failure, without_pinning
from jupyter_dlenv.errors import NoGpu, StartFailed
from jupyter_dlenv.gpus import access
from jupyter_dlenv.gpus.access import AccessFacts, choose_access, gather, grant, spec_devices
from jupyter_dlenv.gpus.driver_files import DriverFiles, cached_libraries, device_nodes, find_driver_files
from jupyter_dlenv.gpus.model import Mig
from jupyter_dlenv.gpus.reach import explain_loss, lost_nodes
from jupyter_dlenv.resources import GpuAccess, GpuGrant

SLICE = Mig("MIG-11111111-aaaa-bbbb-cccc-000000000000", 1, gpu_instance=9, compute_instance=0)

PLAIN = DaemonInfo(version="20.10.24", address="unix:///var/run/docker.sock", runtimes=("runc",))
WITH_CDI = DaemonInfo(version="28.3.0", address="unix:///var/run/docker.sock", cdi_dirs=("/etc/cdi", "/var/run/cdi"))
DRIVER = DriverFiles(
    nodes=("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"),
    libraries={"libcuda.so.1": "/usr/lib/libcuda.so.550.1"},
)
ONE = frozenset({"nvidia.com/gpu=0"})


def facts(**changes: Any) -> AccessFacts:
    values: dict[str, Any] = {"daemon": PLAIN, "hook": False, "driver": DRIVER}
    return AccessFacts(**{**values, **changes})


# Which way ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (facts(daemon=WITH_CDI, cdi_devices=ONE, hook=True), GpuAccess.CDI),
        (facts(daemon=WITH_CDI, hook=True), GpuAccess.TOOLKIT),
        (facts(hook=True), GpuAccess.TOOLKIT),
        (facts(daemon=DaemonInfo(runtimes=("nvidia", "runc"))), GpuAccess.TOOLKIT),
        (facts(hook=None, local=False), GpuAccess.TOOLKIT),
        (facts(), GpuAccess.DEVICES),
    ],
)
def test_the_first_way_that_works_is_taken(found: AccessFacts, expected: GpuAccess) -> None:
    assert choose_access("auto", found) is expected


def test_a_setting_goes_before_what_would_be_chosen() -> None:
    every = facts(daemon=WITH_CDI, cdi_devices=ONE, hook=True)
    assert [choose_access(way, every).value for way in ("cdi", "toolkit", "devices")] == ["cdi", "toolkit", "devices"]


NO_NODES = DriverFiles(libraries=DRIVER.libraries)
NO_UVM = DriverFiles(nodes=("/dev/nvidiactl",), libraries=DRIVER.libraries)
NO_CUDA = DriverFiles(nodes=DRIVER.nodes)


@pytest.mark.parametrize(
    ("setting", "found", "missing", "remedy"),
    [
        ("cdi", facts(), "Engine 25 or newer .* 20.10.24", "cdi.enabled"),
        ("cdi", facts(daemon=WITH_CDI), "No CDI specification in /etc/cdi, /var/run/cdi", "nvidia-ctk cdi generate"),
        ("toolkit", facts(), "nvidia-container-runtime-hook", "apt-get install nvidia-container-toolkit"),
        ("devices", facts(driver=NO_NODES), "/dev/nvidiactl is missing", "nvidia-driver"),
        ("devices", facts(driver=NO_CUDA), "libcuda.so.1 is missing", "nvidia-driver"),
        ("devices", facts(driver=NO_UVM), "/dev/nvidia-uvm", "nvidia-modprobe"),
        ("devices", facts(local=False), "on this host", "toolkit"),
        ("auto", facts(driver=NO_UVM), "Container Toolkit is not set up", "nvidia-ctk runtime configure"),
        ("auto", facts(driver=DriverFiles()), "driver is not on this host", "nvidia-driver"),
    ],
)
def test_what_is_missing_is_told_with_the_remedy(setting: str, found: AccessFacts, missing: str, remedy: str) -> None:
    with pytest.raises(NoGpu, match=missing) as caught:
        choose_access(setting, found)
    command, _newline, offer = caught.value.hint.partition("\n")
    assert remedy in command
    assert "--nproc" in offer


# What a container is given --------------------------------------------------------------------------------------------


def test_nothing_is_granted_for_nothing() -> None:
    assert grant([], GpuAccess.DEVICES, facts()) == GpuGrant(access=GpuAccess.DEVICES)


def test_the_toolkit_takes_uuids() -> None:
    given = grant([unit(0), unit(3, mig=SLICE)], GpuAccess.TOOLKIT, facts(), shared=True)
    uuids = (unit(0).uuid, SLICE.uuid)
    env = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    assert given == GpuGrant(uuids, GpuAccess.TOOLKIT, devices=uuids, env=env, shared=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([unit(1).uuid, "1"], unit(1).uuid),
        (["0", "1", "all"], "1"),
        (["gpu0", "gpu1", "all"], "gpu1"),
    ],
)
def test_cdi_takes_the_uuid_before_the_index(names: list[str], expected: str) -> None:
    offered = frozenset(f"nvidia.com/gpu={name}" for name in names)
    given = grant([unit(1)], GpuAccess.CDI, facts(daemon=WITH_CDI, cdi_devices=offered))
    assert given.devices == (f"nvidia.com/gpu={expected}",)
    assert given.uuids == (unit(1).uuid,)


@pytest.mark.parametrize("name", [SLICE.uuid, "0:1", "mig0:1"])
def test_cdi_knows_mig_devices_by_each_of_their_names(name: str) -> None:
    offered = frozenset({f"nvidia.com/gpu={name}", "nvidia.com/gpu=0", "nvidia.com/gpu=all"})
    given = grant([unit(0, mig=SLICE)], GpuAccess.CDI, facts(daemon=WITH_CDI, cdi_devices=offered))
    assert given.devices == (f"nvidia.com/gpu={name}",)


def test_cdi_never_takes_all_for_one() -> None:
    offered = frozenset({"nvidia.com/gpu=all", "nvidia.com/gpu=0"})
    with pytest.raises(NoGpu, match="older than the GPU"):
        grant([unit(1)], GpuAccess.CDI, facts(daemon=WITH_CDI, cdi_devices=offered))


def test_plain_nodes_are_those_of_the_leased_gpus_alone() -> None:
    assert device_nodes([unit(1)], DRIVER) == (
        "/dev/nvidiactl",
        "/dev/nvidia-uvm",
        "/dev/nvidia-uvm-tools",
        "/dev/nvidia1",
    )
    with pytest.raises(NoGpu, match="/dev/nvidia2 is not"):
        device_nodes([unit(2)], DRIVER)


def test_two_slices_of_one_gpu_share_its_node_and_are_named() -> None:
    second = Mig("MIG-22222222-aaaa-bbbb-cccc-000000000000", 2, gpu_instance=11, compute_instance=0)
    capabilities = {
        f"gpu0/mig/gi{gi}/{end}": gi * 9 + (end == "access") for gi in (9, 11) for end in ("access", "ci0/access")
    }
    caps = tuple(f"/dev/nvidia-caps/nvidia-cap{number}" for number in sorted(capabilities.values()))
    driver = DriverFiles(nodes=(*DRIVER.nodes, *caps), capabilities=capabilities, libraries=DRIVER.libraries)
    units = [unit(0, mig=SLICE), unit(0, mig=second)]
    given = grant(units, GpuAccess.DEVICES, facts(driver=driver))
    assert given.nodes.count("/dev/nvidia0") == 1
    assert "/dev/nvidia1" not in given.nodes
    assert set(caps) <= set(given.nodes)
    assert given.env["CUDA_VISIBLE_DEVICES"] == f"{SLICE.uuid},{second.uuid}"
    only = grant(units[:1], GpuAccess.DEVICES, facts(driver=driver)).nodes
    assert [path for path in only if "caps" in path] == [
        "/dev/nvidia-caps/nvidia-cap82",
        "/dev/nvidia-caps/nvidia-cap81",
    ]


def test_a_slice_without_its_capability_is_refused() -> None:
    with pytest.raises(NoGpu, match="gpu0/mig/gi9/access is missing"):
        device_nodes([unit(0, mig=SLICE)], DRIVER)


# What is read from a host ---------------------------------------------------------------------------------------------

LDCONFIG = """1234 libs found in cache `/etc/ld.so.cache'
\tlibnvidia-ptxjitcompiler.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1
\tlibnvidia-ml.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1
\tlibnvidia-gpucomp.so.550.54.14 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-gpucomp.so.550.54.14
\tlibnvidia-glcore.so.550.54.14 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.550.54.14
\tlibcudart.so.12 (libc6,x86-64) => /usr/local/cuda/lib64/libcudart.so.12
\tlibcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1
\tlibcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1
\tlibcuda.so (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so
\tlibcuda.so.1 (libc6,AArch64) => /usr/lib/aarch64-linux-gnu/libcuda.so.1
Cache generated by: ldconfig (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36
"""


def test_the_driver_s_libraries_are_told_from_all_others() -> None:
    found = cached_libraries(LDCONFIG, "x86_64")
    assert [name for name, _path in found] == [
        "libnvidia-ptxjitcompiler.so.1",
        "libnvidia-ml.so.1",
        "libnvidia-gpucomp.so.550.54.14",
        "libcuda.so.1",
    ]
    assert cached_libraries(LDCONFIG, "aarch64") == [("libcuda.so.1", "/usr/lib/aarch64-linux-gnu/libcuda.so.1")]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with a driver: nodes, libraries in the linker's cache, and what the kernel module tells."""
    root = tmp_path / "host"
    library = root / "usr/lib/libcuda.so.550.1"
    library.parent.mkdir(parents=True)
    source = "int cuInit(unsigned flags) { return (int)flags + 40; }"
    build = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-xc", "-", "-o", str(library)]
    subprocess.run(build, input=source.encode(), check=True)
    (root / "etc").mkdir()
    (root / "etc/ld.so.conf").write_text("/usr/lib\n")
    (library.parent / "libcuda.so.1").symlink_to(library.name)
    subprocess.run(["/sbin/ldconfig", "-r", str(root), "-C", "/etc/ld.so.cache"], check=True)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/nvidia-smi").write_text("#!/bin/sh\necho stand-in\n")
    (root / "usr/bin/nvidia-smi").chmod(0o755)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia-caps/nvidia-cap12", "sda"):
        (root / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / name).touch()
    kernel = root / "proc/driver/nvidia"
    about = kernel / "gpus/0000:17:00.0/information"
    about.parent.mkdir(parents=True)
    about.write_text(f"Model: \t\t Stand-in\nGPU UUID: \t {unit(5).uuid}\nDevice Minor: \t 1\n")
    for place, number in {"gi9": 12, "gi9/ci0": 13}.items():
        folder = kernel / "capabilities/gpu0/mig" / place
        folder.mkdir(parents=True)
        (folder / "access").write_text(f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    return root


def test_a_host_s_driver_is_found(host: Path) -> None:
    found = find_driver_files(host)
    caps = ("/dev/nvidia-caps/nvidia-cap12",)
    assert found.nodes == (*sorted(caps), "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl")
    assert found.minors == {unit(5).uuid: 1}
    assert found.capabilities == {"gpu0/mig/gi9/access": 12, "gpu0/mig/gi9/ci0/access": 13}
    assert found.libraries == {"libcuda.so.1": str(host / "usr/lib/libcuda.so.550.1")}
    assert found.nvidia_smi == str(host / "usr/bin/nvidia-smi")


def test_a_host_without_a_driver_has_nothing(tmp_path: Path) -> None:
    assert find_driver_files(tmp_path) == DriverFiles()


def specification(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


YAML = """---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: GPU-00000001-aaaa-bbbb-cccc-000000000000
- name: all
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", YAML, ["0", unit(1).uuid, "all"]),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": [{"name": "0:1"}]}', ["0:1"]),
        ("a.yaml", "kind: vendor.com/net\ndevices: [{name: eth0}]", []),
        ("a.yaml", "kind: [", []),
        ("a.yaml", "!!python/object/apply:os.getcwd []", []),
        ("a.json", "[]", []),
        ("a.json", "{", []),
        ("a.json", '{"kind": "nvidia.com/gpu", "devices": null}', []),
    ],
)
def test_cdi_specifications_are_read(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    found = spec_devices(specification(tmp_path / name, text))
    assert found == [f"nvidia.com/gpu={each}" for each in expected]


class FakeEngine(DockerEngine):
    """An engine whose daemon says what a newer one than these tests' own would."""

    def __init__(self, **info: Any) -> None:
        super().__init__()
        self._info = info

    def info(self) -> DaemonInfo:
        return daemon_info(self._info, "unix:///nowhere/docker.sock")


def test_cdi_devices_are_those_that_the_daemon_lists(host: Path) -> None:
    specification(host / "etc/cdi/nvidia.yaml", YAML)
    listed = [{"Source": "cdi", "ID": "nvidia.com/gpu=3"}, {"Source": "cdi", "ID": "vendor.com/net=0"}]
    dirs = ["/etc/cdi", "/var/run/cdi"]
    newest = gather(FakeEngine(ServerVersion="28.3.0", CDISpecDirs=dirs, DiscoveredDevices=listed), host)
    assert newest.cdi_devices == {"nvidia.com/gpu=3"}
    older = gather(FakeEngine(ServerVersion="26.1.0", CDISpecDirs=dirs), host)
    assert older.cdi_devices == {f"nvidia.com/gpu={name}" for name in ("0", unit(1).uuid, "all")}
    assert choose_access("auto", older) is GpuAccess.CDI
    off = gather(FakeEngine(ServerVersion="26.1.0", CDISpecDirs=None), host)
    assert off.cdi_devices == frozenset()
    assert choose_access("auto", off) is GpuAccess.DEVICES


def test_without_the_daemon_s_environment_the_standard_path_tells(host: Path) -> None:
    assert gather(FakeEngine(), host).hook is False
    specification(host / "usr/bin" / access.HOOK, "").chmod(0o755)
    assert gather(FakeEngine(), host).hook is True


def test_of_a_daemon_elsewhere_nothing_is_known(monkeypatch: pytest.MonkeyPatch, host: Path) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine, "info", lambda: daemon_info({}, "tcp://gpu-host:2376"))
    found = gather(engine, host)
    assert (found.local, found.hook) == (False, None)


# What the daemon and the probe say ------------------------------------------------------------------------------------


def refusal(text: str) -> APIError:
    return APIError("500 Server Error", explanation=text)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        (
            'could not select device driver "nvidia" with capabilities: [[gpu compute utility]]',
            "Container Toolkit is not set up",
            "nvidia-ctk runtime configure",
        ),
        ('could not select device driver "cdi" with capabilities: []', "not switched on", "--cdi.enabled"),
        (
            "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=7",
            "does not list these GPUs",
            "nvidia-ctk cdi generate",
        ),
        (
            'error gathering device information while adding custom device "/dev/nvidia3": no such file or directory',
            "/dev/nvidia3 is gone",
            "nvidia-smi",
        ),
        (
            "OCI runtime create failed: error running hook #0: exit status 1, stdout: , stderr: "
            "nvidia-container-cli: device error: GPU-7: unknown device: unknown",
            "GPU-7: unknown device$",
            "nvidia-smi",
        ),
        ('exec: "nvidia-container-runtime-hook": executable file not found in $PATH', "not set up", "nvidia-ctk"),
    ],
)
def test_docker_s_words_about_gpus_become_ours(text: str, message: str, remedy: str) -> None:
    error = api_failure(refusal(text))
    assert isinstance(error, NoGpu)
    assert re.search(message, error.message), error.message
    assert remedy in error.hint
    assert "--nproc" in error.hint


def test_another_device_that_is_gone_is_no_gpu() -> None:
    error = api_failure(
        refusal('failed to create: gathering device information while adding custom device "/dev/fuse"')
    )
    assert isinstance(error, StartFailed)


def test_only_pinned_memory_is_given_up_when_the_daemon_may_not_grant_it() -> None:
    core = {"Name": "core", "Soft": 0, "Hard": 0}
    body = {"Image": "x", "HostConfig": {"Ulimits": [core, {"Name": "memlock", "Soft": -1, "Hard": -1}], "Init": True}}
    message = "error setting rlimits for ready process: error setting rlimit type 8: operation not permitted"
    assert without_pinning(body, message) == {"Image": "x", "HostConfig": {"Ulimits": [core], "Init": True}}
    assert without_pinning(body, "no space left") is None
    assert without_pinning({"HostConfig": {"Ulimits": [core]}}, message) is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (b"DLENV_REACH /dev/nvidia0 /dev/nvidiactl\n", ("/dev/nvidia0", "/dev/nvidiactl")),
        (b"a warning\nDLENV_REACH \n", ()),
        (b"sh: not found\n", None),
        (b"", None),
    ],
)
def test_the_probe_s_answer(output: bytes, expected: tuple[str, ...] | None) -> None:
    assert lost_nodes(output) == expected


def test_a_loss_is_explained_with_what_prevents_it() -> None:
    error = explain_loss(("/dev/nvidia0", "/dev/nvidiactl"), cgroup_driver="systemd")
    assert "/dev/nvidia0, /dev/nvidiactl" in error.message
    assert "daemon-reload" in error.message
    assert "native.cgroupdriver=cgroupfs" in error.hint
    assert "cgroupfs" not in explain_loss(("/dev/nvidia0",), cgroup_driver="cgroupfs").hint


def test_the_doctor_says_which_way_and_why() -> None:
    chosen = access_finding("auto", GpuAccess.DEVICES, facts())
    assert chosen.message == (
        "Containers get GPUs by plain device nodes and 1 libraries of the driver (the first that works here)."
    )
    assert "c.DLEnv.gpu_access = 'cdi'" in access_finding("cdi", GpuAccess.CDI, facts(cdi_devices=ONE)).message


@pytest.mark.parametrize(
    ("way", "driver", "version", "levels"),
    [
        (GpuAccess.TOOLKIT, "cgroupfs", "1.19.1", []),
        (GpuAccess.TOOLKIT, "cgroupfs", "1.17.8", ["problem"]),
        (GpuAccess.TOOLKIT, "cgroupfs", "", []),
        (GpuAccess.TOOLKIT, "systemd", "1.20.0", ["note"]),
        (GpuAccess.CDI, "systemd", "1.19.0", ["problem"]),
        (GpuAccess.DEVICES, "systemd", "1.0", []),
    ],
)
def test_the_doctor_knows_the_toolkit_s_weak_points(
    way: GpuAccess, driver: str, version: str, levels: list[str]
) -> None:
    found = toolkit_findings(way, DaemonInfo(cgroup_driver=driver), version)
    assert [each.level for each in found] == levels
    assert all(each.remedy for each in found)


# Plain device nodes for real ------------------------------------------------------------------------------------------


@pytest.fixture
def nodes() -> Iterator[None]:
    """Device nodes as a driver makes them, of a harmless device; those of a real driver stay as they are."""
    if os.geteuid() != 0:
        pytest.skip("only root can make device nodes")
    wanted = [f"/dev/{name}" for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")]
    made = [path for path in wanted if not os.path.exists(path)]
    for path in made:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        os.chmod(path, 0o666)
    try:
        yield
    finally:
        for path in made:
            os.unlink(path)


LOOK = """
import ctypes, glob, os, subprocess
print(*sorted(glob.glob("/dev/nvidia*")))
print(*sorted(os.listdir("/dlenv/driver")))
print(ctypes.CDLL("libcuda.so.1").cuInit(2))
print(subprocess.check_output(["nvidia-smi"], text=True).strip())
print(len([os.open(path, os.O_RDWR) for path in glob.glob("/dev/nvidia*")]))
print(all(os.statvfs(path).f_flag & os.ST_RDONLY for path in glob.glob("/dlenv/driver/**/*.*", recursive=True)))
"""


@pytest.mark.docker
async def test_a_container_gets_its_nodes_and_the_driver_s_libraries(nodes: None, host: Path) -> None:
    docker_images.engine()
    engine = DockerEngine()
    given = grant([unit(1)], GpuAccess.DEVICES, gather(engine, host))
    spec = sleeper(engine, given, env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/opt/own"})
    job = await engine.submit(engine.plan(spec))
    try:
        code, output = await engine.execute(job.native_id, ["/usr/bin/python3", "-c", LOOK])
        variables = await engine.execute(
            job.native_id, ["printenv", "LD_LIBRARY_PATH", "PATH", "NVIDIA_VISIBLE_DEVICES"]
        )
    finally:
        await engine.remove(spec.id)
    assert code == 0, output
    assert output.decode().splitlines() == [
        "/dev/nvidia-uvm /dev/nvidia1 /dev/nvidiactl",
        "bin libcuda.so libcuda.so.1",
        "42",
        "stand-in",
        "3",
        "True",
    ]
    assert variables[1].decode().split() == ["/dlenv/driver:/opt/own", "/usr/bin:/bin:/dlenv/driver/bin", unit(1).uuid]


@pytest.mark.docker
async def test_a_node_that_goes_away_is_named(nodes: None, host: Path) -> None:
    docker_images.engine()
    engine = DockerEngine()
    (host / "dev/nvidia9").touch()
    given = grant([unit(9)], GpuAccess.DEVICES, gather(engine, host))
    spec = sleeper(engine, given)
    with pytest.raises(NoGpu, match="/dev/nvidia9 is gone"):
        await engine.submit(engine.plan(spec))
    assert await engine.poll([spec.id]) == {}
