"""The API as a table of plain functions: Jupyter's handlers and the Unix sockets serve the same ones.

A function gets a :class:`Call`, whose principal its caller fixed, and returns JSON data or a stream of log frames.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engines.docker.engine import DockerEngine
from ..engines.registry import load_engine
from ..errors import (
    Conflict,
    Denied,
    DLEnvError,
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    NoGpu,
    NotFound,
    Unsupported,
    UnusableImage,
)
from ..gpus.report import report
from ..i18n import _
from ..images.build import build_request_from_json
from ..jobs.manager import JobManager
from ..jobs.principal import Principal
from ..jobs.views import LogFrame
from ..kernels.board import BOARD
from ..kernels.environments import Environment, EnvironmentManager, PoolStatus, environment_from_json
from ..kernels.listing import kernel_rows
from ..options import request_from_json
from ..settings import DLEnv
from ..shell.opening import open_request_from_json
from ..shell.session import find_running
from ..shell.targets import Kind
from ..spec import Job
from .builds import BuildFrame, Builds
from .gpus import GpuFrame, call_off, frames, rate_of
from .open import OPENINGS

LOG_TYPE = "application/vnd.jupyter-dlenv.log"
BODY_LIMIT = 24 << 20  # a build's context, in base64
_JSON_KEYS_LIMIT = 1000

_STATUS: tuple[tuple[type[DLEnvError], int], ...] = (
    (InvalidRequest, 400),
    (Denied, 403),
    (NotFound, 404),
    (Conflict, 409),
    (NoGpu, 409),
    (UnusableImage, 422),
    (Unsupported, 400),
    (EngineUnavailable, 503),
    (EngineError, 502),
)


OpenTerminal = Callable[[Sequence[str]], str]
"""Runs a command in a new terminal of Jupyter's own and returns the terminal's name."""


@dataclass(frozen=True)
class Call:
    """One request, its principal not taken from it.

    Attributes:
        parts: Named parts of the path.
        query: The last value of each query parameter.
        body: JSON data, None without a body.
        open_terminal: None where there are no terminals.
    """

    principal: Principal
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    open_terminal: OpenTerminal | None = None


@dataclass(frozen=True)
class Answer:
    """JSON data, or their text, with a status; ``data`` None is an empty answer."""

    data: Any
    status: int = 200


Frames = AsyncIterator["LogFrame | BuildFrame | GpuFrame"]
Function = Callable[["Api", Call], Awaitable[Answer | Frames]]


def status_of(error: DLEnvError) -> int:
    """Return the HTTP status of an error: the one place where the two meet."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def parse_body(text: bytes) -> Any:
    """Return the JSON data of a body, None for an empty one.

    Raises:
        InvalidRequest: It is not JSON, or names one key twice (two readers could then disagree).
    """
    if not text:
        return None
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidRequest(_("The body is not JSON.")) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs) or len(found) > _JSON_KEYS_LIMIT:
        raise InvalidRequest(_("The body names a key twice, or too many."))
    return found


def frame_bytes(frame: LogFrame | BuildFrame | GpuFrame) -> bytes:
    """Return a frame for the wire: one line of JSON, then the bytes of the log."""
    if isinstance(frame, (BuildFrame, GpuFrame)):
        return frame.to_bytes()
    head: dict[str, Any] = {
        "cursor": frame.cursor,
        "bytes": len(frame.data),
        "open_lines": dict(frame.open_lines),
        "state": frame.state.value,
        "message": frame.message,
        "attempt": frame.attempt,
    }
    if frame.job is not None:
        head["job"] = frame.job.to_json()
    return json.dumps(head, ensure_ascii=False).encode("utf-8", "replace") + b"\n" + frame.data


class Api:
    """What the functions work on.

    Args:
        settings: What the administrator and the user set.
    """

    def __init__(self, settings: DLEnv) -> None:
        self.settings = settings
        self.jobs = JobManager(settings)
        self.environments = EnvironmentManager()
        self.pool_status: Callable[[Environment], PoolStatus] | None = None
        self.builds = Builds(settings.owner, self.environments)


async def list_jobs(api: Api, call: Call) -> Answer:
    """GET /jobs"""
    found = await api.jobs.list(call.principal)
    return Answer(b'{"jobs": [' + b", ".join(view.to_text() for view in found) + b"]}")


async def create_job(api: Api, call: Call) -> Answer:
    """POST /jobs"""
    request = request_from_json(call.body)
    if request.dry_run:
        return Answer({"command": await api.jobs.dry_run(call.principal, request)})
    return Answer((await api.jobs.submit(call.principal, request)).to_json(), 201)


async def get_job(api: Api, call: Call) -> Answer:
    """GET /jobs/{id}"""
    return Answer((await api.jobs.get(call.principal, call.parts["id"])).to_json())


async def delete_job(api: Api, call: Call) -> Answer:
    """DELETE /jobs/{id}"""
    await api.jobs.remove(call.principal, call.parts["id"])
    return Answer(None, 204)


async def cancel_job(api: Api, call: Call) -> Answer:
    """POST /jobs/{id}/cancel"""
    body = call.body or {}
    if not isinstance(body, dict) or not isinstance(body.get("force", False), bool):
        raise InvalidRequest(_('The body of a cancel is {} or {"force": true}.'))
    view = await api.jobs.cancel(call.principal, call.parts["id"], force=body.get("force", False))
    return Answer(view.to_json())


async def get_metrics(api: Api, call: Call) -> Answer:
    """GET /jobs/{id}/metrics"""
    return Answer(await api.jobs.metrics(call.principal, call.parts["id"]))


async def read_log(api: Api, call: Call) -> Frames:
    """GET /jobs/{id}/log"""
    tail = call.query.get("tail")
    if tail is not None and not (tail.isascii() and tail.isdigit() and len(tail) < 16):
        raise InvalidRequest(_("tail is a number of bytes."))
    found = api.jobs.frames(
        call.principal,
        call.parts["id"],
        call.query.get("cursor", ""),
        follow=call.query.get("follow") == "1",
        tail=int(tail) if tail is not None else None,
    )
    return await _started(found)


async def _started(found: Frames) -> Frames:
    """Return the frames once the first is there, so that an unknown job is an error and not a broken stream."""
    first = await anext(found)

    async def every() -> Frames:
        yield first
        async for frame in found:
            yield frame

    return every()


async def create_build(api: Api, call: Call) -> Frames:
    """POST /builds"""
    return await api.builds.start(call.principal, build_request_from_json(call.body))


async def list_environments(api: Api, call: Call) -> Answer:
    """GET /environments"""
    found = await asyncio.to_thread(api.environments.list)
    return Answer({"environments": [_environment_row(api, environment) for environment in found]})


def _environment_row(api: Api, environment: Environment) -> dict[str, Any]:
    row = asdict(environment)
    if environment.pool and api.pool_status is not None:
        row["pool_status"] = asdict(api.pool_status(environment))
    return row


async def get_environment(api: Api, call: Call) -> Answer:
    """GET /environments/{name}"""
    return Answer(asdict(await asyncio.to_thread(api.environments.get, call.parts["name"])))


async def put_environment(api: Api, call: Call) -> Answer:
    """PUT /environments/{name}"""
    if not isinstance(call.body, dict) or call.body.get("name", call.parts["name"]) != call.parts["name"]:
        raise InvalidRequest(_("The body is an environment of the name in the address."))
    environment = environment_from_json({**call.body, "name": call.parts["name"]})
    await asyncio.to_thread(_require_own, api, call.principal, environment)
    await asyncio.to_thread(api.environments.put, environment)
    return Answer(asdict(environment))


def _require_own(api: Api, principal: Principal, environment: Environment) -> None:
    """Refuse what code in a container could use to change what a person starts next.

    Raises:
        Denied: The environment would run on the host itself, or exists and is another.
    """
    if principal.environment is None or principal.environment.engine == "process":
        return
    if environment.engine == "process":
        raise Denied(_("A kernel in a container may not make environments without one (rule: engine)."))
    if environment.name in [known.name for known in api.environments.list() if known != environment]:
        raise Denied(
            _("The environment {name} exists; a kernel may not change it (rule: environment).").format(
                name=environment.name
            ),
            hint=_("Choose another name, or: jupyter dlenv env add {name}").format(name=environment.name),
        )


async def delete_environment(api: Api, call: Call) -> Answer:
    """DELETE /environments/{name}"""
    await asyncio.to_thread(api.environments.remove, call.parts["name"])
    return Answer(None, 204)


async def list_kernels(api: Api, call: Call) -> Answer:
    """GET /kernels"""
    found: list[Job] = []
    for name in ("docker", "process"):
        try:
            found += await load_engine(name).list(call.principal.owner)
        except EngineUnavailable:
            continue  # a host without Docker has no container kernels
    return Answer({"kernels": kernel_rows(found, [] if call.principal.kernel else BOARD.all())})


async def open_kernel_terminal(api: Api, call: Call) -> Answer:
    """POST /kernels/{id}/terminal"""
    return await _open_terminal(Kind.KERNEL, call)


async def open_job_terminal(api: Api, call: Call) -> Answer:
    """POST /jobs/{id}/terminal"""
    return await _open_terminal(Kind.JOB, call)


async def _open_terminal(kind: Kind, call: Call) -> Answer:
    if call.open_terminal is None:
        raise Unsupported(
            _("This Jupyter server has no terminals."), hint=f"jupyter dlenv shell {call.parts['id'][:36]}"
        )
    found = (await find_running(kind, call.parts["id"], call.principal.owner)).job
    if found is None or found.engine != "docker":
        raise Unsupported(_("It runs without a container; any terminal will do."))
    options = [f"--owner={call.principal.owner}", "--stay"]
    command = [sys.executable, "-m", "jupyter_dlenv", "shell", found.id, *options]
    return Answer({"name": call.open_terminal(command)}, 201)


async def list_images(api: Api, call: Call) -> Answer:
    """GET /images"""
    engine = load_engine("docker")
    assert isinstance(engine, DockerEngine)
    rows = [
        {"id": info.id, "ref": info.ref, "size_bytes": info.size_bytes, "created": info.created}
        for info in await engine.images()
    ]
    return Answer({"images": rows})


async def list_gpus(api: Api, call: Call) -> Answer:
    """GET /gpus"""
    return Answer(report(await asyncio.to_thread(api.jobs.leases.overview)))


async def watch_gpus(api: Api, call: Call) -> Frames:
    """GET /gpus/events"""
    return frames(api.jobs.leases, rate_of(call.query.get("hz", "1")))


async def cancel_kernel(api: Api, call: Call) -> Answer:
    """POST /kernels/{id}/cancel"""
    await call_off(api.jobs.leases, call.principal.owner, call.parts["id"])
    return Answer(None, 204)


async def open_page(api: Api, call: Call) -> Answer:
    """POST /open"""
    return Answer(await OPENINGS.open(call.principal, open_request_from_json(call.body)), 201)


@dataclass(frozen=True)
class Route:
    """One row of the table.

    Attributes:
        path: A pattern below ``dlenv/api/v1``.
        resource: What Jupyter's authorizer is asked about.
        person_only: Methods that no kernel's own socket serves.
    """

    path: str
    resource: str
    methods: Mapping[str, Function]
    person_only: frozenset[str] = frozenset()

    def methods_for(self, principal: Principal) -> dict[str, Function]:
        """Return what this principal may call here at all."""
        hidden = self.person_only if principal.kernel else frozenset()
        return {method: function for method, function in self.methods.items() if method not in hidden}


_ID = r"(?P<id>[^/]+)"
_ENVIRONMENT = r"(?P<name>[^/]+)"

ROUTES: tuple[Route, ...] = (
    Route(r"/jobs", "jobs", {"GET": list_jobs, "POST": create_job}),
    Route(rf"/jobs/{_ID}", "jobs", {"GET": get_job, "DELETE": delete_job}),
    Route(rf"/jobs/{_ID}/cancel", "jobs", {"POST": cancel_job}),
    Route(rf"/jobs/{_ID}/log", "jobs", {"GET": read_log}),
    Route(rf"/jobs/{_ID}/metrics", "jobs", {"GET": get_metrics}),
    Route(rf"/jobs/{_ID}/terminal", "jobs", {"POST": open_job_terminal}, person_only=frozenset({"POST"})),
    Route(r"/environments", "environments", {"GET": list_environments}),
    Route(
        rf"/environments/{_ENVIRONMENT}",
        "environments",
        {"GET": get_environment, "PUT": put_environment, "DELETE": delete_environment},
        person_only=frozenset({"DELETE"}),
    ),
    Route(r"/kernels", "kernels", {"GET": list_kernels}),
    Route(rf"/kernels/{_ID}/cancel", "kernels", {"POST": cancel_kernel}),
    Route(rf"/kernels/{_ID}/terminal", "kernels", {"POST": open_kernel_terminal}, person_only=frozenset({"POST"})),
    Route(r"/images", "images", {"GET": list_images}),
    Route(r"/builds", "builds", {"POST": create_build}),
    Route(r"/open", "open", {"POST": open_page}),
    Route(r"/gpus", "gpus", {"GET": list_gpus}),
    Route(r"/gpus/events", "gpus", {"GET": watch_gpus}),
)
