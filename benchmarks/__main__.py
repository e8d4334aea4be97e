"""Runs the figures: ``python -m benchmarks [--only NAME]... [--repeat N] [--image REF]``."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from jupyter_dlenv.errors import DLEnvError

from . import (
    blocked_loop,
    browser_lines,
    first_line,
    first_line_torchx,
    followers,
    gpu_ledger,
    gpu_queue,
    idle_kernels,
    inventory,
    kernel_start,
    leaks,
    list_jobs,
    log_stream,
    machine,
    many_kernels,
    peer_start,
    pool_start,
    report,
    round_trip,
    training_throughput,
)
from .samples import Figure
from .world import World, own_world

MEASURES: Mapping[str, Callable[[World, int | None], list[Figure]]] = {
    "kernel-start": kernel_start.measure,
    "round-trip": round_trip.measure,
    "first-line": first_line.measure,
    "first-line-torchx": first_line_torchx.measure,
    "training-throughput": training_throughput.measure,
    "log-stream": log_stream.measure,
    "list-jobs": list_jobs.measure,
    "followers": followers.measure,
    "peer-start": peer_start.measure,
    "pool-start": pool_start.measure,
    "many-kernels": many_kernels.measure,
    "idle-kernels": idle_kernels.measure,
    "blocked-loop": blocked_loop.measure,
    "leaks": leaks.measure,
    "gpu-ledger": gpu_ledger.measure,
    "gpu-queue": gpu_queue.measure,
    "inventory": inventory.measure,
    "browser-lines": browser_lines.measure,
}


def main() -> int:
    """Measure, print, write the file and return the exit status; a missed goal is no failure."""
    arguments = _parser().parse_args()
    if shutil.which("docker") is None:
        sys.stderr.write("The figures are ratios to the docker command, which is missing: scripts/ensure-docker\n")
        return 1
    try:
        with own_world(arguments.image) as world:
            _run(world, arguments.only or list(MEASURES), arguments.repeat)
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=tuple(MEASURES), help="measure this figure; may be repeated")
    parser.add_argument("--repeat", type=_positive, metavar="N", help="turns of each figure instead of its own number")
    parser.add_argument("--image", metavar="REF", help="image with torch instead of the starter image")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of turns")
    return int(text)


def _run(world: World, names: list[str], repeat: int | None) -> None:
    loads, begin = machine.load(), time.monotonic()
    if not machine.is_quiet(loads):
        print(f"Something else uses this machine (load {loads[0]}): the figures will be noisy.")
    figures: list[Figure] = []
    for name in names:
        print(f"{time.monotonic() - begin:6.1f} s  measuring {name}", flush=True)
        figures += MEASURES[name](world, repeat)
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(world.engine),
        "image": world.about_image(),
        "load": {"before": loads, "after": machine.load()},
        "seconds": round(time.monotonic() - begin, 1),
        "figures": [figure.to_json() for figure in figures],
    }
    print(report.table(figures))
    print(f"\n{document['seconds']} s; every sample is in {report.write(document)}")


if __name__ == "__main__":
    sys.exit(main())
