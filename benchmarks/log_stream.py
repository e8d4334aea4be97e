"""A million lines from a container to the client that follows: through the server, and from ``docker run | cat``."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Mapping

from .samples import Figure, Samples, in_turns
from .server import Server, running_server
from .world import World

REPEAT = 5
REPEAT_PRINT = 3
GOAL = 0.35
MEMORY_GOAL_MIB = 32
LINES = 1_000_000
LINE_BYTES = 75
_SCRIPT = "lines.py"
_UNBUFFERED = "PYTHONUNBUFFERED=1"


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio for a program that writes large blocks and for one that prints, and the server's growth."""
    with running_server(world.folder) as server:
        blocks, block_mib = _program(server, world, "blocks", repeat or REPEAT)
        prints, print_mib = _program(server, world, "print", repeat or REPEAT_PRINT)
    growth = Samples("peak less before, each run", block_mib + print_mib)
    title = "Growth of the server's memory while it serves such a log"
    return [blocks, prints, Figure("log-memory", title, "MiB", growth, MEMORY_GOAL_MIB)]


def _program(server: Server, world: World, how: str, repeat: int) -> tuple[Figure, list[float]]:
    words = [str(LINES), how]
    by_hand = f"{shlex.join(world.docker_run('python3', _SCRIPT, *words, env=(_UNBUFFERED,)))} | cat > /dev/null"
    request = {"script": _SCRIPT, "args": words, "image": world.image}
    rows, reference = in_turns(lambda: streamed(server, request), lambda: piped(by_hand), repeat)
    figure = Figure(
        f"log-stream-{how}",
        f"{LINES:,} lines of {LINE_BYTES} bytes to the following client ({how})",
        "s",
        Samples("server and HTTP", [seconds for seconds, _mib in rows]),
        GOAL,
        Samples("docker run | cat", reference),
        notes={"by_hand": by_hand, "unbuffered": "both sides"},
    )
    return figure, [mib for _seconds, mib in rows]


def streamed(server: Server, request: Mapping[str, object]) -> tuple[float, float]:
    """Return the seconds from the request to the end of the log, and by how many MiB the server grew.

    Raises:
        RuntimeError: Not every line arrived.
    """
    before = server.memory_mib()
    begin = time.perf_counter()
    lines = size = 0
    for piece in server.follow(server.submit(request)):
        lines += piece.count(b"\n")
        size += len(piece)
    seconds = time.perf_counter() - begin
    if (lines, size) != (LINES, LINES * LINE_BYTES):
        raise RuntimeError(f"{lines} lines with {size} bytes arrived")
    return seconds, server.peak_mib() - before


def piped(command: str) -> float:
    """Return the seconds that a shell's pipeline takes."""
    begin = time.perf_counter()
    subprocess.run(["/bin/sh", "-c", command], check=True)
    return time.perf_counter() - begin
