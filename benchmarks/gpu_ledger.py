"""Many processes lease and release the same few GPUs, and are killed at it: speed, double leases, and what leaks."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from jupyter_dlenv.gpus.ledger import LEASES, Ledger, Record

from .samples import Figure, Samples
from .world import World

REPEAT = 3
GOAL_PAIRS_PER_S = 500
PROCESSES = 16
PAIRS = 10_000
GPUS = tuple(f"GPU-{number}" for number in range(8))
_KILL_EVERY_S = 0.05
_HOLD_S = 0.01
_KILLING_S = 10.0
_AFTER_S = 1.0
_FORK = multiprocessing.get_context("fork")


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return pairs a second, double leases, and leases left a second after their holders were killed."""
    runs = [_race() for _turn in range(repeat or REPEAT)]
    killed = _massacre()
    notes = {"processes": PROCESSES, "pairs": PAIRS, "gpus": len(GPUS), "kills": killed["kills"]}
    title = f"{PROCESSES} processes, {len(GPUS)} GPUs"
    return [
        Figure(
            "gpu-ledger", f"{title}: seconds for {PAIRS:,} leases and releases", "s",
            Samples("lock layer", [run["seconds"] for run in runs]), PAIRS / GOAL_PAIRS_PER_S, notes=notes,
        ),
        Figure(
            "gpu-ledger-doubles", f"{title}: GPUs leased twice at once", "leases",
            Samples("doubles", [run["doubles"] for run in runs] + [killed["doubles"]]), 0, notes=notes,
        ),
        Figure(
            "gpu-ledger-leaks", f"{title}: leases left 1 s after holders were killed every 50 ms", "leases",
            Samples("leaked", [killed["leaked"]]), 0, notes=notes,
        ),
    ]  # fmt: skip


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dlenv-ledger-") as name:
        for gpu in GPUS:
            Path(name, gpu).touch()
        yield Path(name)


def take(ledger: Ledger, name: str, most: int = 1) -> tuple[str, Record] | None:
    """Lease one free GPU of :data:`GPUS`, None when all are held."""
    with ledger.locked():
        held = {uuid for entry in ledger.living(LEASES) for uuid in entry.data["uuids"]}
        free = [gpu for gpu in GPUS if gpu not in held]
        if not free:
            return None
        chosen = random.choice(free)
        return chosen, ledger.put(LEASES, name, {"uuids": [chosen]})


def _work(folder: Path, hold_s: float, doubles: Any, done: Any = None) -> None:
    """Lease and release until all have done enough together; whoever holds a GPU locks a file of its name, too.

    Args:
        done: Counts what all have done, None to go on until killed.
    """
    ledger, name = Ledger(folder / "ledger"), f"{os.getpid()}"
    random.seed(os.getpid())
    while done is None or done.value < PAIRS:
        taken = take(ledger, name)
        if taken is None:
            time.sleep(0.0005)
            continue
        gpu, record = taken
        with open(folder / gpu, "r+") as mark:
            if not _alone(mark):
                doubles.value += 1
            if hold_s:
                time.sleep(random.random() * hold_s)
        record.release()
        if done is not None:
            with done.get_lock():
                done.value += 1


def _alone(mark: Any) -> bool:
    """Return whether nobody else holds a GPU's file, other than a process that is about to be gone."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mark.write(f"{os.getpid():>10}")
        mark.flush()
        return True
    holder = int(mark.read(10).strip() or 0)
    return _dying(holder)


def _dying(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    values = dict(line.partition(":")[::2] for line in lines)
    pending = int(values["SigPnd"], 16) | int(values["ShdPnd"], 16)
    return bool(pending >> (signal.SIGKILL - 1) & 1) or values["State"].split()[0] in "ZX"


def _start(*arguments: Any) -> ForkProcess:
    process = _FORK.Process(target=_work, args=arguments)
    process.start()
    return process


def _race() -> dict[str, float]:
    with _folder() as folder:
        doubles, done = _FORK.Value("q", 0), _FORK.Value("q", 0)
        begin = time.monotonic()
        processes = [_start(folder, 0, doubles, done) for _number in range(PROCESSES)]
        for process in processes:
            process.join()
        return {"seconds": time.monotonic() - begin, "doubles": float(doubles.value)}


def _massacre() -> dict[str, float]:
    """Kill a random holder every 50 ms, and look a second later what is left of all."""
    with _folder() as folder:
        doubles = _FORK.Value("q", 0, lock=False)  # a process that is killed would take a lock along
        workers = [_start(folder, _HOLD_S, doubles) for _number in range(PROCESSES)]
        ledger, kills, end = Ledger(folder / "ledger"), 0, time.monotonic() + _KILLING_S
        while time.monotonic() < end:
            time.sleep(_KILL_EVERY_S)
            holders = {entry.name for entry in ledger.entries(LEASES) if entry.alive}
            victim = random.choice([each for each in workers if str(each.pid) in holders] or workers)
            victim.kill()
            victim.join()
            kills += 1
            workers[workers.index(victim)] = _start(folder, _HOLD_S, doubles)
        for worker in workers:
            worker.kill()
            worker.join()
        time.sleep(_AFTER_S)
        leaked = len(GPUS) - len(_all_that_are_free(ledger))
        return {"kills": kills, "doubles": float(doubles.value), "leaked": float(leaked)}


def _all_that_are_free(ledger: Ledger) -> list[str]:
    taken: list[tuple[str, Record]] = []
    while (found := take(ledger, f"last-{len(taken)}")) is not None:
        taken.append(found)
    for _gpu, record in taken:
        record.release()
    return [gpu for gpu, _record in taken]
