"""The API below the Jupyter server's address: authenticated, authorized, then the same functions as the sockets.

Every concrete method carries its own decorators: Jupyter's ``authorized`` remembers the first resource it meets, so a
decorated base method would speak for all subclasses.
"""

from __future__ import annotations

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado.web import authenticated

from ..errors import DLEnvError, InvalidRequest
from ..i18n import _
from ..jobs.principal import Principal
from . import api
from .api import Answer, Api, Call, Function, parse_body, status_of
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


class ImagesHandler(_ApiHandler):
    """/images"""

    auth_resource = f"{AUTH_PREFIX}:images"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_images)


class GpusHandler(_ApiHandler):
    """/gpus"""

    auth_resource = f"{AUTH_PREFIX}:gpus"

    @authenticated
    @authorized
    async def get(self) -> None:
        await self._serve(api.list_gpus)


HANDLERS: dict[str, type[_ApiHandler]] = {
    r"/jobs": JobsHandler,
    r"/jobs/(?P<id>[^/]+)": JobHandler,
    r"/jobs/(?P<id>[^/]+)/cancel": JobCancelHandler,
    r"/jobs/(?P<id>[^/]+)/log": JobLogHandler,
    r"/environments": EnvironmentsHandler,
    r"/environments/(?P<name>[^/]+)": EnvironmentHandler,
    r"/kernels": KernelsHandler,
    r"/images": ImagesHandler,
    r"/gpus": GpusHandler,
}
