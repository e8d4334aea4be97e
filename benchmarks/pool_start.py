"""A kernel from an environment's pool, from the request to its first reply, and a cold local one of the same server."""

from __future__ import annotations

import time
from typing import Any

from jupyter_dlenv.kernels.environments import Environment, EnvironmentManager

from .kernels import LOCAL, event_loop
from .remote import PATIENCE_S, Remote
from .samples import Figure, Samples, in_turns
from .server import Server, running_server
from .world import World

REPEAT = 8
GOAL = 0.25
POOL = 2
_NAME = "bench-pool"
_SETTLED_S = 1.0


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio; before each turn the pool is full again and everything is quiet."""
    EnvironmentManager().put(Environment(_NAME, image=world.image, pool=POOL))
    with event_loop() as loop, running_server(world.folder) as server:
        remote = Remote(server, loop)

        def opened(name: str) -> float:
            wait_until_full(server)
            return remote.opened(name)

        opened(_NAME), opened(LOCAL)
        ours, theirs = in_turns(lambda: opened(_NAME), lambda: opened(LOCAL), repeat or REPEAT)
    EnvironmentManager().remove(_NAME)
    return [
        Figure(
            "pool-start",
            "Kernel from a pool to its first kernel_info reply, through a server",
            "s",
            Samples("pooled container kernel", ours),
            GOAL,
            Samples("cold local ipykernel", theirs),
            notes={"warm_up": 1, "pool": POOL},
        )
    ]


def wait_until_full(server: Server) -> None:
    """Return once the pool is full.

    Raises:
        RuntimeError: The server has no pools, or cannot fill this one.
    """
    deadline = time.monotonic() + PATIENCE_S
    while (status := _status(server))["ready"] < POOL:
        if status["message"] or time.monotonic() > deadline:
            raise RuntimeError(f"The pool does not fill: {status}")
        time.sleep(0.1)
    time.sleep(_SETTLED_S)


def _status(server: Server) -> dict[str, Any]:
    rows = server.call("GET", "/dlenv/api/v1/environments")["environments"]
    found: dict[str, Any] = next(row for row in rows if row["name"] == _NAME)
    if "pool_status" not in found:
        raise RuntimeError("pool missing: this server keeps none")
    status: dict[str, Any] = found["pool_status"]
    return status
