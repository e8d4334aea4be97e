"""What idle container kernels add to the memory of the server that keeps them."""

from __future__ import annotations

from .kernels import event_loop
from .remote import Remote
from .samples import Figure, Samples
from .server import running_server
from .world import ENVIRONMENT, World

COUNT = 100
GOAL_MIB = 100
_AT_ONCE = 10
_WARM_UP = 3


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the growth; ``repeat`` is the number of kernels, each of which needs some 60 MiB of its own.

    The goal is for a hundred, and fewer have their part of it.
    """
    count = repeat or COUNT
    with event_loop() as loop, running_server(world.folder) as server:
        remote = Remote(server, loop)
        _seconds, warm = remote.crowd([ENVIRONMENT] * _WARM_UP)
        remote.end(warm)
        before = server.share_mib()
        kernels: list[str] = []
        try:
            while len(kernels) < count:
                _seconds, more = remote.crowd([ENVIRONMENT] * min(_AT_ONCE, count - len(kernels)))
                kernels += more
            growth = server.share_mib() - before
        finally:
            remote.end(kernels)
        left = server.share_mib() - before
    return [
        Figure(
            "idle-kernels",
            f"Growth of the server's memory by {count} idle container kernels",
            "MiB",
            Samples("with them less before", [growth]),
            GOAL_MIB * count / COUNT,
            parts=[Samples("still there after their end", [left])],
            notes={"kernels": count, "warm_up": _WARM_UP, "memory": "proportional set size"},
        )
    ]
