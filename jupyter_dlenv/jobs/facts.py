"""What is known of a job that failed, and what is said about it: frozen values. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..spec import Reason


@dataclass(frozen=True)
class NodeFacts:
    """What one node of a job left.

    Attributes:
        rank: Rank of the node in the job.
        launcher: End of what the launched process itself wrote.
        ranks: Ends of standard output and error of each process, by its rank in the whole job.
        exit_code: As shells say it, None where it is not known.
        ended: The cause in the node's result: exited, stopped, timeout, gang, done.
    """

    rank: int = 0
    launcher: str = ""
    ranks: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    exit_code: int | None = None
    ended: str = "exited"


@dataclass(frozen=True)
class Facts:
    """What is known of a job that has ended.

    Attributes:
        exit_code: As shells say it: 128 and more for a signal.
        oom_killed: Whether the kernel killed a process of the job for its memory.
        memory_limit: Bytes per node, None or 0 for none.
        shm_bytes: Size of /dev/shm, 0 where it is not known.
        stopped_by_us: Whether its owner stopped it.
        timeout_s: The time limit in seconds when that ended it, else None.
        gpus: How many GPUs a node was given.
        mounts: Folders that the containers saw of the host, by their path inside.
        workdir: Working folder inside.
        modules: Names of the modules and packages that lie in the script's folder or the working folder.
        nodes: What each node left.
        first_node: Rank of the node that failed first, None where nobody noted it.
    """

    exit_code: int
    oom_killed: bool = False
    memory_limit: int | None = None
    shm_bytes: int = 0
    stopped_by_us: bool = False
    timeout_s: float | None = None
    network: str = ""
    image: str = ""
    gpus: int = 0
    engine: str = "docker"
    mounts: tuple[str, ...] = ()
    workdir: str = ""
    modules: tuple[str, ...] = ()
    nodes: tuple[NodeFacts, ...] = ()
    first_node: int | None = None


@dataclass(frozen=True)
class Found:
    """Where a sign was found.

    Attributes:
        groups: The sign's named groups.
        block: The traceback around it with its frames, or the lines around it.
        exit_code: Of the process that wrote it, or of the job where that is not known.
        before: The lines before that traceback.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    block: str = ""
    exit_code: int = 1
    before: str = ""


@dataclass(frozen=True)
class Cause:
    """One entry of the catalogue.

    Attributes:
        id: Its name, for programs and documents.
        describe: Returns what happened in one sentence, in the reader's language; ``{name}`` stands for a named group
            of the sign, or for a value that :func:`.diagnosis.values_of` knows.
        advise: Returns what helps, with the option or command; empty where nothing general can be said.
        signs: Regular expressions, one line each, of which the first that is found counts. They begin with literal
            text and repeat nothing without bound but at their end, so that any log is searched quickly.
        codes: Exit codes that say it by themselves.
        when: Whether a found sign means this, None where it always does.
        consequence: Whether it follows from the failure of another process, which is then the cause.
    """

    id: str
    reason: Reason
    describe: Callable[[], str]
    advise: Callable[[], str]
    signs: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    when: Callable[[Facts, Found], bool] | None = None
    consequence: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """Why a job ended.

    Attributes:
        cause: Id in the catalogue; ``completed`` for success.
        message: What happened, in one sentence; empty when it just succeeded.
        evidence: The line of the log that says it, without its rank prefix; empty where the end alone says it.
        remedy: What helps, empty where nothing general can be said.
        rank: The process that failed first, None where it is not known or there is only one.
        node: Rank of its node, None where there is only one.
        traceback: The Python traceback that ended it, with the exceptions that led to it; empty where none did.
    """

    cause: str
    reason: Reason
    message: str = ""
    evidence: str = ""
    remedy: str = ""
    rank: int | None = None
    node: int | None = None
    traceback: str = ""
