"""From the call that starts a kernel to its first reply: in a container, and as a plain local process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from docker import APIClient

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.paths import kernel_dir

from .kernels import LOCAL, Kernel, event_loop
from .samples import Figure, Samples, in_turns, parts_of
from .world import ENVIRONMENT, World

REPEAT = 10
GOAL = 1.35


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the ratio, and the container side's time step by step."""
    with event_loop() as loop:

        def container() -> dict[str, float]:
            with Kernel(ENVIRONMENT, world.folder, loop) as kernel:
                return {"total": kernel.start_s, **steps(world.engine, kernel)}

        def local() -> float:
            with Kernel(LOCAL, world.folder, loop) as kernel:
                return kernel.start_s

        container(), local()  # the first start prepares the kernel runtime and reads everything from the disk
        rows, local_s = in_turns(container, local, repeat or REPEAT)
    ours = Samples("container kernel", [row.pop("total") for row in rows])
    return [
        Figure(
            "kernel-start",
            "Kernel start to first kernel_info reply",
            "s",
            ours,
            GOAL,
            Samples("local ipykernel", local_s),
            parts_of(rows),
            {"warm_up": 1},
        )
    ]


def steps(engine: DockerEngine, kernel: Kernel) -> dict[str, float]:
    """Return the seconds that each step took, by the clocks of the daemon and of the file system."""
    name = f"dlenv-{kernel.id}-1"
    events = engine.call(lambda client: list(_events(client, name)))
    done = {event["Action"]: event["timeNano"] / 1e9 for event in events}
    about = engine.call(lambda client: client.inspect_container(name))
    bound = max(path.stat().st_mtime for path in kernel_dir(kernel.id).glob("k-*"))
    moments = [
        ("start", kernel.started_at),
        ("prepare: place, spec, job socket", _epoch(about["Created"])),
        ("create the container", done["create"]),
        ("start the container", done["start"]),
        ("boot until the sockets are bound", bound),
        ("until the reply", kernel.answered_at),
    ]
    return {label: now - before for (_label, before), (label, now) in pairwise(moments)}


def _events(client: APIClient, name: str) -> Iterator[Mapping[str, Any]]:
    wanted = {"type": "container", "container": name, "event": ["create", "start"]}
    now = f"{time.time():.6f}"  # the daemon takes fractions of a second, which the types do not know
    found: Iterator[Mapping[str, Any]] = client.events(
        since=0,
        until=now,  # type: ignore[call-overload]
        filters=wanted,
        decode=True,
    )
    return found


def _epoch(text: str) -> float:
    # Docker writes nanoseconds, datetime reads microseconds.
    whole, _dot, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
