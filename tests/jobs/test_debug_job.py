"""``--debug`` through the command line: what is said, and that a debugger's port answers."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker_images
import pytest

Write = Callable[[str, str], Path]
COMMAND = [sys.executable, "-m", "jupyter_dlenv"]


@pytest.mark.parametrize("engine", [pytest.param("docker", marks=pytest.mark.docker), "process"])
def test_a_rank_waits_and_its_debugger_answers(notebook_dir: Path, write: Write, engine: str) -> None:
    write("a.py", "print('only with a debugger')\n")
    where = ["--image", docker_images.base_image()] if engine == "docker" else ["--engine", "process"]
    words = [*COMMAND, "run", "a.py", *where, "--launcher", "python", "--nproc", "2", "--debug", "1"]
    with subprocess.Popen(words, cwd=notebook_dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        try:
            said = ""
            while "project path" not in said:
                line = run.stderr.readline()
                assert line, said
                said += line
            port = int(re.findall(r"Rank 1 waits for a debugger at 127\.0\.0\.1:(\d+)", said)[0])
            settings = json.loads(said[said.index("{") : said.rindex("}") + 1])
            assert settings["connect"] == {"host": "127.0.0.1", "port": port}
            remote = str(notebook_dir) if engine == "docker" else "/"
            assert remote in [each["remoteRoot"] for each in settings["pathMappings"]]
            answer = _ask(port)
            assert b'"command": "initialize"' in answer or b'"event"' in answer, answer
        finally:
            run.terminate()
            run.wait(60)
            for job in json.loads(subprocess.run([*COMMAND, "jobs", "--json"], capture_output=True, check=True).stdout):
                if job["state"] == "RUNNING" and job["name"] == "a.py":
                    subprocess.run([*COMMAND, "stop", job["id"]], check=True, capture_output=True)


def _ask(port: int) -> bytes:
    """Return what a debug adapter answers to the first request of its protocol."""
    body = json.dumps({"seq": 1, "type": "request", "command": "initialize", "arguments": {"adapterID": "x"}}).encode()
    end = time.monotonic() + 60
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        answer = b""
        while b"initialize" not in answer and time.monotonic() < end:
            piece = client.recv(4096)
            if not piece:
                break
            answer += piece
        return answer


def test_a_rank_that_is_not_there_is_told(notebook_dir: Path, write: Write) -> None:
    write("a.py", "print(1)\n")
    words = [*COMMAND, "run", "a.py", "--engine", "process", "--debug", "3"]
    done = subprocess.run(words, cwd=notebook_dir, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "--debug takes a rank from 0 to 0, not 3." in done.stderr
