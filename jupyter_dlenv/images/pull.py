"""Pulls with progress, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

from ..engines.base import Engine, PullProgress
from ..i18n import _
from ..resources import format_size

_STEP = 0.05


async def pull_with_progress(engine: Engine, ref: str, say: Callable[[str], None]) -> None:
    """Pull an image, one line whenever another twentieth has arrived.

    Raises:
        PullFailed: It did not arrive whole.
    """
    say(_("Pulling {ref} …").format(ref=ref))
    shown = 0.0
    async for progress in engine.pull(ref):
        share = fraction(progress)
        if share >= shown + _STEP:
            shown = share
            done, total = format_size(progress.done_bytes), format_size(progress.total_bytes)
            say(_("  {percent:.0%} ({done} of {total})").format(percent=share, done=done, total=total))
    say(_("{ref} is here.").format(ref=ref))


def fraction(progress: PullProgress) -> float:
    """Return how much of the known bytes has arrived, 0 to 1."""
    return progress.done_bytes / progress.total_bytes if progress.total_bytes else 0.0
