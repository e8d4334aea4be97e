"""What runs where: the frozen values that every part of jupyter-dlenv hands to the next.

Standard library only and Python 3.8 syntax, because the same module is imported inside a user's container.
"""

import hashlib
import json
import re
import uuid
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from typing import Any, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

from .errors import InvalidRequest
from .i18n import _
from .resources import GpuGrant, Mount, Resources

T = TypeVar("T")

CONTAINER_ROOT = "/dlenv"
"""Everything of ours inside a container lies below this folder, so that it never meets a file of the image."""

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class Role(str, Enum):
    """Why a container exists; a kernel is a job with one replica, a shell lives as long as one terminal."""

    KERNEL = "kernel"
    TRAINER = "trainer"
    SHELL = "shell"


class JobState(str, Enum):
    """Where a job stands. Only the first four can still change."""

    PENDING = "PENDING"
    PULLING = "PULLING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def ended(self) -> bool:
        """True when nothing can change the state any more."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST)


class End(str, Enum):
    """When a job of several processes is done: when all have ended, or when the first of them has."""

    ALL = "all"
    LEADER = "leader"


class Reason(str, Enum):
    """Why a job ended, in the words of the engine contract."""

    COMPLETED = "completed"
    USER_ERROR = "user error"
    OUT_OF_MEMORY = "out of memory"
    KILLED = "killed from outside"
    REMOVED = "removed from outside"
    STOPPED = "stopped by its owner"
    TIMEOUT = "time limit"
    ENGINE = "engine"
    REBOOT = "host restarted"


@dataclass(frozen=True)
class Identity:
    """Who a process in a container is: numbers for the kernel, a name for people and libraries."""

    uid: int
    gid: int
    groups: Tuple[int, ...] = ()
    user: str = "dlenv"


@dataclass(frozen=True)
class RankLogs:
    """Where the launcher writes a raw file for each process.

    Attributes:
        pattern: Glob below the run folder.
        rank_part: Index of the path component that names the local rank.
    """

    pattern: str
    rank_part: int


@dataclass(frozen=True)
class Part:
    """What one replica runs in place of the others: its launcher's command, and variables on top."""

    argv: Tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSpec:
    """One thing to run, with nothing left to decide.

    Attributes:
        id: Name of the job, made by the client, so that a repeated request is recognised.
        role: Kernel or training.
        argv: What the replica runs, launcher included.
        workdir: Working folder inside the replica.
        run_dir: Host folder shared with the replica alone (``/dlenv/run`` in a container).
        image: Image ID, None for an engine without images.
        image_ref: What the user called the image.
        python: The interpreter in the image.
        env: Variables for the replica, an allow-list's result.
        mounts: Host folders to show.
        mask_dirs: Folders below the mounts to hide behind an empty one.
        mask_files: Files below the mounts to hide behind an empty one.
        identity: Whose files the replica writes, None for the caller's own.
        gpus: The leased GPUs of all replicas here and the way to them.
        nnodes: Replicas of the whole job, those on other hosts counted.
        node_rank: Rank of the first replica here.
        replicas: How many of them are here.
        parts: What each of these runs, empty where all run the same.
        ends: When the job is done.
        rdma: The host's RDMA device nodes that the replicas see.
        rank_logs: Where raw files of ranks appear, None when the launcher has one stream.
        timeout_s: Time limit, None for none.
        labels: More labels (kernel id, notebook), without the reserved prefix.
    """

    id: str
    role: Role
    argv: Tuple[str, ...]
    workdir: str
    run_dir: str
    owner: str
    name: str = ""
    environment: str = ""
    instance: str = ""
    image: Optional[str] = None
    image_ref: str = ""
    python: str = "python3"
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Tuple[Mount, ...] = ()
    mask_dirs: Tuple[str, ...] = ()
    mask_files: Tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    network: str = "bridge"
    identity: Optional[Identity] = None
    gpus: GpuGrant = field(default_factory=GpuGrant)
    nproc_per_node: int = 1
    nnodes: int = 1
    node_rank: int = 0
    replicas: int = 1
    parts: Tuple[Part, ...] = ()
    ends: End = End.ALL
    rdma: Tuple[str, ...] = ()
    rank_logs: Optional[RankLogs] = None
    timeout_s: Optional[float] = None
    attempt: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_id(self.id)

    def of_replica(self, index: int) -> "JobSpec":
        """Return what one of the replicas here is: its rank, its command, and its share of the GPUs."""
        part = self.parts[index] if self.parts else Part(self.argv)
        return replace(
            self,
            node_rank=self.node_rank + index,
            replicas=1,
            parts=(),
            argv=part.argv,
            env={**self.env, **part.env},
            gpus=self.gpus.of_replica(index),
        )

    def digest(self) -> str:
        """Hex SHA-256 of the whole spec: two submissions are the same job exactly when this is equal."""
        text = json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class JobStatus:
    """What the engine says of one job now.

    Attributes:
        exit_code: Exit status of the replica, None while it runs or when nobody saw it.
        message: One sentence for a person.
        started_at, finished_at: Seconds since the epoch.
        attempt: Which attempt of the job this is about.
    """

    state: JobState
    exit_code: Optional[int] = None
    reason: Optional[Reason] = None
    message: str = ""
    started_at: Optional[float] = None
    finished_at: Optional[float] = None
    attempt: int = 1


@dataclass(frozen=True)
class Job:
    """A spec that an engine accepted.

    Attributes:
        native_id: The engine's own name for it (container id, process id).
    """

    id: str
    role: Role
    engine: str
    native_id: str
    name: str
    owner: str
    environment: str
    image_ref: str
    status: JobStatus
    labels: Mapping[str, str] = field(default_factory=dict)


def new_id() -> str:
    """Return a fresh canonical UUID."""
    return str(uuid.uuid4())


def is_id(text: str) -> bool:
    """Return whether a text is a canonical lower-case UUID."""
    return _CANONICAL_UUID.fullmatch(text) is not None


def require_id(text: str) -> str:
    """Return the text when it is a canonical lower-case UUID.

    Ids reach file names, container names and labels; jupyter_server passes a client's kernel id through unchecked.

    Raises:
        InvalidRequest: It is anything else.
    """
    if not is_id(text):
        raise InvalidRequest(
            _("{text!r} is not an id.").format(text=text[:80]),
            hint=_("Ids look like 5ab4c0de-0000-4000-8000-000000000000."),
        )
    return text


def require_name(text: str) -> str:
    """Return the text when it can name an environment: lower case, digits, dots, dashes, at most 63.

    Raises:
        InvalidRequest: It is anything else.
    """
    if not _NAME.fullmatch(text):
        raise InvalidRequest(
            _("{text!r} cannot name an environment.").format(text=text[:80]),
            hint=_("Use lower-case letters, digits, '.', '_' and '-', at most 63 of them."),
        )
    return text


def to_json(value: Any) -> Any:
    """Return plain JSON data for a dataclass of this module; defaults are kept, enums become their values."""
    return json.loads(json.dumps(asdict(value), ensure_ascii=False))


def from_json(cls: Type[T], data: Mapping[str, Any]) -> T:
    """Build a flat dataclass from JSON data.

    Raises:
        InvalidRequest: A key is unknown or a required one is missing.
    """
    known = {item.name for item in fields(cls)}  # type: ignore[arg-type]  # only dataclasses are passed
    unknown = sorted(set(data) - known)
    if unknown:
        raise InvalidRequest(_("{kind} has no {fields}.").format(kind=cls.__name__, fields=", ".join(unknown)))
    try:
        return cls(**data)
    except TypeError as error:
        raise InvalidRequest(f"{cls.__name__}: {error}.") from None


def status_from_json(data: Mapping[str, Any]) -> JobStatus:
    """Build :class:`JobStatus` from :func:`to_json`'s result."""
    reason = data.get("reason")
    parts: Dict[str, Any] = {**data, "state": JobState(data["state"]), "reason": Reason(reason) if reason else None}
    return from_json(JobStatus, parts)


def leased_by(labels: Mapping[str, str]) -> Tuple[str, ...]:
    """Return the UUIDs of the GPUs that labels say are held, none where there is no such label."""
    return tuple(filter(None, labels.get("lease", "").split(",")))


def labels_of(spec: JobSpec, prefix: str = "io.jupyter-dlenv.", index: int = 0) -> Dict[str, str]:
    """Return every label that a replica's container carries, the reserved ones last so that none can be replaced.

    Args:
        spec: The whole job's; its digest is the same for all replicas.
        index: Which of its replicas here.
    """
    gpus = spec.gpus.of_replica(index)
    own: List[Tuple[str, str]] = [
        ("id", spec.id),
        ("owner", spec.owner),
        ("role", spec.role.value),
        ("job" if spec.role is Role.TRAINER else spec.role.value, spec.id),
        ("attempt", str(spec.attempt)),
        ("nodes", str(spec.replicas)),
        ("node", str(index)),
        ("ends", spec.ends.value),
        ("lease", ",".join(gpus.uuids)),
        ("shared", "1" if gpus.shared else ""),
        ("limit", f"{spec.timeout_s:g}" if spec.timeout_s else ""),
        ("access", gpus.access.value if gpus.uuids else ""),
        ("environment", spec.environment),
        ("instance", spec.instance),
        ("name", spec.name),
        ("image", spec.image_ref),
        ("run-dir", spec.run_dir),
        ("spec", spec.digest()),
        ("schema", "1"),
    ]
    more = [(key, value) for key, value in spec.labels.items()]
    return {prefix + key: value for key, value in more + own}
