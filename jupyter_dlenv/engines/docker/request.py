"""JobSpec -> the body of Docker's create call, and the gate that every body passes. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import Denied
from ...i18n import _
from ...resources import GpuAccess, Mount
from ...spec import CONTAINER_ROOT, JobSpec, Role, labels_of

RUN_DIR = f"{CONTAINER_ROOT}/run"
SHIM = f"{CONTAINER_ROOT}/shim.py"
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
_NAME = re.compile(r"dlenv-([0-9a-f-]{36})-\d+")
_NETWORKS = ("none", "bridge", "host")
_GPU_NODE = re.compile(r"/dev/(nvidia\d+|nvidiactl|nvidia-uvm|nvidia-uvm-tools|nvidia-caps/nvidia-cap\d+)")
_GPU_ID = {
    "nvidia": re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]+"),
    "cdi": re.compile(r"nvidia\.com/gpu=(?!all$)[0-9A-Za-z.:-]+"),
}


def container_name(spec: JobSpec) -> str:
    """Return the deterministic name that makes a repeated create a conflict instead of a second container."""
    return name_of(spec.id, spec.attempt)


def name_of(job_id: str, attempt: int) -> str:
    """Return the name of one attempt's container. Whose a container is, its name says: unlike a label it can change."""
    return f"dlenv-{job_id}-{attempt}"


def id_in(name: str) -> str:
    """Return the job's id in a container's name, empty when the name is not one of ours."""
    found = _NAME.fullmatch(name.lstrip("/"))
    return found.group(1) if found else ""


def shm_bytes(spec: JobSpec) -> int:
    """Return the size of /dev/shm: as asked, else half the memory limit, else 2 GiB; Docker's 64 MB kills loaders."""
    asked, memory = spec.resources.shm_bytes, spec.resources.memory_bytes
    return asked or (max(memory // 2, 64 << 20) if memory else _DEFAULT_SHM_BYTES)


def replica_argv(spec: JobSpec) -> list[str]:
    """Return what the container runs: a training under the shim, anything else as it is."""
    if spec.role is Role.TRAINER:
        return [spec.python, "-I", "-S", SHIM, RUN_DIR]
    return list(spec.argv)


def create_body(spec: JobSpec) -> dict[str, Any]:
    """Return the whole body of ``POST /containers/create`` for one replica."""
    hostname = f"dlenv-{spec.id[:8]}"
    return {
        "Image": spec.image,
        "Hostname": "" if spec.network == "host" else hostname,
        "User": _user(spec),
        "Entrypoint": replica_argv(spec),
        "Cmd": [],
        "WorkingDir": spec.workdir,
        "Env": _environment(spec),
        "Labels": labels_of(spec, LABEL_PREFIX),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "Tty": False,
        "OpenStdin": False,
        "HostConfig": _host_config(spec, hostname),
        **_lifeline(spec),
    }


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


def _host_config(spec: JobSpec, hostname: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Mounts": [_bind(mount) for mount in (*spec.mounts, *spec.gpus.libraries)] + _masks(spec),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Init": True,
        "IpcMode": "private",
        "ShmSize": shm_bytes(spec),
        "PidsLimit": _PIDS_LIMIT,
        "NetworkMode": spec.network,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "local", "Config": {"max-size": "20m", "max-file": "2"}},
        "GroupAdd": [str(gid) for gid in spec.identity.groups] if spec.identity else [],
        "OomScoreAdj": 500,
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, *_gpu_ulimits(spec)],
    }
    if spec.network == "none":
        # Without an address for its own name torchrun waits minutes for its rendezvous.
        config["ExtraHosts"] = [f"{hostname}:127.0.0.1"]
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
    gpus = spec.gpus
    if not gpus.uuids:
        return {}
    if gpus.access is GpuAccess.DEVICES:
        return {"Devices": [_node(path) for path in gpus.nodes]}
    if gpus.access is GpuAccess.CDI:
        return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": list(gpus.devices)}]}
    ids = list(gpus.devices or gpus.uuids)
    return {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ids, "Capabilities": [list(_GPU_CAPABILITIES)]}]}


def _node(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}


def _gpu_ulimits(spec: JobSpec) -> list[dict[str, Any]]:
    """Pinned memory for GPUs; not asked for elsewhere, because a daemon that is itself confined may not grant it."""
    return [{"Name": "memlock", "Soft": -1, "Hard": -1}] if spec.gpus.uuids else []


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
        "network": host.get("NetworkMode") in _NETWORKS,
        "ports": not (host.get("PortBindings") or host.get("PublishAllPorts")),
        "devices": not host.get("DeviceCgroupRules") and _gpus_by_name(body),
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
        elif mount["Type"] not in ("bind", "tmpfs"):
            message = _("Mounts of type {type} are not allowed (rule: typed mounts).")
            raise Denied(message.format(type=mount["Type"]))


def _visible(body: Mapping[str, Any]) -> list[str]:
    return [item.partition("=")[2] for item in map(str, body["Env"]) if item.startswith(f"{_VISIBLE}=")]


def _gpus_by_name(body: Mapping[str, Any]) -> bool:
    """True when a body asks for named NVIDIA devices only: a count would be GPUs 0..N-1 for everybody."""
    nodes, requests = body["HostConfig"].get("Devices") or [], body["HostConfig"].get("DeviceRequests") or []
    leased = _visible(body) not in ([], [""], [_NO_DEVICES])
    return (leased or not (nodes or requests)) and all(map(_is_gpu_node, nodes)) and all(map(_names_gpus, requests))


def _is_gpu_node(device: Mapping[str, Any]) -> bool:
    path = str(device.get("PathOnHost"))
    return bool(_GPU_NODE.fullmatch(path)) and device == _node(path)


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
    """Return the container as a ``docker run`` command for a person to read; values of ``-e KEY`` are not in a spec."""
    body = create_body(spec)
    host = body["HostConfig"]
    words = ["docker", "run", "--rm", "--init", "--user", body["User"], "--workdir", body["WorkingDir"]]
    words += ["--network", host["NetworkMode"], "--shm-size", str(host["ShmSize"]), "--cap-drop", "ALL"]
    words += ["--security-opt", "no-new-privileges:true", "--pids-limit", str(host["PidsLimit"])]
    if "Memory" in host:
        words += ["--memory", str(host["Memory"])]
    if spec.resources.cpus:
        words += ["--cpus", f"{spec.resources.cpus:g}"]
    words += _gpu_words(host)
    for group in host["GroupAdd"]:
        words += ["--group-add", group]
    for mount in (*spec.mounts, *spec.gpus.libraries):
        words += ["--mount", mount_words(mount)]
    for item in body["Env"]:
        words += ["--env", item]
    return shlex.join([*words, "--entrypoint", spec.argv[0], spec.image_ref or str(spec.image), *spec.argv[1:]])


def _gpu_words(host: Mapping[str, Any]) -> list[str]:
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
    parts = ["type=bind", f"source={mount.source}", f"target={mount.target}"] + ["readonly"] * mount.read_only
    return ",".join('"' + part.replace('"', '""') + '"' if "," in part or '"' in part else part for part in parts)
