"""What is true of a job: which lines its ranks wrote, what everybody says of its end, and what is left of it."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker_images
from jupyter_server_process import ServerProcess
from shims import until

from jupyter_dlenv.paths import jobs_dir

T = TypeVar("T")

PATIENCE_S = 120
SCRIPT = "numbered.py"
NUMBERED = """
import os, sys, time
rank, count, pause_s = os.environ.get("RANK", "0"), int(sys.argv[1]), float(sys.argv[2])
patient = "patient" in sys.argv
with open(f"pid-{rank}", "w") as file:
    file.write(str(os.getpid()))
told = os.open(f"told-{rank}", os.O_WRONLY | os.O_CREAT, 0o644)
for begin in range(0, count, 500):
    left = "".join(f"rank {rank} line {number}.\\n" for number in range(begin, begin + 500)).encode()
    while left:
        try:
            left = left[os.write(1, left) :]
        except OSError:
            if not patient:
                raise
            time.sleep(0.1)
    os.pwrite(told, b"%d" % (begin + 500), 0)
    time.sleep(pause_s)
"""
"""Writes numbered lines, and notes how many it has certainly written: ``numbered.py COUNT PAUSE [patient]``."""

_LINE = re.compile(rb"(?:\[(\d+)\] )?rank (\d+) line (\d+)\.")
_PIECE = re.compile(rb"(?!\[(?:dlenv|node \d+)\])(?:.*rank \d|.*line \d+\.?$|\d+\.$)")
_SAID = ("state", "exit_code", "reason", "message", "started_at", "finished_at")


def eventually(find: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """Return the first true value."""
    return until(find, what, patience_s, pause_s=0.1)


def numbers(log: bytes) -> dict[int, list[int]]:
    """Return the numbers of each rank's lines, as they stand in a log.

    Every line says whose it is; only the last one of a rank may be the beginning of a line.
    """
    found: dict[int, list[int]] = {}
    pieces = []
    for line in log.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            pieces += [line] if _PIECE.match(line) else []
            continue
        rank = int(match[2])
        assert match[1] == (b"%d" % rank if rank else None), line
        found.setdefault(rank, []).append(int(match[3]))
    nexts = {b"%srank %d line %d." % (b"[%d] " % rank if rank else b"", rank, len(found[rank])) for rank in found}
    for piece in pieces:
        begun = next((line for line in nexts if line.startswith(piece)), None)
        assert begun is not None, piece
        nexts.remove(begun)
    return found


@dataclass(frozen=True)
class Job:
    """A job of the numbered script, as a server knows it."""

    server: ServerProcess
    id: str
    folder: Path

    def ask(self) -> dict[str, Any]:
        """Return the job as the server tells it."""
        reply = self.server.api("GET", f"/jobs/{self.id}")
        assert reply.status == 200, reply.body
        return dict(reply.json())

    def told(self, rank: int = 0) -> int:
        """Return how many lines a rank has written at least."""
        path = self.folder / f"told-{rank}"
        return int(path.read_text() or 0) if path.exists() else 0

    def up(self, ranks: int = 1, lines: int = 1) -> None:
        """Wait until every rank has written some lines."""

        def written() -> bool:
            job = self.ask()
            assert job["state"] in ("STARTING", "RUNNING"), (job, self.log[-3000:].decode(errors="replace"))
            return all(self.told(rank) >= lines for rank in range(ranks))

        eventually(written, "the first lines")

    def ended(self, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until it has ended and return what is told of it."""

        def told() -> dict[str, Any] | None:
            job = self.ask()
            return job if job["state"] in ("SUCCEEDED", "FAILED", "CANCELLED", "LOST") else None

        job = eventually(told, "the end", patience_s)
        assert job is not None
        return job

    @property
    def log(self) -> bytes:
        """The log as it is on disk."""
        path = jobs_dir() / self.id / "run" / "log"
        return path.read_bytes() if path.exists() else b""

    def whole(self, ranks: int = 1) -> None:
        """Check that each rank's lines are in the log, all that it wrote, in their order, and none twice."""
        found = numbers(self.log)
        assert sorted(found) == list(range(ranks))
        for rank, seen in found.items():
            assert seen == list(range(len(seen))), f"rank {rank}"
            assert len(seen) >= self.told(rank), f"rank {rank}"

    def agreed(self, state: str) -> dict[str, Any]:
        """Check that server, command line and record tell one end, and return it."""
        served, shown = self.ask(), self.by_command("jobs", self.id, "--json")
        kept = json.loads((jobs_dir() / self.id / "final.json").read_text())
        said = {key: served[key] for key in _SAID}
        assert said["state"] == state, served
        assert {key: json.loads(shown)[key] for key in _SAID} == said
        assert {key: kept["status"][key] for key in _SAID} == said
        assert {key: kept[key] for key in ("failed_rank", "failed_node")} == {
            key: served[key] for key in ("failed_rank", "failed_node")
        }
        return served

    def by_command(self, *words: str) -> str:
        """Return what our command prints."""
        argv = [sys.executable, "-m", "jupyter_dlenv", *words]
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def left(self) -> list[str]:
        """Return what is still there of it: containers, networks, processes."""
        engine, label = docker_images.engine(), {"label": f"io.jupyter-dlenv.id={self.id}"}
        held = [item["Names"][0] for item in engine.containers(all=True, filters=label)]
        networks = [item["Name"] for item in engine.networks() if self.id in item["Name"]]
        return held + networks + processes(self.id)

    def gone(self) -> None:
        """Check that nothing is left."""
        assert eventually(lambda: not self.left(), f"the end of {self.left()}", 30)

    def containers(self) -> list[str]:
        """Return the containers of its nodes, node 0's first."""
        label = {"label": f"io.jupyter-dlenv.id={self.id}"}
        found = docker_images.engine().containers(filters=label)
        return [item["Id"] for item in sorted(found, key=lambda item: item["Labels"]["io.jupyter-dlenv.node"])]

    def signal_rank(self, rank: int, signum: int, node: int = 0) -> None:
        """Send a signal to a rank's own process, from inside its container."""
        engine, pid = docker_images.engine(), (self.folder / f"pid-{rank}").read_text()
        code = f"import os; os.kill({pid}, {int(signum)})"
        made = engine.exec_create(self.containers()[node], ["python3", "-c", code])["Id"]
        output = engine.exec_start(made)
        assert engine.exec_inspect(made)["ExitCode"] == 0, output


def processes(job_id: str) -> list[str]:
    """Return the processes that belong to a job, in containers or not; zombies are none."""
    found, mark = [], f"DLENV_JOB={job_id}".encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                words, variables = (path / "cmdline").read_bytes(), (path / "environ").read_bytes()
            except OSError:
                continue  # ended meanwhile, or another user's
            if job_id.encode() in words or mark in variables.split(b"\0"):
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def submit(server: ServerProcess, folder: Path, count: int, pause_s: float, *words: str, **request: Any) -> Job:
    """Start the numbered script below a server's folder."""
    folder.mkdir(parents=True)
    (folder / SCRIPT).write_text(NUMBERED)
    if request.get("engine") != "process":
        request.setdefault("image", docker_images.base_image())
    request.setdefault("launcher", "python")
    body = {"script": SCRIPT, "args": [str(count), str(pause_s), *words], "cwd": str(folder), **request}
    reply = server.api("POST", "/jobs", body)
    assert reply.status == 201, reply.body
    return Job(server, reply.json()["id"], folder)


def follow(server: ServerProcess, job_id: str, cursor: str = "") -> Iterator[tuple[Mapping[str, Any], bytes]]:
    """Yield the head and the data of each whole frame of a followed log, as long as the server answers."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)) as connection:
        address = f"/dlenv/api/v1/jobs/{job_id}/log?follow=1&cursor={cursor}"
        connection.request("GET", address, headers={"Authorization": f"token {server.token}"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        while line := response.readline():
            head = json.loads(line)
            data = response.read(head["bytes"])
            if len(data) < head["bytes"]:
                return  # broken off
            yield head, data
