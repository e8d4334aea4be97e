"""JobSpec -> create body, as whole values, and the gate before the daemon."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest

from jupyter_dlenv.engines.docker.failures import without_pinning
from jupyter_dlenv.engines.docker.names import id_in, network_name
from jupyter_dlenv.engines.docker.request import (
    assert_safe,
    command_line,
    create_body,
    network_request,
    require_source,
    shm_bytes,
)
from jupyter_dlenv.errors import Denied
from jupyter_dlenv.resources import GpuAccess, GpuGrant, GpuRequest, Mount, Resources
from jupyter_dlenv.spec import End, Identity, JobSpec, Role, labels_of

ID = "5ab4c0de-0000-4000-8000-000000000000"
IMAGE = "sha256:" + "a" * 64


def spec(**changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "id": ID,
        "role": Role.TRAINER,
        "argv": ("/usr/bin/python3", "/nb/实验 1:a/train.py", "--lr", "0.1"),
        "workdir": "/nb/实验 1:a",
        "run_dir": "/jobs/run",
        "owner": "alice",
        "image": IMAGE,
        "image_ref": "lab/torch:1",
        "python": "/usr/bin/python3",
        "env": {"HOME": "/dlenv/home"},
        "mounts": (Mount("/nb", "/nb"), Mount("/data", "/data", read_only=True)),
        "mask_dirs": ("/nb/.ssh",),
        "mask_files": ("/nb/.netrc",),
        "identity": Identity(1000, 1000, (44,), "alice"),
        "resources": Resources(memory_bytes=8 << 30, cpus=2),
    }
    return JobSpec(**{**values, **changes})


def bind(source: str, target: str, read_only: bool) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only, "BindOptions": options}


def test_a_training_container_as_a_whole() -> None:
    job = spec()
    mask = {"Type": "tmpfs", "Target": "/nb/.ssh", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o555}}
    assert create_body(job) == {
        "Image": IMAGE,
        "Hostname": "dlenv-5ab4c0de",
        "User": "1000:1000",
        "Entrypoint": ["/usr/bin/python3", "-I", "-S", "/dlenv/shim", "/dlenv/run", "0"],
        "Cmd": [],
        "WorkingDir": "/nb/实验 1:a",
        "Env": ["HOME=/dlenv/home", "NVIDIA_VISIBLE_DEVICES=void"],
        "Labels": labels_of(job),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": {
            "Mounts": [
                bind("/nb", "/nb", False),
                bind("/data", "/data", True),
                mask,
                bind("/dev/null", "/nb/.netrc", True),
            ],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Init": True,
            "IpcMode": "private",
            "ShmSize": 4 << 30,
            "PidsLimit": 16384,
            "NetworkMode": "bridge",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "local", "Config": {"max-size": "20m", "max-file": "2"}},
            "GroupAdd": ["44"],
            "OomScoreAdj": 500,
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "Memory": 8 << 30,
            "MemorySwap": 8 << 30,
            "NanoCpus": 2_000_000_000,
        },
    }


GPUS = {
    GpuAccess.TOOLKIT: GpuGrant(
        ("GPU-1", "GPU-2"), devices=("GPU-1", "GPU-2"), env={"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
    ),
    GpuAccess.CDI: GpuGrant(("GPU-1", "MIG-2"), GpuAccess.CDI, devices=("nvidia.com/gpu=GPU-1", "nvidia.com/gpu=0:1")),
    GpuAccess.DEVICES: GpuGrant(
        ("GPU-1",),
        GpuAccess.DEVICES,
        nodes=("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia7", "/dev/nvidia-caps/nvidia-cap12"),
        libraries=(Mount("/usr/lib/libcuda.so.550.1", "/dlenv/driver/libcuda.so.1", read_only=True),),
        env={"LD_LIBRARY_PATH": "/dlenv/driver", "PATH": "/dlenv/driver/bin"},
    ),
}


def test_the_toolkit_is_asked_for_uuids() -> None:
    body = create_body(spec(gpus=GPUS[GpuAccess.TOOLKIT]))
    assert body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "nvidia", "DeviceIDs": ["GPU-1", "GPU-2"], "Capabilities": [["gpu", "compute", "utility"]]}
    ]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2" in body["Env"]
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in body["Env"]
    assert body["Labels"]["io.jupyter-dlenv.lease"] == "GPU-1,GPU-2"
    assert {"Name": "memlock", "Soft": -1, "Hard": -1} in body["HostConfig"]["Ulimits"]


def test_cdi_is_asked_for_qualified_names() -> None:
    body = create_body(spec(gpus=GPUS[GpuAccess.CDI]))
    assert body["HostConfig"]["DeviceRequests"] == [
        {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=0:1"]}
    ]
    assert "NVIDIA_VISIBLE_DEVICES=GPU-1,MIG-2" in body["Env"]
    assert body["Labels"]["io.jupyter-dlenv.lease"] == "GPU-1,MIG-2"


def test_plain_device_nodes_come_with_the_driver_s_libraries() -> None:
    env = {"LD_LIBRARY_PATH": "/opt/lib", "PATH": "/opt/bin:/usr/bin"}
    body = create_body(spec(env=env, gpus=GPUS[GpuAccess.DEVICES], mounts=(), mask_dirs=(), mask_files=()))
    host = body["HostConfig"]
    assert "DeviceRequests" not in host
    assert host["Devices"] == [
        {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}
        for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia7", "/dev/nvidia-caps/nvidia-cap12")
    ]
    assert host["Mounts"] == [bind("/usr/lib/libcuda.so.550.1", "/dlenv/driver/libcuda.so.1", True)]
    assert body["Env"] == [
        "LD_LIBRARY_PATH=/dlenv/driver:/opt/lib",
        "PATH=/opt/bin:/usr/bin:/dlenv/driver/bin",
        "NVIDIA_VISIBLE_DEVICES=GPU-1",
    ]


def test_search_paths_that_only_the_image_sets_stay_whole() -> None:
    body = create_body(spec(env={}, gpus=GPUS[GpuAccess.DEVICES]))
    assert body["Env"] == ["LD_LIBRARY_PATH=/dlenv/driver", "NVIDIA_VISIBLE_DEVICES=GPU-1"]


@pytest.mark.parametrize("access", GPUS)
def test_the_gate_lets_each_way_to_gpus_pass(access: GpuAccess) -> None:
    assert_safe(create_body(spec(gpus=GPUS[access])))


@pytest.mark.parametrize(
    ("access", "words"),
    [
        (GpuAccess.TOOLKIT, """--gpus '"device=GPU-1,GPU-2"'"""),
        (GpuAccess.CDI, "--device nvidia.com/gpu=GPU-1 --device nvidia.com/gpu=0:1"),
        (GpuAccess.DEVICES, "--device /dev/nvidiactl:/dev/nvidiactl:rw"),
        (GpuAccess.DEVICES, "type=bind,source=/usr/lib/libcuda.so.550.1,target=/dlenv/driver/libcuda.so.1,readonly"),
        (GpuAccess.DEVICES, "--env LD_LIBRARY_PATH=/dlenv/driver"),
    ],
)
def test_the_command_for_people_shows_the_way_to_gpus(access: GpuAccess, words: str) -> None:
    assert words in command_line(spec(gpus=GPUS[access]))


NODE = {"PathOnHost": "/dev/nvidia0", "PathInContainer": "/dev/nvidia0", "CgroupPermissions": "rw"}
REQUEST = {"Driver": "nvidia", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}


@pytest.mark.parametrize(
    "host",
    [
        {"Devices": [{**NODE, "PathOnHost": path, "PathInContainer": path}]}
        for path in ("/dev/sda", "/dev/nvidia0/../sda", "/dev/nvidia", "/dev/nvidia-modeset", "/dev/nvidia0\n", "")
    ]
    + [
        {"Devices": [{**NODE, "PathInContainer": "/dev/mem"}]},
        {"Devices": [{**NODE, "CgroupPermissions": "rwm"}]},
        {"Devices": [{**NODE, "Other": "1"}]},
        {"Devices": [NODE, {"PathOnHost": "/dev/sda"}]},
        {"DeviceCgroupRules": ["c *:* rwm"]},
    ]
    + [
        {"DeviceRequests": [change]}
        for change in (
            {**REQUEST, "Count": -1},
            {**REQUEST, "Count": 1, "DeviceIDs": []},
            {**REQUEST, "DeviceIDs": []},
            {**REQUEST, "DeviceIDs": ["all"]},
            {**REQUEST, "DeviceIDs": ["0"]},
            {**REQUEST, "Driver": ""},
            {**REQUEST, "Options": {"x": "y"}},
            {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]},
            {"Driver": "cdi", "DeviceIDs": ["vendor.com/device=1"]},
            {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=all"]},
        )
    ],
)
def test_the_gate_refuses_devices_that_were_not_leased(host: dict[str, Any]) -> None:
    body = copy.deepcopy(create_body(spec(gpus=GpuGrant(("GPU-1",)))))
    body["HostConfig"].update(host)
    with pytest.raises(Denied, match="devices"):
        assert_safe(body)


@pytest.mark.parametrize("host", [{"Devices": [NODE]}, {"DeviceRequests": [REQUEST]}])
def test_the_gate_refuses_devices_without_a_lease(host: dict[str, Any]) -> None:
    body = copy.deepcopy(create_body(spec()))
    body["HostConfig"].update(host)
    with pytest.raises(Denied, match="devices"):
        assert_safe(body)


@pytest.mark.parametrize("items", [["NVIDIA_VISIBLE_DEVICES=all"], ["NVIDIA_VISIBLE_DEVICES=GPU-1"] * 2])
def test_the_gate_refuses_to_show_more(items: list[str]) -> None:
    with pytest.raises(Denied, match="visible devices"):
        assert_safe({**create_body(spec()), "Env": items})


def test_without_network_the_own_name_resolves() -> None:
    body = create_body(spec(network="none"))
    assert body["HostConfig"]["ExtraHosts"] == ["dlenv-5ab4c0de:127.0.0.1"]


GANG = {"replicas": 2, "mounts": (), "mask_dirs": (), "mask_files": (), "resources": Resources()}
NETWORK = f"dlenv-{ID}-1"


def test_each_replica_has_its_name_its_share_and_the_digest_of_the_whole() -> None:
    shares = (GpuGrant(("GPU-1",), devices=("GPU-1",)), GpuGrant(("GPU-2",), devices=("GPU-2",)))
    whole = spec(**GANG, gpus=GpuGrant(("GPU-1", "GPU-2"), devices=("GPU-1", "GPU-2"), shares=shares), ends=End.LEADER)
    bodies = [create_body(whole, index) for index in range(2)]
    assert [body["Hostname"] for body in bodies] == ["node-0", "node-1"]
    assert [body["Entrypoint"][-2:] for body in bodies] == [["/dlenv/run", "0"], ["/dlenv/run", "1"]]
    assert [body["HostConfig"]["DeviceRequests"][0]["DeviceIDs"] for body in bodies] == [["GPU-1"], ["GPU-2"]]
    assert [body["Env"][-1] for body in bodies] == ["NVIDIA_VISIBLE_DEVICES=GPU-1", "NVIDIA_VISIBLE_DEVICES=GPU-2"]
    for index, body in enumerate(bodies):
        labels = {key.removeprefix("io.jupyter-dlenv."): value for key, value in body["Labels"].items()}
        assert labels["spec"] == whole.digest()
        assert (labels["lease"], labels["nodes"], labels["node"]) == (f"GPU-{index + 1}", "2", str(index))
        assert labels["ends"] == "leader"


def test_replicas_meet_in_a_network_of_their_own() -> None:
    body = create_body(spec(**GANG, node_rank=4), 1)
    assert body["HostConfig"]["NetworkMode"] == NETWORK
    assert body["NetworkingConfig"] == {"EndpointsConfig": {NETWORK: {"Aliases": ["node-5"]}}}
    assert "Dns" not in body["HostConfig"]
    request = network_request(spec(**GANG))
    assert (request["name"], request["internal"], request["options"]) == (NETWORK, False, {})
    assert request["labels"]["io.jupyter-dlenv.spec"] == spec(**GANG).digest()
    assert "io.jupyter-dlenv.lease" not in request["labels"]


def test_without_network_replicas_meet_where_no_way_leads_out() -> None:
    closed = spec(**GANG, network="none")
    request = network_request(closed)
    assert (request["internal"], request["options"]) == (True, {"com.docker.network.bridge.inhibit_ipv4": "true"})
    host = create_body(closed)["HostConfig"]
    assert (host["NetworkMode"], host["Dns"]) == (NETWORK, ["127.0.0.1"])
    assert host["DnsOptions"] == ["timeout:2", "attempts:1"]
    assert "ExtraHosts" not in host


def test_on_the_host_s_network_replicas_need_none_of_their_own() -> None:
    body = create_body(spec(**GANG, network="host"), 1)
    assert body["HostConfig"]["NetworkMode"] == "host"
    assert "NetworkingConfig" not in body
    assert body["Hostname"] == ""
    assert network_name(spec(**GANG, network="host")) == ""


@pytest.mark.parametrize("network", ["bridge", "none", "host"])
def test_the_gate_lets_replicas_pass(network: str) -> None:
    assert_safe(create_body(spec(**GANG, network=network), 1))


@pytest.mark.parametrize(
    "change",
    [
        {"HostConfig": {"NetworkMode": "dlenv-5ab4c0de-0000-4000-8000-000000000001-1"}},
        {"HostConfig": {"NetworkMode": f"dlenv-{ID}-2"}},
        {"HostConfig": {"NetworkMode": "somebody"}},
        {"HostConfig": {"NetworkMode": "bridge"}},
        {"NetworkingConfig": {}},
        {"NetworkingConfig": {"EndpointsConfig": {NETWORK: {"Aliases": ["node-1"]}}}},
        {"NetworkingConfig": {"EndpointsConfig": {NETWORK: {"Aliases": ["node-0"], "IPAddress": "10.0.0.1"}}}},
        {"NetworkingConfig": {"EndpointsConfig": {NETWORK: {"Aliases": ["node-0"]}, "other": {}}}},
    ],
)
def test_the_gate_refuses_networks_of_others(change: dict[str, Any]) -> None:
    body = copy.deepcopy(create_body(spec(**GANG)))
    body["HostConfig"].update(change.pop("HostConfig", {}))
    with pytest.raises(Denied, match="network"):
        assert_safe({**body, **change})


def test_the_command_for_people_makes_the_network_and_every_replica() -> None:
    lines = command_line(spec(**GANG, network="none")).split("\n")
    create = f"docker network create --internal --opt com.docker.network.bridge.inhibit_ipv4=true {NETWORK}"
    assert lines[0] == create
    assert [shlex.split(line)[:9] for line in lines[1:]] == [
        ["docker", "run", "-d", "--name", f"{NETWORK}-{n}", "--hostname", f"node-{n}", "--network-alias", f"node-{n}"]
        for n in range(2)
    ]
    assert all(f" --network {NETWORK} " in line and " --dns 127.0.0.1 " in line for line in lines[1:])
    assert not any(" -d " in line for line in [command_line(spec())])
    on_host = command_line(spec(**GANG, network="host")).split("\n")
    assert len(on_host) == 2
    assert all("--network host" in line and "--hostname" not in line for line in on_host)


RDMA = ("/dev/infiniband/uverbs0", "/dev/infiniband/rdma_cm")


def test_rdma_needs_its_devices_and_locked_memory_and_nothing_else() -> None:
    body, plain = create_body(spec(rdma=RDMA)), create_body(spec())
    assert body["HostConfig"].pop("Devices") == [
        {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"} for path in RDMA
    ]
    assert body["HostConfig"].pop("Ulimits")[-1] == {"Name": "memlock", "Soft": -1, "Hard": -1}
    plain["HostConfig"].pop("Ulimits")
    assert body["HostConfig"] == plain["HostConfig"]
    words = command_line(spec(rdma=RDMA))
    assert "--device /dev/infiniband/uverbs0:/dev/infiniband/uverbs0:rw" in words
    assert "--ulimit memlock=-1" in words


def test_rdma_and_gpus_go_together() -> None:
    body = create_body(spec(rdma=RDMA, gpus=GPUS[GpuAccess.DEVICES]))
    assert_safe(body)
    paths = [node["PathOnHost"] for node in body["HostConfig"]["Devices"]]
    assert paths == [*GPUS[GpuAccess.DEVICES].nodes, *RDMA]


def test_the_gate_lets_each_rdma_device_pass() -> None:
    names = ("uverbs0", "uverbs12", "rdma_cm", "umad0", "issm3")
    assert_safe(create_body(spec(rdma=tuple(f"/dev/infiniband/{name}" for name in names))))


@pytest.mark.parametrize("name", ["", "uverbs", "uverbs0/../../sda", "ucm0", "../sda", "uverbs0\n"])
def test_the_gate_refuses_what_only_looks_like_rdma(name: str) -> None:
    with pytest.raises(Denied, match="devices"):
        assert_safe(create_body(spec(rdma=(f"/dev/infiniband/{name}",))))


def test_rdma_is_not_started_without_the_memory_that_it_locks() -> None:
    message = "error setting rlimits for ready process: error setting rlimit type 8: operation not permitted"
    assert without_pinning(create_body(spec(rdma=RDMA)), message) is None
    assert without_pinning(create_body(spec(gpus=GPUS[GpuAccess.DEVICES])), message) is not None


def test_names_tell_whose_a_container_is() -> None:
    assert [id_in(name) for name in (f"/dlenv-{ID}-1", f"dlenv-{ID}-12-3")] == [ID, ID]
    assert [id_in(name) for name in (f"dlenv-{ID}", f"dlenv-{ID}-1-2-3", f"x-dlenv-{ID}-1", "dlenv-1-1")] == [""] * 4


def test_a_kernel_runs_without_the_shim() -> None:
    assert create_body(spec(role=Role.KERNEL))["Entrypoint"] == list(spec().argv)


def test_shared_memory_is_never_docker_s_default() -> None:
    assert shm_bytes(spec(resources=Resources())) == 2 << 30
    assert shm_bytes(spec(resources=Resources(memory_bytes=4 << 30))) == 2 << 30
    assert shm_bytes(spec(resources=Resources(shm_bytes=123))) == 123


def test_the_image_s_variables_cannot_open_devices() -> None:
    body = create_body(spec(env={"NVIDIA_VISIBLE_DEVICES": "all"}))
    assert body["Env"] == ["NVIDIA_VISIBLE_DEVICES=void"]


def test_a_command_for_people_hides_and_limits_what_the_container_s_does() -> None:
    line = command_line(spec(network="none"))
    assert "--mount type=tmpfs,target=/nb/.ssh,readonly,tmpfs-size=4096,tmpfs-mode=0555 " in line
    assert "--mount type=bind,source=/dev/null,target=/nb/.netrc,readonly " in line
    assert " --hostname dlenv-5ab4c0de " in line
    assert " --add-host dlenv-5ab4c0de:127.0.0.1 " in line
    assert " --memory 8589934592 --memory-swap 8589934592 " in line
    assert " --ulimit core=0:0 " in line
    assert "--add-host" not in command_line(spec())
    assert "--hostname" not in command_line(spec(network="host"))


def test_a_command_for_people_quotes_what_needs_it() -> None:
    line = command_line(spec(mounts=(Mount('/a,"b', "/c"),), mask_dirs=(), mask_files=()))
    assert '--mount \'type=bind,"source=/a,""b",target=/c\'' in line
    assert line.endswith("--entrypoint /usr/bin/python3 lab/torch:1 '/nb/实验 1:a/train.py' --lr 0.1")


UNSAFE: dict[str, dict[str, Any]] = {
    "image by id": {"Image": "torch:latest"},
    "user": {"User": "root"},
    "healthcheck": {"Healthcheck": None},
    "visible devices": {"Env": []},
    "labels": {"Labels": {}},
}
UNSAFE_HOST: dict[str, dict[str, Any]] = {
    "privileged": {"Privileged": True},
    "capabilities": {"CapAdd": ["SYS_ADMIN"]},
    "no new privileges": {"SecurityOpt": ["seccomp=unconfined"]},
    "namespaces": {"PidMode": "host"},
    "network": {"NetworkMode": "container:other"},
    "ports": {"PortBindings": {"80/tcp": [{}]}},
    "devices": {"Devices": [{"PathOnHost": "/dev/sda"}]},
    "typed mounts": {"Binds": ["/:/host"]},
    "restart": {"RestartPolicy": {"Name": "always"}},
    "log driver": {"LogConfig": {}},
    "groups": {"GroupAdd": ["0"]},
    "mount source": {"Mounts": [bind("/etc", "/x", True)]},
}


@pytest.mark.parametrize("rule", UNSAFE)
def test_the_gate_refuses_an_unsafe_body(rule: str) -> None:
    with pytest.raises(Denied, match=rule):
        assert_safe({**create_body(spec()), **UNSAFE[rule]})


@pytest.mark.parametrize("rule", UNSAFE_HOST)
def test_the_gate_refuses_an_unsafe_host_part(rule: str) -> None:
    body = copy.deepcopy(create_body(spec()))
    body["HostConfig"].update(UNSAFE_HOST[rule])
    with pytest.raises(Denied, match=rule):
        assert_safe(body)


def test_the_gate_lets_a_plain_body_pass() -> None:
    assert_safe(create_body(spec(resources=Resources(gpus=GpuRequest()))))


@pytest.mark.parametrize(
    "source",
    [
        "/",
        "//",
        "/etc",
        "/etc/",
        "/proc/1",
        "/sys",
        "/dev",
        "/run",
        "/var/run/docker.sock",
        "/var/lib/docker/x",
        "/x/docker.sock",
    ],
)
def test_sources_that_no_container_may_see(source: str) -> None:
    with pytest.raises(Denied, match="mount source"):
        require_source(source)


@pytest.mark.parametrize("source", ["/etcetera", "/home/a", "/devel", "/run/user/1000/dlenv/ab"])
def test_sources_that_only_look_alike_pass(source: str) -> None:
    require_source(source)
