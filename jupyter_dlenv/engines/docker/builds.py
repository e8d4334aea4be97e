"""Docker's build stream -> log lines and the step that failed. Pure."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ...errors import BuildFailed
from ...i18n import _
from ...images.build import BuildStep
from .pulls import PullTracker

_STEP = re.compile(r"Step (\d+/\d+) : (.*)", re.IGNORECASE | re.DOTALL)
_OWN_WORDS = (" ---> ", "Removing intermediate container")  # the builder's, not the step's
_LAST_LINES = 20
_HINTS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("BuildKit", lambda: _("Images are built by Docker's classic builder; leave out what needs BuildKit.")),
    ("build context", lambda: _("Only files of the folder that --context names can be copied: --context .")),
    ("COPY failed", lambda: _("Only files of the folder that --context names can be copied: --context .")),
    ("ADD failed", lambda: _("Only files of the folder that --context names can be copied: --context .")),
)


class BuildTracker:
    """Follows one build."""

    def __init__(self) -> None:
        self._step = ""
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._pull = PullTracker("")

    def step(self, event: Mapping[str, Any]) -> BuildStep:
        """Return what an event says.

        Raises:
            BuildFailed: The event is an error.
        """
        if "error" in event or "errorDetail" in event:
            raise self._failure(event.get("errorDetail") or {"message": event.get("error")})
        if "aux" in event:
            return BuildStep(image=str(event["aux"].get("ID", "")))
        if "status" in event:
            return BuildStep(progress=self._pulled(event))
        text = str(event.get("stream", ""))
        head = _STEP.match(text)
        if head:
            self._step = f"{head[1]}: {head[2].strip()}"
            self._last.clear()
        elif text.strip() and not text.startswith(_OWN_WORDS):
            self._last.append(text)
        return BuildStep(text)

    def _pulled(self, event: Mapping[str, Any]) -> str:
        progress = self._pull.step(event)
        percent = 100 * progress.done_bytes // progress.total_bytes if progress.total_bytes else 0
        return _("fetching the image: {percent} %").format(percent=percent)

    def _failure(self, detail: Mapping[str, Any]) -> BuildFailed:
        message = str(detail.get("message", ""))
        if detail.get("code"):
            head = _("Step {step} ended with exit code {code}.").format(step=self._step, code=detail["code"])
        elif self._step:
            head = _("Step {step} failed: {message}").format(step=self._step, message=message)
        else:
            head = _("The Dockerfile cannot be built: {message}").format(message=message)
        last = "\n".join("".join(self._last).splitlines()[-_LAST_LINES:])
        hint = next((words() for mark, words in _HINTS if mark in message), "")
        hint = hint or ("jupyter dlenv images" if ": FROM " in self._step else "")
        return BuildFailed(f"{head}\n{last}".strip(), hint=hint)
