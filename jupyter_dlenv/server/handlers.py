"""The API below the Jupyter server's address: authenticated, authorized, then the same functions as the sockets.

Every concrete method carries its own decorators: Jupyter's ``authorized`` remembers the first resource it meets, so a
decorated base method would speak for all subclasses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado.web import authenticated

from ..errors import Denied, DLEnvError, InvalidRequest
from ..i18n import _
from ..jobs.principal import Principal
from . import api
from .api import Answer, Api, Call, Frames, Function, OpenTerminal, parse_body, status_of
from .sockets import write_answer

AUTH_PREFIX = "jupyter_dlenv"
_JSON = "application/json"


class _ApiHandler(APIHandler):
    """What all handlers share: the principal of this server, and errors in our words."""

    def initialize(self, api: Api, principal: Principal) -> None:
        self._api, self._principal = api, principal

    async def _serve(self, function: Function, **parts: str) -> None:
        try:
            query = {key: self.get_query_argument(key) for key in self.request.query_arguments}
            answer = await function(self._api, Call(self._principal, parts, query, self._body()))
        except DLEnvError as error:
            answer = Answer(error.to_json(), status_of(error))
        await write_answer(self, answer)

    def _body(self) -> object:
        content_type = self.request.headers.get("Content-Type", _JSON).split(";")[0].strip()
        if self.request.body and content_type != _JSON:
            # A form or plain text could come from a page of another origin without asking first.
            raise InvalidRequest(_("The body's type is application/json."))
        return parse_body(self.request.body)


class _TerminalHandler(_ApiHandler):
    """Opens one of Jupyter's own terminals, for who may open and use those too."""

    async def _serve_terminal(self, function: Function, **parts: str) -> None:
        async def with_terminals(served: Api, call: Call) -> Answer | Frames:
            for action in ("write", "execute"):
                await self._require(action)
            return await function(served, replace(call, open_terminal=self._opener()))

        await self._serve(with_terminals, **parts)

    async def _require(self, action: str) -> None:
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, "terminals")):
            raise Denied(_("You may not use terminals on this Jupyter server (rule: terminals)."))

    def _opener(self) -> OpenTerminal | None:
        manager = self.settings.get("terminal_manager")
        if manager is None:
            return None

        def open_terminal(command: Sequence[str]) -> str:
            # Not in the notebook folder, where a module of the user's could take the place of one that we import.
            return str(manager.create(shell_command=list(command), cwd="/")["name"])

        return open_terminal


class JobsHandler(_ApiHandler):
    """/jobs"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_jobs)

    @authenticated
    @authorized
    async def post(self) -> None:
        await self._serve(api.create_job)


class JobHandler(_ApiHandler):
    """/jobs/{id}"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def get(self, id: str) -> None:
        await self._serve(api.get_job, id=id)

    @authenticated
    @authorized
    async def delete(self, id: str) -> None:
        await self._serve(api.delete_job, id=id)


class JobCancelHandler(_ApiHandler):
    """/jobs/{id}/cancel"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def post(self, id: str) -> None:
        await self._serve(api.cancel_job, id=id)


class JobLogHandler(_ApiHandler):
    """/jobs/{id}/log"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def get(self, id: str) -> None:
        await self._serve(api.read_log, id=id)


class JobMetricsHandler(_ApiHandler):
    """/jobs/{id}/metrics"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def get(self, id: str) -> None:
        await self._serve(api.get_metrics, id=id)


class JobTerminalHandler(_TerminalHandler):
    """/jobs/{id}/terminal"""

    auth_resource = f"{AUTH_PREFIX}:jobs"

    @authenticated
    @authorized
    async def post(self, id: str) -> None:
        await self._serve_terminal(api.open_job_terminal, id=id)


class EnvironmentsHandler(_ApiHandler):
    """/environments"""

    auth_resource = f"{AUTH_PREFIX}:environments"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_environments)


class EnvironmentHandler(_ApiHandler):
    """/environments/{name}"""

    auth_resource = f"{AUTH_PREFIX}:environments"

    @authenticated
    @authorized
    async def get(self, name: str) -> None:
        await self._serve(api.get_environment, name=name)

    @authenticated
    @authorized
    async def put(self, name: str) -> None:
        await self._serve(api.put_environment, name=name)

    @authenticated
    @authorized
    async def delete(self, name: str) -> None:
        await self._serve(api.delete_environment, name=name)


class KernelsHandler(_ApiHandler):
    """/kernels"""

    auth_resource = f"{AUTH_PREFIX}:kernels"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_kernels)


class KernelTerminalHandler(_TerminalHandler):
    """/kernels/{id}/terminal"""

    auth_resource = f"{AUTH_PREFIX}:kernels"

    @authenticated
    @authorized
    async def post(self, id: str) -> None:
        await self._serve_terminal(api.open_kernel_terminal, id=id)


class KernelCancelHandler(_ApiHandler):
    """/kernels/{id}/cancel"""

    auth_resource = f"{AUTH_PREFIX}:kernels"

    @authenticated
    @authorized
    async def post(self, id: str) -> None:
        await self._serve(api.cancel_kernel, id=id)


class ImagesHandler(_ApiHandler):
    """/images"""

    auth_resource = f"{AUTH_PREFIX}:images"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_images)


class BuildsHandler(_ApiHandler):
    """/builds"""

    auth_resource = f"{AUTH_PREFIX}:builds"

    @authenticated
    @authorized
    async def post(self) -> None:
        await self._serve(api.create_build)


class OpenPageHandler(_ApiHandler):
    """/open"""

    auth_resource = f"{AUTH_PREFIX}:open"

    @authenticated
    @authorized
    async def post(self) -> None:
        await self._serve(api.open_page)


class GpusHandler(_ApiHandler):
    """/gpus"""

    auth_resource = f"{AUTH_PREFIX}:gpus"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_gpus)


class GpuEventsHandler(_ApiHandler):
    """/gpus/events"""

    auth_resource = f"{AUTH_PREFIX}:gpus"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.watch_gpus)


HANDLERS: dict[str, type[_ApiHandler]] = {
    r"/jobs": JobsHandler,
    r"/jobs/(?P<id>[^/]+)": JobHandler,
    r"/jobs/(?P<id>[^/]+)/cancel": JobCancelHandler,
    r"/jobs/(?P<id>[^/]+)/log": JobLogHandler,
    r"/jobs/(?P<id>[^/]+)/metrics": JobMetricsHandler,
    r"/jobs/(?P<id>[^/]+)/terminal": JobTerminalHandler,
    r"/environments": EnvironmentsHandler,
    r"/environments/(?P<name>[^/]+)": EnvironmentHandler,
    r"/kernels": KernelsHandler,
    r"/kernels/(?P<id>[^/]+)/cancel": KernelCancelHandler,
    r"/kernels/(?P<id>[^/]+)/terminal": KernelTerminalHandler,
    r"/images": ImagesHandler,
    r"/builds": BuildsHandler,
    r"/open": OpenPageHandler,
    r"/gpus": GpusHandler,
    r"/gpus/events": GpuEventsHandler,
}
