"""What Docker's failures mean, and the command that helps. Pure but for reading who the caller is."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from typing import Any

from docker.errors import APIError

from ...errors import Conflict, DLEnvError, EngineError, EngineUnavailable, ImageNotFound, NoGpu, StartFailed
from ...i18n import _
from .shares import share_failure

CANNOT_START = (NoGpu, StartFailed)
"""What says that a container was created and cannot be started."""

TOOLKIT_REMEDY = (
    "sudo apt-get install nvidia-container-toolkit && "
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)
CDI_REMEDY = (
    "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml && "
    "sudo nvidia-ctk runtime configure --runtime=docker --cdi.enabled && sudo systemctl restart docker"
)

_PINNING_REMEDY = "sudo systemctl edit docker  # [Service] LimitMEMLOCK=infinity"

_NO_DRIVER = re.compile(r'could not select device driver "(\w*)"')
_NO_HOOK = re.compile(r'exec: "nvidia-container-runtime-hook": executable file not found')
_NO_CDI_DEVICE = re.compile(r"CDI device injection failed|unresolvable CDI devices")
_NO_NODE = re.compile(r'gathering device information while adding custom device "(/dev/nvidia[^"]*)"')
_NO_PINNING = "error setting rlimit type 8"
_RDMA_NODES = "/dev/infiniband/"
_NO_ADDRESSES = re.compile(r"non-overlapping IPv4 address pool|predefined address pools have been fully subnetted")
_HOOK_FAILED = re.compile(r"nvidia-container-cli: (.*?)(?:: unknown)?$", re.MULTILINE)


def image_missing(ref: str) -> ImageNotFound:
    """Return the error for an image that is not on this host."""
    return ImageNotFound(
        _("The image {ref} is not on this host.").format(ref=ref), hint=f"jupyter dlenv images pull {ref}"
    )


def name_taken(name: str) -> Conflict:
    """Return the error for a container's name that is something else's."""
    return Conflict(_("A container named {name} runs something else.").format(name=name), hint=f"docker inspect {name}")


def network_taken(name: str) -> Conflict:
    """Return the error for a network's name that is something else's."""
    message = _("A Docker network named {name} belongs to something else.")
    return Conflict(message.format(name=name), hint=f"docker network inspect {name}")


def gpus_taken(name: str) -> NoGpu:
    """Return the error for GPUs that somebody else got while this container was made."""
    return NoGpu(_("{name} got the same GPUs first.").format(name=name), hint="jupyter dlenv gpus")


def unreachable(error: BaseException, base_url: str) -> EngineUnavailable:
    """Return the error for a daemon that did not answer: refused, absent or asleep."""
    where = base_url or "/var/run/docker.sock"
    text = str(error)
    if isinstance(error, PermissionError) or "Permission denied" in text:
        return EngineUnavailable(
            _("Docker's socket {where} refuses the user {user}.").format(where=where, user=getpass.getuser()),
            hint="sudo usermod -aG docker $USER && newgrp docker",
        )
    if "FileNotFoundError" in text or "No such file" in text or "Connection refused" in text:
        return EngineUnavailable(
            _("No Docker daemon answers at {where}.").format(where=where),
            hint=_("Start it: sudo systemctl start docker. Or run without containers: --engine process"),
        )
    return EngineUnavailable(
        _("Docker at {where} failed: {text}").format(where=where, text=text), hint="jupyter dlenv doctor"
    )


def api_failure(error: APIError) -> DLEnvError:
    """Return the error for a request that the daemon answered with a failure."""
    text = str(error.explanation or error)
    no_gpu = gpu_failure(text)
    if no_gpu is not None:
        return no_gpu
    no_share = share_failure(text)
    if no_share is not None:
        return no_share
    if error.status_code == 409:
        return Conflict(text)
    if _NO_ADDRESSES.search(text):
        message = _("Docker has no addresses left for another network, which a job of several replicas needs.")
        return EngineError(message, hint="docker network prune")
    if _NO_PINNING in text:
        message = _("Docker may not let a container lock as much memory as it wants: {text}")
        return StartFailed(message.format(text=text), hint=_PINNING_REMEDY)
    if error.status_code == 400 or "OCI runtime" in text or "failed to create" in text:
        return StartFailed(_("Docker could not start the container: {text}").format(text=text))
    return EngineError(_("Docker answered: {text}").format(text=text), hint="jupyter dlenv doctor")


def without_pinning(body: Mapping[str, Any], message: str) -> Mapping[str, Any] | None:
    """Return a create body that leaves pinned memory at the daemon's own limit, if that was what failed.

    A daemon that is itself confined may not raise it. What it means then is slower transfers, not a missing GPU; RDMA
    would not work at all.
    """
    host = body["HostConfig"]
    limits = host.get("Ulimits") or []
    kept = [limit for limit in limits if limit["Name"] != "memlock"]
    needed = any(str(node["PathOnHost"]).startswith(_RDMA_NODES) for node in host.get("Devices") or [])
    if _NO_PINNING not in message or len(kept) == len(limits) or needed:
        return None
    return {**body, "HostConfig": {**body["HostConfig"], "Ulimits": kept}}


def or_the_cpu(remedy: str) -> str:
    """Return a hint for a missing GPU: the command that helps, and the way without."""
    return f"{remedy}\n" + _("Or run on the CPU: leave --gpus out and give --nproc N.")


def gpu_failure(text: str) -> NoGpu | None:
    """Return the error for a container that could not get its GPUs, None when the text says something else."""
    driver = _NO_DRIVER.search(text)
    if driver and driver.group(1) == "cdi":
        return NoGpu(_("Docker cannot hand out GPUs by CDI: it is not switched on."), hint=or_the_cpu(CDI_REMEDY))
    if driver or _NO_HOOK.search(text):
        return NoGpu(
            _("Docker cannot hand out GPUs: the NVIDIA Container Toolkit is not set up on this host."),
            hint=or_the_cpu(TOOLKIT_REMEDY),
        )
    if _NO_CDI_DEVICE.search(text):
        message = _("Docker's CDI specification does not list these GPUs: {text}")
        return NoGpu(message.format(text=text), hint=or_the_cpu(CDI_REMEDY))
    node = _NO_NODE.search(text)
    if node:
        message = _("The device node {path} is gone from this host.").format(path=node.group(1))
        return NoGpu(message, hint=or_the_cpu("nvidia-smi"))
    failed = _HOOK_FAILED.search(text)
    if failed:
        message = _("The NVIDIA Container Toolkit could not hand out the GPUs: {text}")
        return NoGpu(message.format(text=failed.group(1).strip()), hint=or_the_cpu("nvidia-smi"))
    return None
