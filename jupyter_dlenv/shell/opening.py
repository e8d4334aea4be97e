"""From what a person wants to open to the tunnel that leads there: whose it is, and which tool is started for it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.registry import load_engine
from ..errors import Denied, EngineError, EngineUnavailable, InvalidRequest, NotFound
from ..i18n import _
from ..jobs.principal import Principal
from ..spec import Job, from_json
from .channels import PORT, PYTHON
from .targets import Kind, Target, choose, running
from .tunnel import Tunnel, open_tunnel
from .ways import Inside, in_container, on_host

_MISSING = ("No module named 'tensorboard'", "No module named tensorboard")


@dataclass(frozen=True)
class OpenRequest:
    """What is wanted: a port, or TensorBoard on a folder.

    Attributes:
        target: A running kernel's or job's id or its beginning; empty for the kernel that asks, or for this host.
        logdir: Where the event files are.
        folder: What a relative ``logdir`` is below.
        python: Whose TensorBoard it is, for what runs without a container.
    """

    target: str = ""
    port: int = 0
    logdir: str = ""
    folder: str = ""
    python: str = ""

    def __post_init__(self) -> None:
        texts = (self.target, self.logdir, self.folder, self.python)
        whole = isinstance(self.port, int) and not isinstance(self.port, bool) and 0 <= self.port < 65536
        if not whole or not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise InvalidRequest(_("A port is a number from 1 to 65535."))
        if bool(self.port) == bool(self.logdir):
            raise InvalidRequest(
                _("What is to be opened? A port, or a folder for TensorBoard."), hint="%dlopen --tensorboard runs"
            )


def open_request_from_json(data: Any) -> OpenRequest:
    """Build a request from an API body.

    Raises:
        InvalidRequest: A field is unknown or cannot be right.
    """
    if not isinstance(data, dict):
        raise InvalidRequest(_("A request to open something is a JSON object."))
    return from_json(OpenRequest, data)


def tensorboard_argv(python: str, logdir: str, folder: str) -> list[str]:
    """Return TensorBoard's command line, for the program that fills in port and interpreter."""
    where = logdir if "://" in logdir else os.path.normpath(os.path.join(folder or "/", logdir))
    return [python, "-m", "tensorboard.main", "--logdir", where, "--host", "127.0.0.1", "--port", PORT]


async def open_for(principal: Principal, request: OpenRequest, *, port: int | None = None) -> tuple[Tunnel, str]:
    """Return a tunnel to what is asked for, and the id of the kernel or job; empty for this host.

    Args:
        port: A port on 127.0.0.1 to listen at, 0 for any; None for a Unix socket.

    Raises:
        NotFound: Nothing of that name runs.
        Denied: A kernel may not reach it.
        InvalidRequest: The image has no TensorBoard.
    """
    target = await find_target(principal, request.target)
    container = target is not None and target.job is not None and target.job.engine == "docker"
    tool: dict[str, Any] = {}
    if request.logdir:
        python = PYTHON if container else request.python or PYTHON
        tool = {"argv": tensorboard_argv(python, request.logdir, request.folder), "folder": request.folder}

    def way() -> Inside:
        return inside(target.job, tool) if target is not None and target.job is not None else on_host(tool)

    try:
        tunnel = await open_tunnel(way, str(request.port or ""), port=port)
    except EngineError as error:
        if any(words in error.message for words in _MISSING):
            raise InvalidRequest(
                _("TensorBoard is not installed where it would run: {target}.").format(target=target or _("this host")),
                hint="%pip install tensorboard",
            ) from error
        raise
    return tunnel, target.name if target is not None else ""


def inside(job: Job, tool: dict[str, Any] | None = None) -> Inside:
    """Return the way to where a job or kernel runs."""
    if job.engine != "docker":
        return on_host(tool, lambda: _runs(job))
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    return in_container(engine, job.native_id, tool)


async def _runs(job: Job) -> bool:
    status = (await load_engine(job.engine).poll([job.id])).get(job.id)
    return status is not None and not status.state.ended


async def find_target(principal: Principal, word: str) -> Target | None:
    """Return the running kernel or job that is meant, None for this host.

    Raises:
        NotFound: Nothing of that name runs.
        InvalidRequest: Several things may be meant.
        Denied: It is not for the kernel that asks.
    """
    if not (word or principal.kernel):
        return None
    jobs = list(await load_engine("process").list(principal.owner))
    with contextlib.suppress(EngineUnavailable):  # a host without Docker
        jobs += await load_engine("docker").list(principal.owner)
    target = _chosen(word or principal.kernel, running(jobs))
    _require_own(principal, target)
    return target


def _chosen(word: str, targets: Sequence[Target]) -> Target:
    try:
        return choose(word, targets)
    except NotFound:
        raise NotFound(
            _("No kernel or job {word} runs.").format(word=word),
            hint=_("What a job has written can be looked at from a kernel: %dlopen --tensorboard LOGDIR"),
        ) from None


def _require_own(principal: Principal, target: Target) -> None:
    """Keep a kernel in a container from other kernels, and from what is on the host itself."""
    if principal.environment is None or principal.environment.engine == "process":
        return
    if target.kind is Kind.KERNEL and target.name != principal.kernel:
        raise Denied(_("A kernel may not open ports of another kernel (rule: kernel)."))
    if target.job is not None and target.job.engine == "process":
        raise Denied(_("A kernel in a container may not open ports of its host (rule: engine)."))
