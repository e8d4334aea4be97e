"""What a request leaves open, taken from the kernel's environment; and what it may not ask for."""

from __future__ import annotations

import os

from ..errors import Denied, InvalidRequest
from ..i18n import _
from ..images.reference import require_image
from ..options import RunRequest
from ..resources import GpuRequest, Mount, Resources, Share, parse_mount, parse_size
from .principal import Principal
from .records import JobFolder
from .target import runs_python

_SHELLS = frozenset(("ash", "bash", "dash", "ipython", "python", "python3", "sh", "zsh"))
_WITH_ROLES = frozenset(("tensorflow-ps", "paddle-ps", "mxnet"))


def engine_name(request: RunRequest, principal: Principal) -> str:
    if request.engine:
        return request.engine
    if request.image:
        return "docker"
    return principal.environment.engine if principal.environment else "process"


def image_of(request: RunRequest, principal: Principal) -> tuple[str, str]:
    """Return the image and the environment whose packages belong to it; another image has packages of its own."""
    own = principal.environment
    if request.image and not (own and request.image == own.image):
        return require_image(request.image), ""
    if own and own.image:
        return own.image, own.name
    raise InvalidRequest(_("Which image? This kernel has none of its own."), hint="%dlrun train.py --image REF")


def network_of(request: RunRequest, principal: Principal) -> str:
    """Return the containers' network: as asked, else the environment's.

    Raises:
        Denied: A kernel without network asks for something that reaches other machines.
    """
    own = principal.environment.network if principal.environment else "bridge"
    if principal.kernel and own == "none":
        shares = any(isinstance(mount, Share) for mount in mounts_of(request))
        if request.network not in ("", "none") or request.master or request.rdma or shares:
            raise Denied(
                _("A kernel without network may not start jobs that have one (rule: network)."),
                hint=_("Make an environment with a network: jupyter dlenv env add NAME --image REF --network bridge"),
            )
    return request.network or ("host" if request.master else own)


def resources_of(request: RunRequest, principal: Principal) -> Resources:
    own = principal.environment.resources() if principal.environment else Resources()
    return Resources(
        gpus=gpu_request(request),
        cpus=request.cpus or own.cpus,
        memory_bytes=parse_size(request.memory) if request.memory else own.memory_bytes,
        shm_bytes=parse_size(request.shm_size) if request.shm_size else own.shm_bytes,
    )


def gpu_request(request: RunRequest) -> GpuRequest:
    """Return which GPUs a request is about, for each node.

    Raises:
        InvalidRequest: What was typed cannot be read.
    """
    return GpuRequest.typed(request.gpus, request.gpu_memory, shared=request.shared)


def mounts_of(request: RunRequest) -> tuple[Mount, ...]:
    return tuple(map(parse_mount, request.mounts))


def time_left(request: RunRequest, folder: JobFolder) -> float | None:
    """Return what is left of the time limit, which holds for all attempts together."""
    if request.timeout is None:
        return None
    used = sum(
        max((final.status.finished_at or 0) - (final.status.started_at or final.status.finished_at or 0), 0)
        for final in folder.ended_attempts()
    )
    return max(request.timeout - used, 1.0)


def own_command(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the image's own command.

    Raises:
        InvalidRequest: It has none, or one that waits for somebody who types.
    """
    if not command or (len(command) == 1 and os.path.basename(command[0]) in _SHELLS):
        raise InvalidRequest(
            _("Nothing to run: name a script or -m MODULE; the image has no command of its own."),
            hint="%dlrun train.py --nproc 2",
        )
    return command


def refuse_without_script(request: RunRequest) -> None:
    """Refuse options that are about a script where none is named.

    Raises:
        InvalidRequest: Names the option.
    """
    given = {"--launcher": request.launcher, "--nproc": request.nproc, "--debug": request.debug}
    for option, value in given.items():
        if value and not runs_python(request):
            message = _("{option} goes with a script or module; the image's own command is run as it is.")
            raise InvalidRequest(message.format(option=option), hint="%dlrun train.py --nproc 2")


def refuse_roles(request: RunRequest, launcher: str) -> None:
    """Refuse options that this launcher would take no notice of.

    Raises:
        InvalidRequest: Names the option and launchers that do.
    """
    if launcher in _WITH_ROLES and request.debug:
        raise InvalidRequest(_("--debug goes with ranks that are alike, and {name} has roles.").format(name=launcher))
    if launcher not in _WITH_ROLES and (request.servers or request.workers):
        raise InvalidRequest(
            _("--servers and --workers mean nothing to the launcher {name}.").format(name=launcher),
            hint="--launcher paddle-ps, --launcher tensorflow-ps, --launcher mxnet",
        )
