"""What Docker's failures mean, and the command that helps. Pure but for reading who the caller is."""

from __future__ import annotations

import getpass

from docker.errors import APIError

from ...errors import Conflict, DLEnvError, EngineError, EngineUnavailable, ImageNotFound, NoGpu, StartFailed
from ...i18n import _

_NO_DRIVER = "could not select device driver"


def image_missing(ref: str) -> ImageNotFound:
    """Return the error for an image that is not on this host."""
    return ImageNotFound(
        _("The image {ref} is not on this host.").format(ref=ref), hint=f"jupyter dlenv images pull {ref}"
    )


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
    if _NO_DRIVER in text:
        return NoGpu(
            _("Docker cannot hand out GPUs: the NVIDIA Container Toolkit is not set up on this host."),
            hint="sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        )
    if error.status_code == 409:
        return Conflict(text)
    if error.status_code == 400 or "OCI runtime" in text or "failed to create" in text:
        return StartFailed(_("Docker could not start the container: {text}").format(text=text))
    return EngineError(_("Docker answered: {text}").format(text=text), hint="jupyter dlenv doctor")
