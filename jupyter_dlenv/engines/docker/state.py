"""Docker's inspect answer -> Job and JobStatus. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ...i18n import _
from ...jobs.diagnosis import explain
from ...spec import Job, JobState, JobStatus, Reason, Role, leased_by
from .names import id_in
from .request import LABEL_PREFIX

_START_S = 60.0
_TIME = re.compile(r"(.*?)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")

LIVE = {
    "created": JobState.STARTING,
    "running": JobState.RUNNING,
    "paused": JobState.RUNNING,
    "restarting": JobState.RUNNING,
    "removing": JobState.RUNNING,
}


def epoch(text: str) -> float | None:
    """Return seconds since the epoch for Docker's timestamps; its year-one value means never."""
    found = _TIME.fullmatch(text)
    if not found or text.startswith("0001-"):
        return None
    head, fraction, zone = found.groups()
    digits = ((fraction or "") + "000000")[:6]
    return datetime.fromisoformat(f"{head}.{digits}{'+00:00' if zone == 'Z' else zone}").timestamp()


def status_of(inspect: Mapping[str, Any]) -> JobStatus:
    """Return the status of an inspected container; an exit code counts only once the container has exited."""
    state = inspect["State"]
    attempt = int(inspect["Config"]["Labels"].get(f"{LABEL_PREFIX}attempt", 1))
    started = epoch(state.get("StartedAt", ""))
    live = LIVE.get(state["Status"])
    if live:
        return JobStatus(live, started_at=started, attempt=attempt)
    code = int(state["ExitCode"])
    reason, message = explain(
        code, oom_killed=bool(state.get("OOMKilled")), memory_limit=int(inspect["HostConfig"].get("Memory") or 0)
    )
    ended = JobState.SUCCEEDED if code == 0 else JobState.FAILED
    text = state.get("Error") or message
    return JobStatus(ended, code, reason, text, started, epoch(state.get("FinishedAt", "")), attempt)


def job_of(inspect: Mapping[str, Any]) -> Job:
    """Return the job that a container's name and labels describe."""
    every = inspect["Config"]["Labels"]
    labels = {key[len(LABEL_PREFIX) :]: value for key, value in every.items() if key.startswith(LABEL_PREFIX)}
    return Job(
        id=id_in(inspect["Name"]) or labels["id"],
        role=Role(labels["role"]),
        engine="docker",
        native_id=inspect["Id"],
        name=labels.get("name", ""),
        owner=labels["owner"],
        environment=labels.get("environment", ""),
        image_ref=labels.get("image", ""),
        status=status_of(inspect),
        labels=labels,
    )


def is_ours(item: Mapping[str, Any]) -> bool:
    """Return whether an entry of Docker's list is one of our containers, of a version that we understand."""
    return is_known(item["Labels"]) and bool(id_in(name_in(item)))


def name_in(item: Mapping[str, Any]) -> str:
    """Return the name in an entry of Docker's list, which a container that is just being removed may have lost."""
    return str((item["Names"] or [""])[0])


def job_id_of(item: Mapping[str, Any]) -> str:
    """Return whose an entry of Docker's list is."""
    return id_in(name_in(item)) or str(item["Labels"][f"{LABEL_PREFIX}id"])


def is_live(item: Mapping[str, Any]) -> bool:
    """Return whether an entry of Docker's list is a container that has not ended."""
    return item["State"] in LIVE


def listed_job(item: Mapping[str, Any]) -> Job:
    """Return the job that an entry of Docker's list describes, which tells less than an inspect: no start, only when
    the container was made."""
    status = {"Status": item["State"], "StartedAt": ""}
    config = {"Labels": item["Labels"]}
    job = job_of({"Id": item["Id"], "Name": name_in(item), "State": status, "Config": config})
    return replace(job, status=replace(job.status, started_at=float(item["Created"])))


def never_started(job: Job, now: float) -> bool:
    """Return whether a listed container was made and then forgotten: its starter has had the time to start it."""
    return job.status.state is JobState.STARTING and now - (job.status.started_at or 0) > _START_S


def rival_of(container: str, listed: Iterable[Job], now: float) -> Job | None:
    """Return who has the right to a container's GPUs before it does: whoever was made earlier.

    Args:
        listed: What holds GPUs by its label, the container among them.
        now: Seconds since the epoch.
    """
    others = {job.native_id: job for job in listed if not never_started(job, now)}
    mine = others.pop(container, None)
    if mine is None:
        return None
    earlier = [
        job
        for job in others.values()
        if job.id != mine.id
        and set(leased_by(job.labels)) & set(leased_by(mine.labels))
        and not _share(job, mine)
        and _age(job) < _age(mine)
    ]
    return next(iter(earlier), None)


def _share(one: Job, other: Job) -> bool:
    return one.labels.get("shared") == other.labels.get("shared") == "1"


def _age(job: Job) -> tuple[bool, float, str]:
    """Return what sorts containers by who was there first: Docker tells the second alone, and who runs was earlier."""
    return job.status.state is JobState.STARTING, job.status.started_at or 0, job.native_id


def is_known(labels: Mapping[str, str]) -> bool:
    """Return whether a container is one of ours: an image may carry a label of ours, a newer version another role."""
    return LABEL_PREFIX + "id" in labels and labels.get(LABEL_PREFIX + "role") in [role.value for role in Role]


def removed_status() -> JobStatus:
    """Return the status of a container that somebody else removed: it ended, and nobody saw its exit code."""
    return JobStatus(JobState.FAILED, None, Reason.REMOVED, _("Its container was removed from outside."))


@dataclass(frozen=True)
class ImageInfo:
    """An image of this host.

    Attributes:
        id: ``sha256:…``, what containers are made from.
        ref: What the user calls it.
        created: Seconds since the epoch.
        env: The variables that the image sets.
        command: What it runs by itself: entry point and command.
        workdir: Where it runs that.
        digest: ``sha256:…``, what the registry calls it that it came from; empty for one that was never in any.
    """

    id: str
    ref: str
    size_bytes: int
    created: float
    env: Mapping[str, str]
    command: tuple[str, ...] = ()
    workdir: str = ""
    digest: str = ""


def image_info(image_id: str, ref: str, found: Mapping[str, Any]) -> ImageInfo:
    """Return an image from an inspect answer, or from an entry of the list, which has ``Created`` in seconds and knows
    nothing of what the image runs."""
    created = found.get("Created") or 0
    when = float(created) if isinstance(created, (int, float)) else epoch(str(created)) or 0.0
    config = found.get("Config") or {}
    env = dict(item.partition("=")[::2] for item in config.get("Env") or [])
    command = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
    digest = _digest(ref, found.get("RepoDigests") or []) if config else ""
    size = int(found.get("Size") or 0)
    return ImageInfo(image_id, ref, size, when, env, command, config.get("WorkingDir") or "", digest)


def _digest(ref: str, known: Sequence[str]) -> str:
    """Return the digest by which the reference's own registry knows an image, else by which any does."""
    digests = dict(item.partition("@")[::2] for item in known if "@" in item)
    repository = ref.partition("@")[0]
    if ":" in repository.rpartition("/")[2]:
        repository = repository.rpartition(":")[0]
    return digests.get(repository) or next(iter(digests.values()), "")
