"""A reading of 8 GPUs: what it takes beyond the time that the driver's library itself takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .samples import Figure, Samples
from .world import World

REPEAT = 20
GOAL_MS = 5
BLOCK = 20
GPUS = 8
PROCESSES = 4
_CHECKOUT = Path(__file__).parents[1]


def measure(_world: World, repeat: int | None) -> list[Figure]:
    """Return the difference; a process of its own loads the stand-in for the library, unseen by other figures."""
    paths = os.pathsep.join((str(_CHECKOUT), str(_CHECKOUT / "tests" / "gpus")))
    command = [sys.executable, "-m", "benchmarks.inventory", str(repeat or REPEAT)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=True, stdout=subprocess.PIPE)
    found = json.loads(done.stdout)
    return [
        Figure(
            "inventory",
            f"Reading {GPUS} GPUs with {PROCESSES} processes each, beyond NVML's own time (stand-in for the library)",
            "ms",
            Samples("outside NVML", found["ours"]),
            GOAL_MS,
            parts=[Samples("inside NVML", found["nvml"]), Samples("the first, with topology", found["first"])],
            notes={"block": BLOCK, "calls": found["calls"], "pynvml": "its Python code counts as outside"},
        )
    ]


class Clock:
    """Sums up the time that is spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.perf_counter() - begin
                self.calls += 1

        return timed


def _read(repeat: int) -> dict[str, Any]:
    import pynvml
    from nvml_machine import Machine, Process

    from jupyter_dlenv.gpus.inventory import NvmlReader

    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder), GPUS)
        machine.switch()
        for index in range(GPUS):
            machine.run(index, *(Process(1000 + index * PROCESSES + number, percent=5) for number in range(PROCESSES)))
        with machine.loaded():
            reader, clock = NvmlReader(), Clock()
            first = _ms(reader.read)
            functions = pynvml._nvmlGetFunctionPointer_cache
            functions.update({name: clock.watch(function) for name, function in functions.items()})
            rows = [_block(reader, clock) for _turn in range(repeat)]
            reader.close()
    calls = round(clock.calls / (repeat * BLOCK))
    return {"first": [first], "ours": [ours for ours, _ in rows], "nvml": [nvml for _, nvml in rows], "calls": calls}


def _block(reader: Any, clock: Clock) -> tuple[float, float]:
    """Return the milliseconds that a reading takes outside and inside NVML, each the mean of a block."""
    before = clock.seconds
    total = _ms(lambda: [reader.read() for _turn in range(BLOCK)]) / BLOCK
    inside = (clock.seconds - before) * 1e3 / BLOCK
    return total - inside, inside


def _ms(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1e3


if __name__ == "__main__":
    print(json.dumps(_read(int(sys.argv[1]))))
