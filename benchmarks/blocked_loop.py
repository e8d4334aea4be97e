"""The longest time for which the server's event loop does nothing else while a kernel starts and ends."""

from __future__ import annotations

from .kernels import LOCAL, event_loop
from .pulse import PATH
from .remote import Remote
from .samples import Figure, Samples, in_turns
from .server import running_server
from .world import ENVIRONMENT, World

REPEAT = 10
GOAL_MS = 50


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the largest lateness of a callback; a busy machine makes a process late, so local kernels stand beside."""
    with event_loop() as loop, running_server(world.folder, "benchmarks.pulse") as server:
        remote = Remote(server, loop)

        def late(name: str) -> float:
            server.call("GET", PATH)
            remote.opened(name)
            return float(server.call("GET", PATH)["late_ms"])

        late(ENVIRONMENT), late(LOCAL)
        ours, theirs = in_turns(lambda: late(ENVIRONMENT), lambda: late(LOCAL), repeat or REPEAT)
    return [
        Figure(
            "blocked-loop",
            "Longest blocking of the server's event loop while a kernel starts and ends",
            "ms",
            Samples("container kernel", ours),
            GOAL_MS,
            parts=[Samples("the same with a local one", theirs)],
            notes={"warm_up": 1},
        )
    ]
