"""Kernels started all at once through one server, until the last is ready: in containers, and plain local ones."""

from __future__ import annotations

from .kernels import LOCAL, event_loop
from .remote import Remote
from .samples import Figure, Samples, in_turns
from .server import running_server
from .world import ENVIRONMENT, World

REPEAT = 2
GOAL = 3
COUNT = 20


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio."""
    with event_loop() as loop, running_server(world.folder) as server:
        remote = Remote(server, loop)

        def crowd(name: str) -> float:
            seconds, kernels = remote.crowd([name] * COUNT)
            remote.end(kernels)
            return seconds

        remote.opened(ENVIRONMENT), remote.opened(LOCAL)
        ours, theirs = in_turns(lambda: crowd(ENVIRONMENT), lambda: crowd(LOCAL), repeat or REPEAT)
    return [
        Figure(
            "many-kernels",
            f"{COUNT} kernels started at once, until all have replied",
            "s",
            Samples("container kernels", ours),
            GOAL,
            Samples("local ipykernels", theirs),
            notes={"kernels": COUNT, "warm_up": "one of each"},
        )
    ]
