"""Docker's pull stream -> progress, its failures included. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import PullFailed
from ...i18n import _
from ...images.reference import parse_reference
from ..base import PullProgress


def split_reference(ref: str) -> tuple[str, str]:
    """Return repository and tag (or digest) as the pull call wants them; never all tags.

    Raises:
        InvalidRequest: The text is no image reference.
    """
    parsed = parse_reference(ref)
    return parsed.repository, parsed.digest or parsed.tag


class PullTracker:
    """Adds up the layers of one pull."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._layers: dict[str, tuple[int, int]] = {}

    def step(self, event: Mapping[str, Any]) -> PullProgress:
        """Return the progress after one event.

        Raises:
            PullFailed: The event is an error; docker-py's own pull would have swallowed it.
        """
        if "error" in event or "errorDetail" in event:
            detail = (event.get("errorDetail") or {}).get("message") or event.get("error")
            raise PullFailed(
                _("Pulling {ref} failed: {detail}").format(ref=self._ref, detail=detail),
                hint=_("Check the name and the network, or log in: docker login"),
            )
        self._count(str(event.get("id", "")), str(event.get("status", "")), event.get("progressDetail") or {})
        done, total = (sum(column) for column in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        return PullProgress(str(event.get("status", "")), done, total)

    def _count(self, layer: str, status: str, detail: Mapping[str, Any]) -> None:
        if status == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete") and layer in self._layers:
            total = self._layers[layer][1]
            self._layers[layer] = (total, total)
