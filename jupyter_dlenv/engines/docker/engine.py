"""The Docker engine: the only module that talks to dockerd, through docker-py's low-level API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException
from docker.errors import NotFound as ApiNotFound
from docker.utils import kwargs_from_env

from ...errors import DLEnvError, EngineError, EngineUnavailable, ImageNotFound, JobNotFound, PullFailed
from ...i18n import _
from ...resources import Mount
from ...spec import Job, JobSpec, JobState, JobStatus, Role
from .. import folder
from ..base import Capabilities, Engine, LogChunk, Plan, PullProgress
from ..folder import RunFolder
from .containers import containers, inspect_job, inspect_status, jobs, remove_container, run_short
from .daemon import DEFAULT_ADDRESS, DaemonInfo, daemon_info
from .events import EventStream
from .failures import CANNOT_START, api_failure, gpus_taken, image_missing, unreachable, without_pinning
from .gang import attempt_of, newest_attempts
from .names import name_of
from .networks import remove_networks
from .pulls import PullTracker, split_reference
from .request import LABEL_PREFIX, assert_safe, command_line, create_body, short_body
from .state import LIVE, ImageInfo, image_info, is_live, is_ours, listed_job, rival_of
from .submission import discard, make

T = TypeVar("T")

_TIMEOUT_S = 60
_POLL_S = 0.05
_LEASED = f"{LABEL_PREFIX}lease"
_SHIM_GRACE_S = 2.0  # beyond the caller's grace: the shim's own ladder ends first


class DockerEngine(Engine):
    """Replicas are containers of a Docker daemon.

    Args:
        base_url: The daemon's address; by default the environment's ``DOCKER_HOST``, else the usual socket.
    """

    name: ClassVar[str] = "docker"
    capabilities: ClassVar[Capabilities] = Capabilities(images=True, limits=True, networks=True, mounts=True, gpus=True)

    def __init__(self, base_url: str = "") -> None:
        self._base_url = base_url
        self._local = threading.local()
        self._api_version: str | None = None

    # The wire ---------------------------------------------------------------------------------------------------

    def _client(self) -> APIClient:
        """Return this thread's client; a requests session is not made for several threads."""
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._connect()
        return client

    def _connect(self) -> APIClient:
        settings = kwargs_from_env()
        if self._base_url:
            settings["base_url"] = self._base_url
        try:
            client = APIClient(version=self._api_version or "auto", timeout=_TIMEOUT_S, **settings)
        except DockerException as error:
            raise unreachable(error, settings.get("base_url", "")) from error
        self._api_version = client.api_version
        # docker-py keeps up to 25 connections open for each client, one for each address that it ever asked.
        client.headers["Connection"] = "close"
        return client

    def call(self, work: Callable[[APIClient], T]) -> T:
        """Run one exchange with the daemon in this thread, its failures in our words.

        Raises:
            EngineUnavailable: Nobody answers.
            DLEnvError: Whatever the daemon refused.
        """
        try:
            return work(self._client())
        except APIError as error:
            raise api_failure(error) from error
        except (DockerException, OSError) as error:
            raise unreachable(error, self._base_url or os.environ.get("DOCKER_HOST", "")) from error

    async def _ask(self, work: Callable[[APIClient], T]) -> T:
        return await asyncio.to_thread(self.call, work)

    # The contract -----------------------------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self._base_url or os.environ.get("DOCKER_HOST", "") or DEFAULT_ADDRESS

    @property
    def place(self) -> str:
        address = self._address
        _scheme, socket, path = address.partition("unix://")  # one socket has several names, /run and /var/run
        return f"unix://{os.path.realpath('/' + path.lstrip('/'))}" if socket else address

    def plan(self, spec: JobSpec) -> Plan:
        bodies = tuple(create_body(spec, index) for index in range(spec.replicas))
        for body in bodies:
            assert_safe(body)
        return Plan(spec, bodies, command_line(spec))

    async def submit(self, plan: Plan) -> Job:
        return await asyncio.to_thread(self._submit, plan)

    def _submit(self, plan: Plan) -> Job:
        made = self.call(lambda client: make(client, plan))
        try:
            if made.waiting:
                self.refuse_rivals(made.waiting, plan.spec)
            for container in made.waiting:  # the first replica first: the others look for its name
                self.call(partial(APIClient.start, container=container))
        except DLEnvError as error:
            self.call(lambda client: discard(client, plan.spec))
            weaker = tuple(without_pinning(body, error.message) or body for body in plan.requests)
            if not isinstance(error, CANNOT_START) or weaker == plan.requests:
                raise
            return self._submit(replace(plan, requests=weaker))
        return self.call(lambda client: inspect_job(client, made.ids))

    def refuse_rivals(self, containers: Iterable[str], spec: JobSpec) -> None:
        """Look once more between create and start: whoever keeps another ledger shows here, if nowhere else."""
        listed, now = self.leases() if spec.gpus.uuids else (), time.time()
        for container in containers:
            if rival := rival_of(container, listed, now):
                raise gpus_taken(rival.name)

    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        wanted = list(ids)
        found = await self._ask(lambda client: jobs(client, {}, wanted)) if wanted else []
        return {job.id: job.status for job in found}

    async def job(self, job_id: str) -> Job:
        """Return the newest attempt of a job.

        Raises:
            JobNotFound: Docker does not know it.
        """
        for job in await self._ask(lambda client: jobs(client, {}, [job_id], closely=True)):
            return job
        raise JobNotFound(_("Docker knows no job {id}.").format(id=job_id), hint="jupyter dlenv jobs")

    async def logs(self, job_id: str, cursor: str = "", *, follow: bool = False) -> AsyncIterator[LogChunk]:
        job = await self.job(job_id)

        async def ended() -> bool:
            status = (await self.poll([job_id])).get(job_id) if follow else None
            return status is None or status.state.ended or status.attempt != job.status.attempt

        async for chunk in folder.follow(RunFolder(Path(job.labels["run-dir"])), cursor, ended):
            yield chunk

    async def _replicas(self, job_id: str) -> list[Job]:
        """Return the containers of a job's newest attempt that have not ended, each as a job."""
        found = await self._ask(lambda client: newest_attempts(containers(client, {}, [job_id])))
        return [listed_job(item) for items in found for item in items if is_live(item)]

    async def signal(self, job_id: str, signum: int) -> None:
        replicas = await self._replicas(job_id)
        if not replicas:
            await self.job(job_id)
        if not any(await asyncio.gather(*(self.kill(job.native_id, signum) for job in replicas))):
            raise JobNotFound(_("Job {id} has ended.").format(id=job_id))

    async def cancel(self, job_id: str, *, grace_s: float = 10) -> None:
        replicas = await self._replicas(job_id)
        if grace_s > 0 and len(replicas) > 1 and replicas[0].role is Role.TRAINER:
            with contextlib.suppress(EngineError):  # the signals say the same
                await asyncio.to_thread(RunFolder(Path(replicas[0].labels["run-dir"])).request_stop)
        await asyncio.gather(*(self._stop(job, grace_s) for job in replicas))

    async def _stop(self, job: Job, grace_s: float) -> None:
        if job.status.state is JobState.STARTING:  # created and never started: there is nothing to signal
            await self._ask(lambda client: remove_container(client, job.native_id))
            return
        if grace_s > 0 and job.status.state is JobState.RUNNING:
            await self.kill(job.native_id, signal.SIGINT)
            await self.wait(job.native_id, grace_s + _SHIM_GRACE_S)
        await self.kill(job.native_id, signal.SIGKILL)
        await self.wait(job.native_id, _TIMEOUT_S)

    async def kill(self, container: str, signum: int) -> bool:
        """Deliver a signal to a container's first process; False when it is gone or does not run any more."""

        def kill(client: APIClient) -> bool:
            try:
                client.kill(container, signum)
            except APIError as error:
                if error.status_code not in (404, 409):
                    raise
                return False
            return True

        return await self._ask(kill)

    async def status(self, container: str) -> JobStatus:
        """Return the status of one container; one that is gone was removed from outside."""
        return await self._ask(lambda client: inspect_status(client, container))

    async def wait(self, container: str, timeout_s: float) -> JobStatus | None:
        """Return the ended status of a container, None while it runs after ``timeout_s`` seconds.

        A container that somebody removed counts as killed: its exit code was never seen.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            status = await self.status(container)
            if status.state.ended:
                return status
            if asyncio.get_running_loop().time() >= deadline:
                return None
            await asyncio.sleep(_POLL_S)

    async def list(self, owner: str | None = None) -> list[Job]:
        labels = {"owner": owner} if owner is not None else {}
        return await self._ask(lambda client: jobs(client, labels))

    async def remove(self, job_id: str, attempt: int | None = None) -> None:
        def remove(client: APIClient) -> None:
            for found in containers(client, {}, [job_id]):
                if attempt is None or attempt_of(found) <= attempt:
                    remove_container(client, found["Id"])
            remove_networks(client, job_id, attempt)

        await self._ask(remove)

    async def pull(self, image: str) -> AsyncIterator[PullProgress]:
        repository, tag = split_reference(image)
        try:
            stream = await self._ask(lambda client: client.pull(repository, tag=tag, stream=True, decode=True))
        except EngineUnavailable:
            raise
        except DLEnvError as error:
            raise PullFailed(_("Pulling {ref} failed: {detail}").format(ref=image, detail=error.message)) from error
        tracker = PullTracker(image)
        while (event := await self._ask(lambda client: next(stream, None))) is not None:
            yield tracker.step(event)
        try:
            await self.image(image)
        except ImageNotFound as error:
            raise PullFailed(_("The pull of {image} ended without the image.").format(image=image)) from error

    # Beyond the contract: images, and what a kernel's start needs --------------------------------------------------

    async def images(self) -> Sequence[ImageInfo]:
        """Return the tagged images of this host, newest first."""
        found = await self._ask(lambda client: client.images())
        infos = [image_info(item["Id"], ref, item) for item in found for ref in item.get("RepoTags") or []]
        return sorted((info for info in infos if info.ref != "<none>:<none>"), key=lambda info: -info.created)

    async def image(self, ref: str) -> ImageInfo:
        """Return the image that a reference names on this host.

        Raises:
            ImageNotFound: It is not here; the hint is the pull command.
        """

        def inspect(client: APIClient) -> ImageInfo:
            try:
                found = client.inspect_image(ref)
            except ApiNotFound as error:
                raise image_missing(ref) from error
            return image_info(found["Id"], ref, found)

        return await self._ask(inspect)

    async def run_short(
        self, image_id: str, argv: Sequence[str], *, user: str = "", mounts: Sequence[Mount] = (), timeout_s: int = 60
    ) -> tuple[int, bytes]:
        """Run a short command in a container without network; return its exit code and output."""
        body = short_body(image_id, argv, user, mounts)
        return await self._ask(lambda client: run_short(client, body, timeout_s))

    async def console(self, native_id: str, lines: int = 20) -> str:
        """Return the last lines that a container's first process wrote, empty when the container is gone."""

        def read(client: APIClient) -> bytes:
            try:
                return bytes(client.logs(native_id, stdout=True, stderr=True, tail=lines))
            except ApiNotFound:
                return b""

        return (await self._ask(read)).decode(errors="replace").strip()

    async def discard(self, native_id: str) -> None:
        """Remove one container; one that is gone is fine."""
        await self._ask(lambda client: remove_container(client, native_id))

    async def rename(self, native_id: str, job_id: str, attempt: int) -> None:
        """Give a container to another job: the name is what says whose it is, and changes at once or not at all."""
        await self._ask(lambda client: client.rename(native_id, name_of(job_id, attempt)))

    async def start_again(self, native_id: str) -> None:
        """Start a container that has ended, with the files that it wrote.

        Raises:
            StartFailed: It could not be started.
        """
        await self._ask(lambda client: client.start(native_id))

    async def memory_peak(self, native_id: str) -> int | None:
        """Return the most memory in bytes that a running container has held, None where Docker does not know it."""

        def read(client: APIClient) -> int | None:
            stats = client.stats(native_id, stream=False, one_shot=True).get("memory_stats") or {}
            return stats.get("max_usage") or stats.get("usage")

        try:
            return await self._ask(read)
        except DLEnvError:
            return None  # it has ended meanwhile

    async def cpu_seconds(self, job_id: str) -> float | None:
        """Return the CPU time that a job's running containers have used, None where Docker does not know it."""

        def read(client: APIClient) -> float:
            stats = [client.stats(item["Id"], stream=False, one_shot=True) for item in containers(client, {}, [job_id])]
            return sum(float(each["cpu_stats"]["cpu_usage"]["total_usage"]) for each in stats) / 1e9

        try:
            return await self._ask(read)
        except (DLEnvError, KeyError):
            return None  # one has ended meanwhile

    async def execute(self, native_id: str, argv: Sequence[str]) -> tuple[int, bytes]:
        """Run a short command in a running container, as its user; return its exit code and output."""

        def execute(client: APIClient) -> tuple[int, bytes]:
            exec_id = client.exec_create(native_id, list(argv))["Id"]
            output = bytes(client.exec_start(exec_id))
            return int(client.exec_inspect(exec_id)["ExitCode"]), output

        return await self._ask(execute)

    def info(self) -> DaemonInfo:
        """Return what the daemon says of itself now; it may have been set up anew since the last time."""
        return daemon_info(self.call(lambda client: client.info()), self._address)

    def leases(self) -> Sequence[Job]:
        """Return what holds GPUs by its label and has not ended. Asks in this thread."""
        found = self.call(lambda client: client.containers(filters={"label": _LEASED, "status": list(LIVE)}))
        return [listed_job(item) for item in found if item["Labels"].get(_LEASED) and is_ours(item)]

    @cached_property
    def events(self) -> EventStream:
        """What happens to our containers."""
        return EventStream(self._connect)

    @cached_property
    def security_options(self) -> tuple[str, ...]:
        """The daemon's modes, such as ``rootless`` and ``userns``. Asks the daemon the first time."""
        return self.info().security_options
