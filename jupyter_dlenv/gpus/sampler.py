"""Reads the GPUs in one thread for a whole process, so that nobody waits longer than he wants to.

A driver that hangs holds that one thread only: whoever asks gets what was known before, as ``UNKNOWN``, until the
driver answers again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..i18n import _
from .inventory import NvmlReader
from .model import Inventory, NvmlState

LIMIT_S = 5.0
"""A reading that takes longer says that the driver does not answer."""

_KEEP_S = 60.0
"""How long a session with the driver stays open without a reading; while it is, nobody can reset a GPU."""

_MOST_HZ = 10.0
_RAISED = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What a subscriber's function may raise; RuntimeError is that of an event loop which is closed."""

_LOG = logging.getLogger(__name__)
_SAMPLERS: weakref.WeakSet[Sampler] = weakref.WeakSet()

Callback = Callable[[Inventory], object]


@dataclass(eq=False)
class _Subscriber:
    callback: Callback
    hz: float


class Sampler:
    """Reads on demand, and at a pace while anybody is subscribed.

    One thread reads; a second calls the subscribers. Each ends when it has nothing to do.

    Args:
        reader: Makes what reads.
        limit_s: How long a reading may take.
        keep_s: How long the session with the driver stays open without a reading.
    """

    def __init__(
        self, reader: Callable[[], NvmlReader] = NvmlReader, limit_s: float = LIMIT_S, keep_s: float = _KEEP_S
    ) -> None:
        self._make, self._limit_s, self._keep_s = reader, limit_s, keep_s
        self._begin_anew()
        _SAMPLERS.add(self)

    def _begin_anew(self) -> None:
        """In a forked child no other thread is there, and a lock may be held by one that is not."""
        self._changed = threading.Condition()
        self._reader = self._make()
        self._known = Inventory((), state=NvmlState.UNKNOWN)
        self._known_since = -float("inf")
        self._silent_since = 0.0
        self._wanted = False
        self._reading_since: float | None = None
        self._reads = self._tells = False
        self._subscribers: tuple[_Subscriber, ...] = ()

    def latest(self, max_age_s: float = 1.0, timeout_s: float = LIMIT_S) -> Inventory:
        """Return the GPUs as they were at most so long ago; ``UNKNOWN`` when the driver does not tell in time."""
        now = time.monotonic()
        oldest, deadline = now - max_age_s, now + timeout_s
        with self._changed:
            while self._known_since < oldest:
                if self._reading_since is None or self._reading_since < oldest:
                    self._want()
                left = min(deadline, self._overdue()) - time.monotonic()
                if left <= 0:
                    return self._unanswered()
                self._changed.wait(left)
            return self._known

    def subscribe(self, callback: Callback, hz: float = 1.0) -> Callable[[], None]:
        """Call a function with each sample, from a thread; return what ends that.

        All subscribers get what the fastest of them asks for. One that raises is dropped.

        Args:
            hz: Samples a second, 10 at most.
        """
        subscriber = _Subscriber(callback, min(max(hz, 0.01), _MOST_HZ))
        with self._changed:
            self._subscribers += (subscriber,)
            self._changed.notify_all()
            self._tell_on()
        return lambda: self._drop(subscriber)

    def _drop(self, subscriber: _Subscriber) -> None:
        with self._changed:
            self._subscribers = tuple(each for each in self._subscribers if each is not subscriber)
            self._changed.notify_all()

    @staticmethod
    def _start(work: Callable[[], None], name: str) -> None:
        threading.Thread(target=work, name=name, daemon=True).start()

    # The thread that reads

    def _want(self) -> None:
        """Have a reading begin, unless one is under way; the lock is held."""
        self._wanted = True
        self._changed.notify_all()
        if not self._reads:
            self._reads = True
            self._start(self._read, "dlenv-nvml")

    def _read(self) -> None:
        try:
            while self._await_wish():
                began = time.time(), time.monotonic()
                inventory = self._reader.read()
                with self._changed:
                    self._take(inventory, *began)
            self._reader.close()
        finally:
            with self._changed:
                self._reads, self._reading_since = False, None
                if self._wanted:
                    self._want()

    def _await_wish(self) -> bool:
        """Wait until somebody wants a reading; False when nobody did for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted, self._keep_s)
            wanted, self._wanted = self._wanted, False
            self._reading_since = time.monotonic()  # of closing too, which may hang as well
            self._changed.notify_all()
            return wanted

    def _take(self, inventory: Inventory, clock: float, began: float) -> None:
        if inventory.state is NvmlState.UNKNOWN:
            self._silent_since = self._silent_since or clock
            inventory = replace(inventory, message=_gone(self._silent_since, inventory.message))
        else:
            self._silent_since = 0.0
        self._known, self._known_since, self._reading_since = inventory, began, None
        self._changed.notify_all()

    def _overdue(self) -> float:
        """When the reading under way has taken too long."""
        return float("inf") if self._reading_since is None else self._reading_since + self._limit_s

    def _unanswered(self) -> Inventory:
        waited = time.monotonic() - (self._reading_since or time.monotonic())
        return replace(self._known, state=NvmlState.UNKNOWN, message=_gone(time.time() - waited))

    # The thread that tells

    def _tell(self) -> None:
        last, ended = -float("inf"), False
        try:
            while self._await_turn(last):
                last = time.monotonic()
                inventory = self.latest(0.0, self._limit_s)
                for subscriber in self._subscribers:
                    self._call(subscriber, inventory)
            ended = True
        finally:
            if not ended:  # one raised what nobody expects: the others are told by another thread
                with self._changed:
                    self._tells = False
                    self._tell_on()

    def _tell_on(self) -> None:
        """Have the subscribers told; the lock is held."""
        if self._subscribers and not self._tells:
            self._tells = True
            self._start(self._tell, "dlenv-gpus")

    def _await_turn(self, last: float) -> bool:
        """Wait for as long as the fastest subscriber wants; False when there is none."""
        with self._changed:
            while self._subscribers:
                left = last + 1 / max(each.hz for each in self._subscribers) - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            self._tells = False
            return False

    def _call(self, subscriber: _Subscriber, inventory: Inventory) -> None:
        returned = False
        try:
            subscriber.callback(inventory)
            returned = True
        except _RAISED:
            _LOG.warning(_("A reader of the GPUs failed and gets no more of them."), exc_info=True)
        finally:
            if not returned:
                self._drop(subscriber)


def _gone(since: float, reason: str = "") -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(since))
    if reason:
        return _("The NVIDIA driver has failed since {time}: {reason}").format(time=clock, reason=reason)
    return _("The NVIDIA driver has not answered since {time}.").format(time=clock)


def _in_child() -> None:
    for sampler in tuple(_SAMPLERS):
        sampler._begin_anew()


os.register_at_fork(after_in_child=_in_child)

SAMPLER = Sampler()
"""The one of this process."""


def read_inventory(timeout_s: float = LIMIT_S) -> Inventory:
    """Return the GPUs of this host now."""
    return SAMPLER.latest(0.0, timeout_s)


def utilization() -> dict[str, int]:
    """Return per cent of use in the last moments by UUID; GPUs that cannot tell, as with MIG, are absent."""
    inventory = SAMPLER.latest()
    if inventory.state is not NvmlState.OK:
        return {}
    return {gpu.uuid: gpu.utilization_percent for gpu in inventory.gpus if gpu.utilization_percent is not None}
