"""Followers of jobs: one look serves all who follow a job, and one cursor leads through the logs of all attempts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..errors import InvalidRequest
from ..i18n import _
from .records import JobFolder, JobRecord
from .views import JobView

_FRESH_S = 0.2


def split_cursor(cursor: str, latest: int) -> tuple[int, str]:
    """Return which attempt's log a cursor is in, and where in it.

    Raises:
        InvalidRequest: There is no such attempt.
    """
    number, dot, rest = cursor.rpartition(".")
    if not dot:
        return 1, cursor
    if not (number.isascii() and number.isdigit() and len(number) < 6 and 1 <= int(number) <= latest):
        raise InvalidRequest(
            _("{cursor!r} is no cursor of this log.").format(cursor=cursor[:80]),
            hint=_("Read from the start with an empty cursor."),
        )
    return int(number), rest


def join_cursor(attempt: int, cursor: str) -> str:
    """Return a cursor of an attempt's log as one of the job's; the first attempt's are the same."""
    return f"{attempt}.{cursor}" if attempt > 1 else cursor


class Looks:
    """The latest look at each followed job, shared by all who follow it on one event loop.

    Args:
        look: Asks the engine and the records.
    """

    def __init__(self, look: Callable[[JobFolder, JobRecord], Awaitable[JobView]]) -> None:
        self._look = look
        self._latest: dict[tuple[str, asyncio.AbstractEventLoop], tuple[float, asyncio.Future[JobView]]] = {}

    async def at(self, view: JobView) -> JobView:
        """Return a job as it was at most a moment ago."""
        key, now = (view.record.id, asyncio.get_running_loop()), time.monotonic()
        known = self._latest.get(key)
        if known is None or (now - known[0] > _FRESH_S and known[1].done()):
            known = self._latest[key] = (now, asyncio.ensure_future(self._look(view.folder, view.record)))
        try:
            found = await asyncio.shield(known[1])  # a follower that leaves takes nothing from the others
        except BaseException:
            self._latest.pop(key, None)
            raise
        if found.status.state.ended:
            self._latest.pop(key, None)
        return found


class Watch:
    """Keeps a followed job's newest view; :func:`..engines.folder.follow` decides how often it is asked for.

    Args:
        follow: Whether to wait for the job's end.
    """

    def __init__(self, looks: Looks, view: JobView, *, follow: bool) -> None:
        self._looks, self._follow = looks, follow
        self.view = view

    def ended_of(self, attempt: int) -> Callable[[], Awaitable[bool]]:
        """Return what tells when nothing more will be written of an attempt, or nobody wants to wait for it."""

        async def ended() -> bool:
            if self._follow and self.view.attempt == attempt and not self.view.status.state.ended:
                self.view = await self._looks.at(self.view)
            return not self._follow or self.view.attempt > attempt or self.view.status.state.ended

        return ended
