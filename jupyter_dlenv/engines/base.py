"""The engine contract: what every place that can run a replica promises.

One suite, ``tests/engines/test_contract.py``, holds every engine to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import Unsupported
from ..i18n import _
from ..spec import Job, JobSpec, JobStatus


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; an option that needs more is an error, never silence."""

    images: bool
    limits: bool
    networks: bool
    mounts: bool
    gpus: bool


@dataclass(frozen=True)
class Plan:
    """What would run, before anything does.

    Attributes:
        spec: The spec it was made from.
        requests: The engine's own request for each replica here: a create body, an argv, a manifest.
        command: The same as command lines that a person could run, one below the other, secrets absent.
        inherited: Open files that a replica on this host keeps open as long as it runs, such as locks.
    """

    spec: JobSpec
    requests: tuple[Mapping[str, Any], ...]
    command: str
    inherited: tuple[int, ...] = ()


@dataclass(frozen=True)
class PullProgress:
    """One step of a pull. ``total_bytes`` is 0 while the registry has not said it."""

    message: str
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True)
class LogChunk:
    """A piece of a job's log.

    Attributes:
        data: Whole lines, UTF-8 by convention, any bytes in truth.
        cursor: Hand it back to go on after this piece.
        open_lines: The unfinished line of each rank (a progress bar), by rank.
    """

    data: bytes
    cursor: str
    open_lines: Mapping[str, str]


class Engine(ABC):
    """Runs jobs. Every method may be called from any event loop and from several processes at once."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    @property
    @abstractmethod
    def place(self) -> str:
        """Where its jobs are: what is not known at one place may live at another."""

    @abstractmethod
    def plan(self, spec: JobSpec) -> Plan:
        """Return what :meth:`submit` would do. Pure: nothing is asked of the engine.

        Raises:
            Unsupported: The spec needs what :attr:`capabilities` lacks.
        """

    @abstractmethod
    async def submit(self, plan: Plan) -> Job:
        """Start the plan's replicas, all or none; a second call with the same plan adopts what the first one made.

        Raises:
            Conflict: The id runs something else.
            EngineUnavailable: Nobody answers.
            ImageNotFound: The image is not on this host; engines never pull here.
            StartFailed: It could not be started.
        """

    @abstractmethod
    async def poll(self, ids: Iterable[str]) -> dict[str, JobStatus]:
        """Return the status of each id that the engine knows; an unknown id is absent, never guessed."""

    @abstractmethod
    def logs(self, job_id: str, cursor: str = "", *, follow: bool = False) -> AsyncIterator[LogChunk]:
        """Yield the log from the cursor on; with ``follow`` until the job has ended and its last byte was read.

        Raises:
            JobNotFound: The engine does not know the id.
            InvalidRequest: The cursor is not one of ours.
        """

    @abstractmethod
    async def signal(self, job_id: str, signum: int) -> None:
        """Deliver a signal to what each replica runs.

        Raises:
            JobNotFound: The engine does not know the id, or it has ended.
        """

    @abstractmethod
    async def cancel(self, job_id: str, *, grace_s: float = 10) -> None:
        """Stop the job: interrupt, terminate, kill, within ``grace_s`` seconds. Ended or unknown ids are no error."""

    @abstractmethod
    async def list(self, owner: str | None = None) -> list[Job]:
        """Return every job that the engine still holds, ended ones included, of one owner or of all."""

    @abstractmethod
    async def remove(self, job_id: str, attempt: int | None = None) -> None:
        """Forget the job and free what it held, killing what still runs. Unknown ids are no error.

        Args:
            attempt: The last attempt to forget, None for all.
        """

    async def pull(self, image: str) -> AsyncIterator[PullProgress]:
        """Fetch an image, yielding progress.

        Raises:
            PullFailed: It did not arrive whole.
            Unsupported: The engine has no images.
        """
        if not self.capabilities.images:
            message = _("The {engine} engine has no images, so {image} cannot be pulled.")
            raise Unsupported(message.format(engine=self.name, image=image))
        yield PullProgress("")
