"""JobSpec -> the body of Docker's create call, and the gate that every body passes. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import Denied
from ...i18n import _
from ...resources import GpuAccess, GpuGrant, Mount, Share
from ...spec import CONTAINER_ROOT, JobSpec, Role, labels_of
from .names import container_name, host_name, id_in, name_of, network_name
from .shares import is_share, nfs_body, nfs_words

RUN_DIR = f"{CONTAINER_ROOT}/run"
SHIM = f"{CONTAINER_ROOT}/shim"
LABEL_PREFIX = "io.jupyter-dlenv."

_GIB = 1 << 30
_DEFAULT_SHM_BYTES = 2 * _GIB
_MASK_BYTES = 4096
_PIDS_LIMIT = 16384  # threads count too: NCCL and OpenMP start thousands
_GPU_CAPABILITIES = ("gpu", "compute", "utility")
_VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_NO_DEVICES = "void"  # CUDA images carry NVIDIA_VISIBLE_DEVICES=all; without a lease nothing may show

_FORBIDDEN_SOURCES = ("/", "/boot", "/dev", "/etc", "/proc", "/run", "/sys", "/var/lib/docker", "/var/run")
_FORBIDDEN_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_NETWORKS = ("none", "bridge", "host")
_NETWORK_LABELS = ("id", "owner", "role", "attempt", "instance", "name", "spec", "schema")
_NO_GATEWAY = "com.docker.network.bridge.inhibit_ipv4"  # without an address of its own the host cannot be reached
# The container's own, where nobody answers; names of the network are answered before it is asked.
_NO_NAMES = {"Dns": ["127.0.0.1"], "DnsOptions": ["timeout:2", "attempts:1"]}
_GPU_NODE = re.compile(r"/dev/(nvidia\d+|nvidiactl|nvidia-uvm|nvidia-uvm-tools|nvidia-caps/nvidia-cap\d+)")
_RDMA_NODE = re.compile(r"/dev/infiniband/(uverbs\d+|rdma_cm|umad\d+|issm\d+)")
_GPU_ID = {
    "nvidia": re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+"),
    "cdi": re.compile(r"nvidia\.com/gpu=(?!all$)[0-9A-Za-z.:-]+"),
}


def network_request(spec: JobSpec) -> dict[str, Any]:
    """Return what the private network is made of; without a way out when the job may have no network."""
    labels = labels_of(spec, LABEL_PREFIX)
    closed = spec.network == "none"
    return {
        "name": network_name(spec),
        "driver": "bridge",
        "check_duplicate": True,
        "internal": closed,
        "options": {_NO_GATEWAY: "true"} if closed else {},
        "labels": {LABEL_PREFIX + key: labels[LABEL_PREFIX + key] for key in _NETWORK_LABELS},
    }


def shm_bytes(spec: JobSpec) -> int:
    """Return the size of /dev/shm: as asked, else half the memory limit, else 2 GiB; Docker's 64 MB kills loaders."""
    asked, memory = spec.resources.shm_bytes, spec.resources.memory_bytes
    return asked or (max(memory // 2, 64 << 20) if memory else _DEFAULT_SHM_BYTES)


def replica_argv(spec: JobSpec, index: int = 0) -> list[str]:
    """Return what the container runs: a training under the shim, anything else as it is."""
    if spec.role is Role.TRAINER:
        return [spec.python, "-I", "-S", SHIM, RUN_DIR, str(index)]
    return list(spec.argv)


def create_body(spec: JobSpec, index: int = 0) -> dict[str, Any]:
    """Return the whole body of ``POST /containers/create`` for one replica.

    Args:
        spec: The whole job's.
        index: Which of its replicas here.
    """
    one, network, hostname = spec.of_replica(index), network_name(spec), host_name(spec, index)
    return {
        "Image": one.image,
        "Hostname": "" if one.network == "host" else hostname,
        "User": _user(one),
        "Entrypoint": replica_argv(one, index),
        "Cmd": [],
        "WorkingDir": one.workdir,
        "Env": _environment(one),
        "Labels": labels_of(spec, LABEL_PREFIX, index),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": _host_config(one) | (_private(one, network) if network else _public(one, hostname)),
        **({"NetworkingConfig": _known_as(hostname, network)} if network else {}),
        **_lifeline(one),
    }


def _known_as(hostname: str, network: str) -> dict[str, Any]:
    """Return what makes a container's host name resolve for the others in its network."""
    return {"EndpointsConfig": {network: {"Aliases": [hostname]}}}


def _private(spec: JobSpec, network: str) -> dict[str, Any]:
    return {"NetworkMode": network, **(_NO_NAMES if spec.network == "none" else {})}


def _public(spec: JobSpec, hostname: str) -> dict[str, Any]:
    # Without an address for its own name torchrun waits minutes for its rendezvous.
    hosts = {"ExtraHosts": [f"{hostname}:127.0.0.1"]} if spec.network == "none" else {}
    return {"NetworkMode": spec.network, **hosts}


def short_body(image_id: str, argv: Sequence[str], user: str, mounts: Sequence[Mount]) -> dict[str, Any]:
    """Return the body of a short container of ours (a probe, a compile step): no network, nothing but its mounts."""
    return {
        "Image": image_id,
        "User": user,
        "Entrypoint": list(argv),
        "Cmd": [],
        "WorkingDir": "/",
        "Env": [f"{_VISIBLE}={_NO_DEVICES}"],
        "Labels": {LABEL_PREFIX + "short": "1"},
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Mounts": [_bind(mount) for mount in mounts],
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "NetworkMode": "none",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
        },
    }


def _host_config(spec: JobSpec) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Mounts": [mount_body(mount) for mount in (*spec.mounts, *spec.gpus.libraries)] + _masks(spec),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Init": True,
        "IpcMode": "private",
        "ShmSize": shm_bytes(spec),
        "PidsLimit": _PIDS_LIMIT,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "20m", "max-file": "2"}},
        "GroupAdd": [str(gid) for gid in spec.identity.groups] if spec.identity else [],
        "OomScoreAdj": 500,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, *_pinning(spec)],
    }
    if spec.role is Role.SHELL:
        config["AutoRemove"] = True  # by the daemon, because whoever started it may be killed
    return {**config, **_limits(spec), **_devices(spec)}


def _lifeline(spec: JobSpec) -> dict[str, Any]:
    """The first process of a shell's container reads its input, which ends with whoever is attached to it."""
    return {"AttachStdin": True, "OpenStdin": True, "StdinOnce": True} if spec.role is Role.SHELL else {}


def _limits(spec: JobSpec) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if spec.resources.memory_bytes:
        limits["Memory"] = limits["MemorySwap"] = spec.resources.memory_bytes
    if spec.resources.cpus:
        limits["NanoCpus"] = int(spec.resources.cpus * 1e9)
    return limits


def _devices(spec: JobSpec) -> dict[str, Any]:
    gpus = spec.gpus if spec.gpus.uuids else GpuGrant()
    nodes = [*(gpus.nodes if gpus.access is GpuAccess.DEVICES else ()), *spec.rdma]
    return {**({"Devices": [_node(path) for path in nodes]} if nodes else {}), **_device_requests(gpus)}


def _device_requests(gpus: GpuGrant) -> dict[str, Any]:
    if not gpus.uuids or gpus.access is GpuAccess.DEVICES:
        return {}
    if gpus.access is GpuAccess.CDI:
        return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": list(gpus.devices)}]}
    ids = list(gpus.devices or gpus.uuids)
    return {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ids, "Capabilities": [list(_GPU_CAPABILITIES)]}]}


def _node(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}


def _pinning(spec: JobSpec) -> list[dict[str, Any]]:
    """Pinned memory for GPUs and RDMA; not asked for elsewhere: a daemon that is itself confined may not grant it."""
    return [{"Name": "memlock", "Soft": -1, "Hard": -1}] if spec.gpus.uuids or spec.rdma else []


def _user(spec: JobSpec) -> str:
    if spec.identity is None:
        raise Denied(_("A container needs an identity (rule: user)."))
    return f"{spec.identity.uid}:{spec.identity.gid}"


def _environment(spec: JobSpec) -> list[str]:
    gpus = {key: _merged(key, value, spec.env.get(key, "")) for key, value in spec.gpus.env.items()}
    fixed = {_VISIBLE: ",".join(spec.gpus.uuids) or _NO_DEVICES}
    return [f"{key}={value}" for key, value in {**spec.env, **gpus, **fixed}.items() if value or key in spec.env]


def _merged(key: str, value: str, own: str) -> str:
    """Return a variable that goes with the GPUs, joined with the container's own where it is a search path."""
    if key == "LD_LIBRARY_PATH":  # first, because a driver's library that an image carries belongs to another driver
        return f"{value}:{own}" if own else value
    if key == "PATH":  # last, because the image's own programs come first; without any, the image's default holds
        return f"{own}:{value}" if own else ""
    return value


def _bind(mount: Mount) -> dict[str, Any]:
    options = {"Propagation": "rprivate"}
    return {
        "Type": "bind",
        "Source": mount.source,
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": options,
    }


def mount_body(mount: Mount) -> dict[str, Any]:
    """Return what Docker is asked for: a folder of the host, or an NFS share."""
    return nfs_body(mount) if isinstance(mount, Share) else _bind(mount)


def _masks(spec: JobSpec) -> list[dict[str, Any]]:
    options = {"SizeBytes": _MASK_BYTES, "Mode": 0o555}
    dirs = [
        {"Type": "tmpfs", "Target": path, "ReadOnly": True, "TmpfsOptions": dict(options)} for path in spec.mask_dirs
    ]
    return dirs + [_bind(Mount("/dev/null", path, read_only=True)) for path in spec.mask_files]


def assert_safe(body: Mapping[str, Any]) -> None:
    """Refuse a create body that widens what a container may do; called right before it leaves, in production too.

    Raises:
        Denied: Names the rule.
    """
    host = body["HostConfig"]
    rules = {
        "image by id": str(body["Image"]).startswith("sha256:"),
        "user": all(part.isascii() and part.isdigit() for part in str(body["User"]).split(":")),
        "privileged": not host.get("Privileged"),
        "capabilities": host.get("CapDrop") == ["ALL"] and not host.get("CapAdd"),
        "no new privileges": host.get("SecurityOpt") == ["no-new-privileges:true"],
        "namespaces": host.get("IpcMode") == "private" and not (host.get("PidMode") or host.get("UsernsMode")),
        "network": _is_network(body),
        "ports": not (host.get("PortBindings") or host.get("PublishAllPorts")),
        "devices": not host.get("DeviceCgroupRules") and _devices_by_name(body),
        "typed mounts": not (host.get("Binds") or host.get("VolumesFrom")),
        "restart": host.get("RestartPolicy") == {"Name": "no"},
        "log driver": bool(host.get("LogConfig", {}).get("Type")),
        "healthcheck": body.get("Healthcheck") == {"Test": ["NONE"]},
        "labels": bool(body.get("Labels", {}).get(LABEL_PREFIX + "owner")),
        "visible devices": len(_visible(body)) == 1 and "all" not in _visible(body)[0].split(","),
        "groups": "0" not in host.get("GroupAdd", []),
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if broken:
        raise Denied(_("This container would not be safe (rule: {rule}).").format(rule=broken[0]))
    for mount in host["Mounts"]:
        if mount["Type"] == "bind" and mount["Source"] != "/dev/null":
            require_source(mount["Source"])
        elif mount["Type"] not in ("bind", "tmpfs") and not is_share(mount):
            message = _("Mounts of type {type} are not allowed (rule: typed mounts).")
            raise Denied(message.format(type=mount["Type"]))


def _is_network(body: Mapping[str, Any]) -> bool:
    """True when a body joins one of Docker's own networks, or the one that was made for its job alone."""
    mode, labels, joined = body["HostConfig"].get("NetworkMode"), body["Labels"], body.get("NetworkingConfig")
    if mode in _NETWORKS:
        return not joined
    own = name_of(str(labels.get(LABEL_PREFIX + "id")), int(labels.get(LABEL_PREFIX + "attempt", 0)))
    return mode == own and bool(id_in(own)) and joined == _known_as(str(body.get("Hostname")), own)


def _visible(body: Mapping[str, Any]) -> list[str]:
    return [item.partition("=")[2] for item in map(str, body["Env"]) if item.startswith(f"{_VISIBLE}=")]


def _devices_by_name(body: Mapping[str, Any]) -> bool:
    """True when a body asks for named NVIDIA and RDMA devices only: a count would be GPUs 0..N-1 for everybody."""
    nodes, requests = body["HostConfig"].get("Devices") or [], body["HostConfig"].get("DeviceRequests") or []
    leased = _visible(body) not in ([], [""], [_NO_DEVICES])
    gpus = [node for node in nodes if not _is_node(node, _RDMA_NODE)]
    named = all(_is_node(node, _GPU_NODE) for node in gpus) and all(map(_names_gpus, requests))
    return named and (leased or not (gpus or requests))


def _is_node(device: Mapping[str, Any], pattern: re.Pattern[str]) -> bool:
    path = str(device.get("PathOnHost"))
    return bool(pattern.fullmatch(path)) and device == _node(path)


def _names_gpus(request: Mapping[str, Any]) -> bool:
    pattern, ids = _GPU_ID.get(str(request.get("Driver"))), request.get("DeviceIDs")
    if pattern is None or not ids or not set(request) <= {"Driver", "DeviceIDs", "Capabilities"}:
        return False
    return all(pattern.fullmatch(str(each)) for each in ids)


def require_source(path: str) -> None:
    """Refuse host folders that no container may see.

    Raises:
        Denied: Names the rule and the folder.
    """
    clean = "/" + "/".join(part for part in path.split("/") if part)
    inside = any(clean == root or (root != "/" and clean.startswith(root + "/")) for root in _FORBIDDEN_SOURCES)
    runtime_dir = clean.startswith("/run/user/") and "/dlenv/" in clean  # the private folders of kernels live there
    if (inside and not runtime_dir) or clean.rsplit("/", 1)[-1] in _FORBIDDEN_SOCKETS:
        raise Denied(
            _("{path} may not be mounted into a container (rule: mount source).").format(path=path),
            hint=_("Mount a folder of your own: --mount /path/to/data:/path/to/data:ro"),
        )


def command_line(spec: JobSpec) -> str:
    """Return the containers as commands for a person to read; values of ``-e KEY`` are not in a spec."""
    if spec.replicas == 1:
        return shlex.join(["docker", "run", "--rm", *_run_words(spec, 0)])
    network = [_network_words(network_request(spec))] if network_name(spec) else []
    runs = [["docker", "run", "-d", *_named(spec, index), *_run_words(spec, index)] for index in range(spec.replicas)]
    return "\n".join(map(shlex.join, [*network, *runs]))


def _network_words(request: Mapping[str, Any]) -> list[str]:
    options = [word for key, value in request["options"].items() for word in ("--opt", f"{key}={value}")]
    return ["docker", "network", "create", *["--internal"] * request["internal"], *options, request["name"]]


def _named(spec: JobSpec, index: int) -> list[str]:
    words = ["--name", container_name(spec, index)]
    if network_name(spec):
        words += ["--hostname", host_name(spec, index), "--network-alias", host_name(spec, index)]
    return words


def _run_words(spec: JobSpec, index: int) -> list[str]:
    body, one = create_body(spec, index), spec.of_replica(index)
    host = body["HostConfig"]
    words = ["--init", "--user", body["User"], "--workdir", body["WorkingDir"]]
    words += ["--network", host["NetworkMode"], "--shm-size", str(host["ShmSize"]), "--ipc", host["IpcMode"]]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", "--pids-limit", str(host["PidsLimit"])]
    words += ["--oom-score-adj", str(host["OomScoreAdj"]), "--no-healthcheck"]
    if spec.replicas == 1 and body["Hostname"]:
        words += ["--hostname", body["Hostname"]]
    if "Memory" in host:
        words += ["--memory", str(host["Memory"]), "--memory-swap", str(host["MemorySwap"])]
    if one.resources.cpus:
        words += ["--cpus", f"{one.resources.cpus:g}"]
    words += _device_words(host)
    lists = {"--dns": host.get("Dns"), "--dns-option": host.get("DnsOptions"), "--group-add": host["GroupAdd"]}
    lists["--add-host"] = host.get("ExtraHosts")
    # GPUs go without pinned memory where a daemon may not grant it, which a command cannot try.
    limits = [each for each in host["Ulimits"] if one.rdma or each["Name"] != "memlock"]
    lists["--ulimit"] = [f"{each['Name']}={each['Soft']}:{each['Hard']}" for each in limits]
    lists["--mount"] = [*map(mount_words, (*one.mounts, *one.gpus.libraries)), *map(_mask_words, _masks(one))]
    for option, values in {**lists, "--env": body["Env"]}.items():
        words += [word for value in values or () for word in (option, value)]
    return [*words, "--entrypoint", one.argv[0], one.image_ref or str(one.image), *one.argv[1:]]


def _device_words(host: Mapping[str, Any]) -> list[str]:
    words = []
    for node in host.get("Devices", []):
        words += ["--device", f"{node['PathOnHost']}:{node['PathInContainer']}:{node['CgroupPermissions']}"]
    for request in host.get("DeviceRequests", []):
        if request["Driver"] == "cdi":
            words += [word for name in request["DeviceIDs"] for word in ("--device", name)]
        else:
            words += ["--gpus", '"device=' + ",".join(request["DeviceIDs"]) + '"']  # quoted: the option's value is CSV
    return words


def mount_words(mount: Mount) -> str:
    """Return the value of ``docker run --mount``: comma-separated values, quoted as CSV where a path needs it."""
    if isinstance(mount, Share):
        return _csv(nfs_words(mount))
    parts = ["type=bind", f"source={mount.source}", f"target={mount.target}"] + ["readonly"] * mount.read_only
    return _csv(parts)


def _mask_words(mask: Mapping[str, Any]) -> str:
    parts = [f"type={mask['Type']}", f"source={mask['Source']}"] if "Source" in mask else [f"type={mask['Type']}"]
    size = [f"tmpfs-size={_MASK_BYTES}", "tmpfs-mode=0555"] if "TmpfsOptions" in mask else []
    return _csv([*parts, f"target={mask['Target']}", "readonly", *size])


def _csv(parts: Sequence[str]) -> str:
    return ",".join('"' + part.replace('"', '""') + '"' if "," in part or '"' in part else part for part in parts)
