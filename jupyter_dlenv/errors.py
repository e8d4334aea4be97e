"""Every error that jupyter-dlenv raises on purpose.

::

    DLEnvError
    ├── InvalidRequest          the request itself cannot be right
    │   └── UnknownOption       an option that does not exist, with the nearest one
    ├── Denied                  a rule forbids it
    ├── NotFound
    │   ├── JobNotFound
    │   ├── EnvironmentNotFound
    │   └── ImageNotFound       not on this host; the pull command is the hint
    ├── Conflict                the name is taken by something else
    ├── Unsupported             this engine cannot do that
    ├── NoGpu                   fewer GPUs than asked for
    ├── UnusableImage           the image cannot run this (no Python, wrong system)
    ├── EngineError             the engine failed
    │   ├── EngineUnavailable   nobody answers, or the caller may not ask
    │   ├── PullFailed
    │   └── StartFailed         the replica ended before it was ready
    ├── BuildFailed             a step of an image's build failed
    └── JobFailed               raised in a notebook when a job did not succeed

Beside it ``JobInterrupted``, a KeyboardInterrupt, so that an interrupted cell ends like any other.

A message says what happened and where; ``hint`` holds the next step, a command where there is one.
Standard library only and Python 3.8 syntax: notebooks raise these inside containers.
"""

from typing import Any, Dict, List, Type

from .i18n import _


class DLEnvError(Exception):
    """Root of the tree.

    Attributes:
        message: What happened.
        hint: What to do next, empty when nothing helps.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def _render_traceback_(self) -> List[str]:
        # IPython shows this instead of the frames of our own code, which say nothing to the person at the notebook.
        return [f"{type(self).__name__}: {self}"]

    def to_json(self) -> Dict[str, Any]:
        """Return the body of an error answer."""
        return {"error": type(self).__name__, "message": self.message, "hint": self.hint}


class InvalidRequest(DLEnvError, ValueError):
    """The request cannot be right, whatever the state of the host."""


class UnknownOption(InvalidRequest):
    """An option that does not exist."""


class Denied(DLEnvError):
    """A rule forbids the request; the message names the rule."""


class NotFound(DLEnvError):
    """What was asked for does not exist, or belongs to somebody else."""


class JobNotFound(NotFound):
    """No such job."""


class EnvironmentNotFound(NotFound):
    """No such environment."""


class ImageNotFound(NotFound):
    """The image is not on this host."""


class Conflict(DLEnvError):
    """The name is taken by something that is not the same."""


class Unsupported(DLEnvError):
    """The engine cannot do what the option asks."""


class NoGpu(DLEnvError):
    """Fewer GPUs can be had than were asked for."""


class UnusableImage(DLEnvError):
    """The image is there and cannot run this."""


class EngineError(DLEnvError):
    """The engine answered with a failure."""


class EngineUnavailable(EngineError):
    """The engine does not answer, or refuses the caller."""


class PullFailed(EngineError):
    """The image could not be pulled."""


class StartFailed(EngineError):
    """The replica ended before it was ready."""


class BuildFailed(DLEnvError):
    """A step of a build failed; the message names it and ends with its last lines."""


class JobFailed(DLEnvError):
    """A job ended without success."""


class JobInterrupted(KeyboardInterrupt):
    """The person interrupted a job, and it has ended."""

    def _render_traceback_(self) -> List[str]:
        return [f"KeyboardInterrupt: {self}"]


def _tree(root: Type[DLEnvError]) -> Dict[str, Type[DLEnvError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def from_json(data: Any) -> DLEnvError:
    """Return the error that an error answer describes; an unknown kind becomes the root."""
    if not isinstance(data, dict):
        return DLEnvError(_("Unexpected answer: {data!r}").format(data=data))
    kind = _tree(DLEnvError).get(str(data.get("error")), DLEnvError)
    return kind(str(data.get("message", "")), hint=str(data.get("hint") or ""))
