"""Runs a script by a launcher in real containers: one for each node, under the shim, on the Docker engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import docker_images

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.request import RUN_DIR, SHIM
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.shim import FOLDER
from jupyter_dlenv.identity import caller_identity
from jupyter_dlenv.launchers import Launch, Program, command
from jupyter_dlenv.resources import Mount
from jupyter_dlenv.spec import JobSpec, JobStatus, Role, new_id

PATIENCE_S = 600
VENV = """COPY wheels /wheels
RUN python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --no-index --find-links /wheels /wheels/*.whl
ENV PATH=/opt/venv/bin:$PATH
"""
PYTHON = "/opt/venv/bin/python"
PATH = "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Ended:
    """A job that has ended.

    Attributes:
        status: What the engine says of it.
        lines: Its merged log.
    """

    status: JobStatus
    lines: list[str]

    def said(self, *words: str) -> list[str]:
        """Return the lines that hold one of the words, without the mark of their rank, sorted."""
        bare = [line.partition("] ")[2] if line.startswith("[") else line for line in self.lines]
        return sorted(line for line in bare if any(word in line for word in words))


async def run(launcher: str, script: str, image: str, tmp_path: Path, nnodes: int = 1, **program: Any) -> Ended:
    """Run a script to its end on some nodes; ``program`` holds fields of :class:`Program`.

    Args:
        image: Its interpreter is :data:`PYTHON`, unless ``program`` names another.
    """
    (tmp_path / "train.py").write_text(script)
    program = {"python": PYTHON, "argv": ("train.py",), "nproc": 1, "env": {}, "nnodes": nnodes, **program}
    addresses = tuple(f"node-{rank}" for rank in range(nnodes)) if nnodes > 1 else ("127.0.0.1",)

    def launch(rank: int) -> Launch:
        folder = f"{RUN_DIR}/node-{rank}" if rank else RUN_DIR
        return command(launcher, Program(**program, run_dir=folder, node_rank=rank, addresses=addresses, tools=SHIM))

    spec = replace(_spec(image, tmp_path, launch(0), nnodes), python=program["python"])
    folder = RunFolder(Path(spec.run_dir))
    assert spec.identity
    folder.create(spec.identity.uid, spec.identity.gid, replicas=nnodes)
    _tell(folder, launch, nnodes, program["nproc"])
    engine = DockerEngine()
    try:
        await engine.submit(engine.plan(spec))
        status = await asyncio.wait_for(_end_of(engine, spec.id), PATIENCE_S)
    finally:
        await engine.remove(spec.id)
    lines = folder.log_tail(1 << 22).decode(errors="replace").splitlines()
    return Ended(status, lines)


def _spec(image: str, tmp_path: Path, first: Launch, nnodes: int) -> JobSpec:
    run_dir = tmp_path / "run"
    mounts = (Mount(str(run_dir), RUN_DIR), Mount(FOLDER, SHIM, read_only=True), Mount(str(tmp_path), "/work"))
    spec = JobSpec(
        id=new_id(),
        role=Role.TRAINER,
        argv=first.argv or first.processes[0].argv,
        workdir="/work",
        run_dir=str(run_dir),
        owner="frameworks",
        image=docker_images.image_id(image),
        image_ref=image,
        python=PYTHON,
        env={"PATH": PATH, "HOME": "/tmp"},
        mounts=mounts,
        identity=caller_identity(tmp_path),
        nnodes=nnodes,
        replicas=nnodes,
        ends=first.ends,
        rank_logs=first.rank_logs,
    )
    return replace(spec, network="none" if nnodes == 1 else "bridge")


def _tell(folder: RunFolder, launch: Callable[[int], Launch], nnodes: int, nproc: int) -> None:
    """Write what each node runs; ranks go on from node to node."""
    first_rank = 0
    for rank in range(nnodes):
        node = launch(rank)
        for name, text in node.files.items():
            folder.node(rank).files.write(name, text.encode(), 0o644)
        folder.node(rank).write_launch(
            node.argv,
            "/work",
            node.env,
            timeout_s=PATIENCE_S / 2,
            rank_logs=node.rank_logs,
            replicas=nnodes,
            first_rank=first_rank,
            node_rank=rank,
            ends=node.ends,
            processes=[asdict(process) for process in node.processes],
            peers=[f"node-{peer}" for peer in range(nnodes)] if nnodes > 1 else [],
        )
        first_rank += len(node.processes) or nproc


async def _end_of(engine: DockerEngine, job_id: str) -> JobStatus:
    while not (status := (await engine.poll([job_id]))[job_id]).state.ended:
        await asyncio.sleep(0.2)
    return status
