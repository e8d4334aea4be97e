"""Building images with Docker: what ``images/bootstrap.py`` and ``server/builds.py`` need of an engine."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.errors import ImageNotFound as NoSuchImage
from docker.errors import NotFound as NoSuchContainer
from docker.types import LogConfig
from docker.types import Mount as DockerMount
from docker.utils import kwargs_from_env
from requests import Response
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from ...errors import EngineError
from ...i18n import _
from ...images.bootstrap import BuildContainer
from ...images.build import DOCKERFILE, BuildPlan, BuildStep, ImageAbout, archive
from ...images.recipe import tool_failed
from ...images.reference import parse_reference
from ...resources import Mount
from .builds import BuildTracker
from .failures import api_failure, unreachable
from .pulls import PullTracker, split_reference

_BUILD_TIMEOUT_S = 1800  # committing a layer of several GB sends nothing until it is done
_PROGRESS_STEP = 10


class _Client(APIClient):
    """A client whose last exchange can be cut off: to lose its client is how a build learns that it is to end."""

    answer: Response | None = None

    def post(self, *args: Any, **settings: Any) -> Response:
        self.answer = super().post(*args, **settings)
        return self.answer

    def cut(self) -> None:
        """Close the connection under whoever reads from it."""
        connection = getattr(getattr(self.answer, "raw", None), "connection", None)
        line = getattr(connection, "sock", None)
        if line is not None:
            with suppress(OSError):  # it has ended by itself
                line.shutdown(socket.SHUT_RDWR)


class DockerImages:
    """The images of one Docker daemon.

    Args:
        client: A client of this object's own, in one thread, patient enough for a commit.
        connect: Makes one more with a time-out in seconds, for questions that may never be answered.
    """

    def __init__(self, client: APIClient, connect: Callable[[int], _Client]) -> None:
        self._client = client
        self._connect = connect

    @classmethod
    def connect(cls, base_url: str = "") -> DockerImages:
        """Return the images of a daemon, by default of the one that the environment names.

        Raises:
            EngineUnavailable: It does not answer, or refuses the caller.
        """
        settings: dict[str, Any] = {**kwargs_from_env(), **({"base_url": base_url} if base_url else {})}

        def client(timeout_s: int) -> _Client:
            try:
                return _Client(version="auto", timeout=timeout_s, **settings)
            except DockerException as error:
                raise unreachable(error, settings.get("base_url", "")) from error

        return cls(client(_BUILD_TIMEOUT_S), client)

    def has(self, ref: str) -> bool:
        """Return whether an image of that name is on this host."""
        with _in_our_words():
            return bool(self._client.images(name=ref))

    def about(self, ref: str) -> ImageAbout | None:
        """Return what is known of an image of this host, None when it is not there."""
        with _in_our_words():
            try:
                found = self._client.inspect_image(ref)
            except NoSuchImage:
                return None
        config = found.get("Config") or {}
        layers = (found.get("RootFS") or {}).get("Layers") or ()
        return ImageAbout(str(found["Id"]), config.get("Labels") or {}, tuple(layers), config.get("User") or "")

    def building(self, plan: BuildPlan) -> DockerBuild:
        """Return a build that begins when its steps are asked for."""
        return DockerBuild(self._connect(_BUILD_TIMEOUT_S), plan)

    def find(self, label: str, value: str) -> str | None:
        """Return the ID of the newest image with that label, None when there is none."""
        with _in_our_words():
            found = self._client.images(all=True, filters={"label": f"{label}={value}"})
        return str(max(found, key=lambda image: image["Created"])["Id"]) if found else None

    def tag(self, image: str, ref: str) -> None:
        """Give an image one more name."""
        parsed = parse_reference(ref)
        with _in_our_words():
            self._client.tag(image, parsed.repository, parsed.tag)

    def import_tar(self, chunks: Iterable[bytes], changes: Sequence[str]) -> str:
        """Return the ID of a new image of one layer, made from a streamed tar archive."""
        with _in_our_words():
            answer = self._client.import_image(src=iter(chunks), changes=list(changes))
        return imported_id(answer)

    @contextmanager
    def build_container(
        self, image: str, argv: Sequence[str], *, name: str, mounts: Sequence[Mount] = ()
    ) -> Iterator[BuildContainer]:
        """Run a command as the image's root; see :class:`ImageStore`."""
        self._clear(name)
        with _in_our_words():
            container = str(self._client.create_container(**_request(self._client, image, argv, name, mounts))["Id"])
        try:
            yield self._run(container, argv)
        finally:
            with _in_our_words():
                self._client.remove_container(container, v=True, force=True)

    def _run(self, container: str, argv: Sequence[str]) -> BuildContainer:
        with _in_our_words():
            self._client.start(container)
            status = int(self._client.wait(container)["StatusCode"])
            output = self._client.logs(container).decode("utf-8", "replace")
        if status:
            raise tool_failed(" ".join(argv)[:60], status, output)
        return BuildContainer(container, output)

    def _clear(self, name: str) -> None:
        """Remove what a killed build left behind; a running container of that name is another build."""
        with _in_our_words():
            try:
                left = self._client.inspect_container(name)
            except NoSuchContainer:
                return
            if not left["State"]["Running"]:
                self._client.remove_container(name, v=True, force=True)

    def flatten(self, container: str, changes: Sequence[str]) -> str:
        """Return the ID of a new image of one layer with the container's files; the archive is streamed through."""
        with _in_our_words():
            return self.import_tar(self._client.export(container), changes)

    def commit(self, container: str, changes: Sequence[str]) -> str:
        """Return the ID of a new image: the container's own and a layer on top."""
        with _in_our_words():
            return str(self._client.commit(container, changes=list(changes))["Id"])

    def remove_image(self, image: str) -> None:
        """Forget an image; one that is gone is no error.

        Raises:
            Conflict: A container or another image needs it.
        """
        with _in_our_words():
            try:
                self._client.remove_image(image)
            except NoSuchImage:
                return

    def registry_has(self, ref: str, *, timeout_s: int) -> bool:
        """Return whether a registry answers for that image within the time."""
        client: APIClient = self._connect(timeout_s)
        try:
            client.inspect_distribution(ref)
        except (DockerException, RequestException):
            return False
        finally:
            client.close()
        return True

    def pull(self, ref: str, progress: Callable[[str], None]) -> None:
        """Fetch an image, a line for every tenth of it."""
        repository, tag = split_reference(ref)
        tracker, said = PullTracker(ref), 0
        with _in_our_words():
            for event in self._client.pull(repository, tag=tag, stream=True, decode=True):
                step = tracker.step(event)
                percent = 100 * step.done_bytes // step.total_bytes if step.total_bytes else 0
                if percent >= said + _PROGRESS_STEP:
                    said = percent
                    progress(_("    {percent} % of {ref}").format(percent=percent, ref=ref))


class DockerBuild:
    """One build by the classic builder, on a connection of its own.

    A step's container is root's and has Docker's default limits, the default network and no mounts.
    """

    def __init__(self, client: _Client, plan: BuildPlan) -> None:
        self._client, self._plan = client, plan
        self._stopped = threading.Event()

    def steps(self) -> Iterator[BuildStep]:
        """Yield what the builder says, to the end; see :class:`Building`."""
        tracker = BuildTracker()
        try:
            with _in_our_words(), archive(self._plan) as context:
                for event in self._events(context):
                    yield tracker.step(event)
        except HTTPError as error:
            if not self._stopped.is_set():
                raise unreachable(error, "") from error
        finally:
            self._client.close()

    def _events(self, context: IO[bytes]) -> Iterator[dict[str, Any]]:
        plan = self._plan
        events = self._client.build(
            fileobj=context,
            custom_context=True,
            dockerfile=DOCKERFILE,
            labels=dict(plan.labels),
            buildargs=dict(plan.build_args),
            nocache=plan.no_cache,
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in events:
            if self._stopped.is_set():
                self._client.cut()
                return
            yield event

    def stop(self) -> None:
        """End the build, from any thread."""
        self._stopped.set()
        self._client.cut()


def _request(client: APIClient, image: str, argv: Sequence[str], name: str, mounts: Sequence[Mount]) -> dict[str, Any]:
    """Return a build container's settings. User and variables stay unset, because a commit would keep them."""
    host = client.create_host_config(
        network_mode="none",
        init=True,
        security_opt=["no-new-privileges"],
        log_config=LogConfig(type="json-file"),
        mounts=[DockerMount(mount.target, mount.source, type="bind", read_only=mount.read_only) for mount in mounts],
    )
    return {"image": image, "command": list(argv), "name": name, "entrypoint": [], "host_config": host}


def imported_id(answer: str) -> str:
    """Return the image's ID from the lines that an import answers with.

    Raises:
        EngineError: The import failed; Docker says so in the stream, under status 200.
    """
    event: dict[str, Any] = {}
    for line in answer.splitlines():
        event = json.loads(line) if line.strip() else event
        if "error" in event:
            raise EngineError(_("Docker could not import the image: {error}").format(error=event["error"]))
    return str(event.get("status", ""))


@contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except APIError as error:
        raise api_failure(error) from error
    except (DockerException, RequestException) as error:
        raise unreachable(error, "") from error
