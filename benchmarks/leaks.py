"""What is left after many kernels of a server were started and ended."""

from __future__ import annotations

import os

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import LABEL_PREFIX
from jupyter_dlenv.paths import kernels_dir

from .kernels import event_loop
from .remote import Remote
from .samples import Figure, Samples
from .server import running_server
from .world import ENVIRONMENT, World

CYCLES = 200
_WARM_UP = 15  # by then the pools of threads have their size


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return how many containers, folders, descriptors and threads were added; ``repeat`` is the number of cycles."""
    cycles = repeat or CYCLES
    with event_loop() as loop, running_server(world.folder) as server:
        remote = Remote(server, loop)
        for _cycle in range(_WARM_UP):
            remote.opened(ENVIRONMENT)
        before = things(world.engine, server.pid)
        for _cycle in range(cycles):
            remote.opened(ENVIRONMENT)
        after = things(world.engine, server.pid)
    left = {kind: after[kind] - before[kind] for kind in before}
    return [
        Figure(
            "leaks",
            f"Left after {cycles} starts and ends of a container kernel",
            "things",
            Samples("most of one kind", [max(left.values())]),
            0,
            parts=[Samples(kind, [number]) for kind, number in left.items()],
            notes={"cycles": cycles, "warm_up": _WARM_UP},
        )
    ]


def things(engine: DockerEngine, pid: int) -> dict[str, int]:
    """Return how many there are now of what kernels take: a server's containers, folders, descriptors and threads."""
    label = f"{LABEL_PREFIX}instance={pid}"
    found = engine.call(lambda client: client.containers(all=True, filters={"label": label}))
    folder = kernels_dir()
    return {
        "containers": len(found),
        "folders": len(list(folder.iterdir())) if folder.is_dir() else 0,
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
    }
