"""The list of 200 jobs by the server, and how many questions it asks of Docker when few or many of them run."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from jupyter_dlenv.engines.docker.engine import DockerEngine
from jupyter_dlenv.engines.docker.submission import make
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.jobs.records import Final, JobFolder, JobRecord
from jupyter_dlenv.paths import jobs_dir
from jupyter_dlenv.settings import load_settings
from jupyter_dlenv.spec import Identity, JobSpec, JobState, JobStatus, Reason, Role, new_id

from .counting import Counter, counted_docker
from .samples import Figure, Samples
from .server import Server, running_server
from .world import World

REPEAT = 30
GOAL_MS = 20
JOBS = 200
RUNNING = 10
_ADDRESS = "/dlenv/api/v1/jobs"
_SCRIPT = "sleeping.py"
_PATIENCE_S = 60


def measure(world: World, repeat: int | None) -> list[Figure]:
    """Return the milliseconds and the difference in calls; what runs is removed again."""
    shutil.rmtree(jobs_dir(), ignore_errors=True)  # what other figures left
    # With an engine of its own: one keeps its connections to the address that it first asked.
    own = replace(world, engine=DockerEngine())
    with removed_afterwards(own), counted_docker() as docker, running_server(world.folder) as server:
        for _ in range(RUNNING):
            server.submit({"script": _SCRIPT, "image": world.image})
        for _ in range(JOBS - RUNNING):
            ended(own)
        few, few_calls = _listed(server, docker, RUNNING, repeat or REPEAT)
        for folder in [JobFolder(job["id"]) for job in _jobs(server) if job["state"] == JobState.SUCCEEDED.value]:
            folder.remove()
            held(own)
        many, many_calls = _listed(server, docker, JOBS, repeat or REPEAT)
    notes = {"warm_up": 1, f"calls for {RUNNING}": few_calls, f"calls for {JOBS}": many_calls}
    return [
        Figure(
            "list-jobs",
            f"The list of {JOBS} jobs, {RUNNING} of which run, by the server",
            "ms",
            Samples("request to answer", few),
            GOAL_MS,
            parts=[Samples(f"the same when all {JOBS} have not ended", many)],
            notes=notes,
        ),
        Figure(
            "list-jobs-calls",
            f"Questions asked of Docker for {JOBS} running jobs beyond those for {RUNNING}",
            "calls",
            Samples("more calls", [min(many_calls) - min(few_calls)]),
            0,
            notes=notes,
        ),
    ]


def _jobs(server: Server) -> list[dict[str, str]]:
    jobs: list[dict[str, str]] = server.call("GET", _ADDRESS)["jobs"]
    return jobs


def _listed(server: Server, docker: Counter, live: int, repeat: int) -> tuple[list[float], list[int]]:
    """Return the milliseconds of some lists and the calls of each; the server may ask for itself meanwhile.

    Raises:
        RuntimeError: The list is another one than was expected.
    """
    _wait_for(server, live)
    times, calls = [], []
    for _ in range(repeat):
        docker.requests, begin = 0, time.perf_counter()
        found = len(_jobs(server))
        times.append((time.perf_counter() - begin) * 1e3)
        calls.append(docker.requests)
        if found != JOBS:
            raise RuntimeError(f"{found} jobs were listed")
        time.sleep(0.05)
    return times, calls


def _wait_for(server: Server, live: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while (found := sum(not JobState(job["state"]).ended for job in _jobs(server))) != live:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{found} jobs have not ended")
        time.sleep(0.2)


def ended(world: World) -> None:
    """Record a job that has succeeded."""
    now = time.time()
    folder = _recorded(world)
    folder.mark_started("gone")
    folder.finish(Final(JobStatus(JobState.SUCCEEDED, 0, Reason.COMPLETED, "", now - 60, now), log_bytes=4096))


def held(world: World) -> None:
    """Record a job that Docker holds: a container that was made and is not started costs no memory."""
    folder = _recorded(world)
    image = str(world.engine.call(lambda client: client.inspect_image(world.image))["Id"])
    spec = JobSpec(
        id=folder.path.name,
        role=Role.TRAINER,
        argv=("true",),
        workdir="/",
        run_dir=str(folder.run),
        owner=folder.record().owner,
        image=image,
        image_ref=world.image,
        identity=Identity(os.getuid(), os.getgid()),
    )
    plan = world.engine.plan(spec)
    folder.mark_started(world.engine.call(lambda client: make(client, plan)).ids[0])


def _recorded(world: World) -> JobFolder:
    folder = JobFolder(new_id())
    record = JobRecord(
        id=folder.path.name,
        name="listed",
        owner=load_settings().owner,
        engine="docker",
        command=_SCRIPT,
        launcher="python",
        nproc=1,
        image=world.image,
        cwd=str(world.folder),
    )
    folder.create(record)
    RunFolder(folder.run).create()
    return folder


@contextmanager
def removed_afterwards(world: World) -> Iterator[None]:
    """Remove every job of this world, with its container."""
    try:
        yield
    finally:
        for path in list(jobs_dir().iterdir()):
            asyncio.run(world.engine.remove(path.name))
            shutil.rmtree(path)
