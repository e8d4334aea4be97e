"""A job is followed although its service goes away, and shown on while it is being stopped."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.errors import EngineUnavailable, JobInterrupted
from jupyter_dlenv.notebook import follow
from jupyter_dlenv.notebook.client import Client, Frame
from jupyter_dlenv.notebook.follow import until_ended
from jupyter_dlenv.options import parse_run

Write = Callable[[str, str], Path]
SERVE = """
import sys, threading
from pathlib import Path
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.server.sockets import serve_jobs
from jupyter_dlenv.settings import load_settings
settings = load_settings()
serve_jobs(Path(sys.argv[1]), Principal(settings.owner), settings, None)
print("up", flush=True)
threading.Event().wait()
"""
SCRIPT = """
import os, time
print("one", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
print("two")
"""
JOB: dict[str, Any] = {"id": "5ab4c0de-0000-4000-8000-000000000000", "name": "train.py", "state": "RUNNING"}
CANCELLED = {**JOB, "state": "CANCELLED"}
AWAY = EngineUnavailable("Nobody answers.")


class Services:
    """Job services, one after another, at the same socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", SERVE, self.path], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "up\n"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def services(jupyter_world: Path) -> Iterator[Services]:
    """One service that runs."""
    found = Services(str(jupyter_world / "away.sock"))
    found.start()
    yield found
    found.kill()


def test_a_job_is_followed_on_by_the_next_service(services: Services, notebook_dir: Path, write: Write) -> None:
    write("a.py", SCRIPT)
    client, shown = Client(services.path), bytearray()
    request = replace(parse_run(["a.py", "--engine", "process"]).request, python=sys.executable, cwd=str(notebook_dir))
    job = client.call("POST", "/jobs", asdict(request))

    def show(frame: Frame) -> None:
        shown.extend(frame.data)
        if frame.data == b"one\n":
            services.kill()
            services.start()
            (notebook_dir / "go").touch()

    assert until_ended(client, job, show)["state"] == "SUCCEEDED"
    assert shown == b"one\ntwo\n"


class Scripted:
    """A service whose log is prepared: frames, and errors to raise; after the last there is no service."""

    def __init__(self, *script: Any, cancel: Callable[[bool], None] = lambda force: None) -> None:
        self._script, self._cancel, self.cursors = list(script), cancel, list[str]()

    def follow(self, _job_id: str, cursor: str) -> Iterator[Frame]:
        self.cursors.append(cursor)
        while self._script:
            step = self._script.pop(0)
            if isinstance(step, BaseException):
                raise step
            yield step
        raise AWAY

    def call(self, method: str, path: str, body: dict[str, bool]) -> None:
        assert (method, path) == ("POST", f"/jobs/{JOB['id']}/cancel")
        self._cancel(body["force"])


def frame(text: str, job: dict[str, Any] | None = None) -> Frame:
    return Frame(f"{text}\n".encode(), f"after {text}", {}, "RUNNING", job)


def test_a_job_whose_service_stays_away_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(follow.time, "sleep", slept.append)
    service: Any = Scripted(frame("one"), AWAY, frame("two"))
    with pytest.raises(EngineUnavailable, match="goes on") as caught:
        until_ended(service, JOB, lambda shown: None)
    assert caught.value.hint == f"%dlattach {JOB['id']}, jupyter dlenv logs --follow {JOB['id']}"
    assert service.cursors[:3] == ["", "after one", "after two"]
    assert 120 <= sum(slept) < 125


def test_a_job_that_could_not_be_stopped_is_not_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def cancel(_force: bool) -> None:
        raise AWAY

    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)
    service: Any = Scripted(frame("one"), KeyboardInterrupt(), *[frame("more")] * 1000, cancel=cancel)
    with pytest.raises(JobInterrupted, match=f"may go on .*%dlstop {JOB['id']}"):
        until_ended(service, JOB, lambda shown: None)


@pytest.mark.parametrize("interrupts", [1, 2])
def test_what_a_job_writes_at_its_end_is_shown_while_it_is_being_stopped(interrupts: int) -> None:
    saved = threading.Event()
    asked: list[tuple[bool, bool]] = []

    def cancel(force: bool) -> None:  # comes back when the job has ended
        asked.append((force, saved.wait(60)))

    def show(shown: Frame) -> None:
        if shown.data == b"saving\n":
            saved.set()

    script = [frame("one"), *[KeyboardInterrupt()] * interrupts, frame("saving"), frame("end", CANCELLED)]
    service: Any = Scripted(*script, cancel=cancel)
    with pytest.raises(JobInterrupted, match="was stopped"):
        until_ended(service, JOB, show)
    assert sorted(asked) == [(force, True) for force in (False, True)[:interrupts]]
    assert service.cursors == ["", *["after one"] * interrupts]


HEAD = {"cursor": "c", "bytes": 4, "open_lines": {}, "state": "RUNNING"}
STREAM = b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(HEAD).encode() + b"\none\n"


@pytest.mark.parametrize(("kept", "frames"), [(len(STREAM), 1), (len(STREAM) - 2, 0), (40, 0), (0, 0)])
def test_a_log_that_is_cut_anywhere_is_no_end(jupyter_world: Path, kept: int, frames: int) -> None:
    path = str(jupyter_world / "cut.sock")
    Path(path).unlink(missing_ok=True)

    def answer(listener: socket.socket) -> None:
        connection, _address = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(STREAM[:kept])

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        read: list[bytes] = []
        every = (read.append(found.data) for found in Client(path).follow(JOB["id"]))
        with pytest.raises(EngineUnavailable):
            list(every)
        thread.join()
    assert read == [b"one\n"] * frames
