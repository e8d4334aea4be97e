"""How late the server's event loop is while 50 clients follow one busy job."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from .pulse import PATH
from .samples import Figure, Samples
from .server import Server, running_server
from .world import World

REPEAT = 3
GOAL_MS = 20
FOLLOWERS = 50
LINES_A_SECOND = 5000
SECONDS = 15
_SCRIPT = "steady.py"
_SETTLED_S = 2.0


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the lateness that one callback in a hundred passes; the same with one follower stands beside."""
    with running_server(world.folder, "benchmarks.pulse") as server:
        alone = [followed(server, world, 1) for _ in range(repeat or REPEAT)]
        crowd = [followed(server, world, FOLLOWERS) for _ in range(repeat or REPEAT)]
    return [
        Figure(
            "followers",
            f"Delay of the server's event loop, {FOLLOWERS} followers of a job of {LINES_A_SECOND:,} lines a second",
            "ms",
            Samples("99th percentile, each run", [run["p99_ms"] for run in crowd]),
            GOAL_MS,
            parts=[
                Samples("the longest", [run["late_ms"] for run in crowd]),
                Samples("99th percentile, one follower", [run["p99_ms"] for run in alone]),
            ],
            notes={"seconds": SECONDS, "every follower": "got every line"},
        )
    ]


def followed(server: Server, world: World, followers: int) -> dict[str, float]:
    """Return what the loop felt from when all followed until the job's end.

    Raises:
        RuntimeError: A follower lacks lines.
    """
    words = [str(LINES_A_SECOND), str(SECONDS)]
    job = server.submit({"script": _SCRIPT, "args": words, "image": world.image})

    def lines() -> int:
        return sum(piece.count(b"\n") for piece in server.follow(job))

    with ThreadPoolExecutor(followers) as pool:
        counts = [pool.submit(lines) for _ in range(followers)]
        time.sleep(_SETTLED_S)
        server.call("GET", PATH)
        found = {count.result() for count in counts}
    if found != {LINES_A_SECOND * SECONDS}:
        raise RuntimeError(f"the followers got {sorted(found)} lines")
    felt: dict[str, float] = server.call("GET", PATH)
    return felt
