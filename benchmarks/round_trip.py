"""An empty cell, from the request to the reply: to a kernel in a container, and to a plain local one."""

from __future__ import annotations

import time
from itertools import chain

from .kernels import LOCAL, Client, Kernel, event_loop
from .samples import Figure, Samples, in_turns
from .world import ENVIRONMENT, World

REPEAT = 16
GOAL = 1.0
BLOCK = 50


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio; a repetition is a block of requests to each kernel."""
    with (
        event_loop() as loop,
        Kernel(ENVIRONMENT, world.folder, loop) as container,
        Kernel(LOCAL, world.folder, loop) as local,
    ):
        block_ms(container.client), block_ms(local.client)
        ours, theirs = in_turns(lambda: block_ms(container.client), lambda: block_ms(local.client), repeat or REPEAT)
    return [
        Figure(
            "round-trip",
            "Round trip of an empty execute",
            "ms",
            Samples("container kernel", list(chain.from_iterable(ours))),
            GOAL,
            Samples("local ipykernel", list(chain.from_iterable(theirs))),
            notes={"block": BLOCK, "warm_up": BLOCK},
        )
    ]


def block_ms(client: Client) -> list[float]:
    """Return the milliseconds that each of a block of empty executions took until its reply."""
    found = []
    for _turn in range(BLOCK):
        begin = time.perf_counter()
        reply = client.execute("")
        found.append((time.perf_counter() - begin) * 1e3)
        client.settle(reply)
    return found
