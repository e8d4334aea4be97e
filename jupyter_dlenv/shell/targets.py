"""What a word names that a shell is wanted in. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ..errors import InvalidRequest, NotFound
from ..i18n import _
from ..spec import Job, JobState, Role

_IMAGE_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")


class Kind(str, Enum):
    """What has a place for a shell."""

    ENVIRONMENT = "environment"
    KERNEL = "kernel"
    JOB = "job"
    IMAGE = "image"


@dataclass(frozen=True)
class Target:
    """One place for a shell.

    Attributes:
        name: The environment's name, the kernel's or job's id, the image's reference.
        about: More for a person to tell it by: what a kernel or job is called.
        job: The running kernel or job.
    """

    kind: Kind
    name: str
    about: str = ""
    job: Job | None = None

    def __str__(self) -> str:
        kinds = {
            Kind.ENVIRONMENT: _("environment"),
            Kind.KERNEL: _("kernel"),
            Kind.JOB: _("job"),
            Kind.IMAGE: _("image"),
        }
        return f"{kinds[self.kind]} {self.name}" + f" ({self.about})" * bool(self.about)

    def begins(self, word: str) -> bool:
        """True when the word is a short form of the name."""
        if self.job is not None:
            return self.name.startswith(word)
        return self.kind is Kind.IMAGE and self.name == f"{word}:latest"


def running(jobs: Iterable[Job]) -> list[Target]:
    """Return the kernels and jobs that run now."""
    kinds = {Role.KERNEL: Kind.KERNEL, Role.TRAINER: Kind.JOB}
    live = [job for job in jobs if job.status.state is JobState.RUNNING and job.role in kinds]
    return [Target(kinds[job.role], job.id, job.name or job.environment, job) for job in live]


def may_be_image_id(word: str) -> bool:
    """True for a digest, or an ID in full or long enough that it is meant as one."""
    return "@" in word or bool(_IMAGE_ID.fullmatch(word))


def choose(word: str, targets: Iterable[Target]) -> Target:
    """Return what a word names: what is called exactly that, else the one thing that it is a short form of.

    Raises:
        NotFound: Nothing.
        InvalidRequest: Several things, which the message lists.
    """
    every = list(targets)
    exact = [target for target in every if target.name == word]
    found = exact or [target for target in every if word and target.begins(word)]
    if not found:
        raise NotFound(
            _("There is no environment, running kernel, running job or image {word}.").format(word=word),
            hint="jupyter dlenv env list",
        )
    if len(found) > 1:
        lines = "\n".join(f"  {target}" for target in found)
        raise InvalidRequest(
            _("{word} may be any of these:\n{lines}").format(word=word, lines=lines),
            hint=_("Write more of the name."),
        )
    return found[0]
