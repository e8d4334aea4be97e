"""From the command to the first line of the user's script on two ranks: with ``%dlrun``, and with ``docker run``."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from .kernels import Client, Kernel, event_loop
from .samples import Figure, Samples, in_turns, parts_of
from .world import ENVIRONMENT, World

REPEAT = 5
GOAL = 1.1
SCRIPT = "first_line.py"
_TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", SCRIPT)
_LINE = re.compile(r"first line at (\d+\.\d+)")


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio; ``%dlrun`` is a cell of a notebook whose kernel is in a container."""
    by_hand = world.docker_run(*_TORCHRUN)
    with event_loop() as loop, Kernel(ENVIRONMENT, world.folder, loop) as kernel:
        first_shown(kernel.client), first_read(by_hand)
        rows, reference = in_turns(lambda: first_shown(kernel.client), lambda: first_read(by_hand), repeat or REPEAT)
    ours = Samples("%dlrun", [sum(row.values()) for row in rows])
    return [
        Figure(
            "first-line",
            "Command to the first line of the user's script, 2 ranks",
            "s",
            ours,
            GOAL,
            Samples("docker run torchrun", reference),
            parts_of(rows),
            {"by_hand": by_hand, "warm_up": 1},
        )
    ]


def first_shown(client: Client) -> dict[str, float]:
    """Return the seconds until the script began and from there until the notebook showed its first line."""
    begin, begun_at, shown_at = time.time(), 0.0, 0.0
    for message in client.outputs(f"%dlrun {SCRIPT} --nproc 2"):
        found = _LINE.search(message["content"].get("data", {}).get("text/plain", ""))
        if found and not shown_at:
            begun_at, shown_at = float(found.group(1)), time.time()
    return {"until the script's first line": begun_at - begin, "until the notebook shows it": shown_at - begun_at}


def first_read(argv: list[str], cwd: Path | None = None) -> float:
    """Return the seconds until the first line can be read from what the command writes.

    Raises:
        RuntimeError: The line never came, or the command failed.
    """
    begin, read_s = time.perf_counter(), 0.0
    with subprocess.Popen(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not read_s and _LINE.search(line):
                read_s = time.perf_counter() - begin
    if process.returncode or not read_s:
        raise RuntimeError(f"{argv} ended with {process.returncode}")
    return read_s
