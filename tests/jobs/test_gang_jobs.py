"""Jobs of several nodes and several attempts, through the command line, with real containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.jobs.ports import free_ports
from jupyter_dlenv.paths import jobs_dir

pytestmark = pytest.mark.docker

Write = Callable[[str, str], Path]
COMMAND = [sys.executable, "-m", "jupyter_dlenv"]

MEET = """
import os, socket, sys
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
if rank == 0:
    server = socket.create_server(("", port), backlog=world)
    for _ in range(world - 1):
        server.accept()[0].sendall(b"hello")
    print("met", world)
else:
    for _ in range(600):
        try:
            peer = socket.create_connection((host, port), timeout=30)
            break
        except OSError:
            import time; time.sleep(0.1)
    print("got", peer.recv(5).decode(), "as", rank, "of", world, "on", os.environ["DLENV_NODE_RANK"])
"""

FAIL_ON = """
import os, sys, time
print("begun", os.environ["RANK"], flush=True)
if os.environ["RANK"] == sys.argv[1]:
    time.sleep(1)
    raise RuntimeError("rank %s gives up" % sys.argv[1])
time.sleep(600)
"""

THIRD_TIME = """
import os, sys
attempt = int(os.environ["DLENV_ATTEMPT"])
print("attempt", attempt, "of", os.environ["DLENV_JOB"])
sys.exit(0 if attempt == 3 else 9)
"""


def dlenv(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=300, check=False
    )


def the_job(name: str) -> dict[str, Any]:
    """Return the one job of a name."""
    found = [job for job in json.loads(dlenv("jobs", "--json").stdout) if job["name"] == name]
    assert len(found) == 1, found
    return dict(found[0])


def left_of(job_id: str) -> list[str]:
    """Return what Docker still has of a job: containers and networks."""
    engine, label = docker_images.engine(), {"label": f"io.jupyter-dlenv.job={job_id}"}
    networks = [item["Name"] for item in engine.networks() if job_id in item["Name"]]
    return [item["Id"] for item in engine.containers(all=True, filters=label)] + networks


def until(found: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.2)


def submit(cwd: Path, words: Sequence[str]) -> str:
    """Submit a job and return its id."""
    done = dlenv("run", *words, "--detach", cwd=cwd)
    assert done.returncode == 0, done
    return done.stdout.splitlines()[0]


@pytest.fixture
def image() -> str:
    """An image with a Python."""
    return docker_images.base_image()


@pytest.mark.parametrize("network", ["bridge", "none", "host"])
def test_two_nodes_find_each_other(image: str, notebook_dir: Path, write: Write, network: str) -> None:
    write("meet.py", MEET)
    words = ["meet.py", "--launcher", "python", "--nodes", "2", "--nproc", "2", "--network", network]
    done = dlenv("run", *words, "--image", image, "--name", f"meet-{network}", cwd=notebook_dir)
    assert done.returncode == 0, done
    assert sorted(done.stdout.splitlines()) == [
        "[1] got hello as 1 of 4 on 0",
        "[2] got hello as 2 of 4 on 1",
        "[3] got hello as 3 of 4 on 1",
        "met 4",
    ]
    job = the_job(f"meet-{network}")
    assert (job["state"], job["nodes"], job["nproc"], job["exit_code"]) == ("SUCCEEDED", 2, 2, 0)
    assert left_of(job["id"]) == []


@pytest.mark.parametrize(("rank", "node"), [("0", 0), ("3", 1)])
def test_one_fails_and_all_stop(image: str, notebook_dir: Path, write: Write, rank: str, node: int) -> None:
    write("fail.py", FAIL_ON)
    name = f"fails-{rank}"
    words = ["fail.py", "--launcher", "python", "--nodes", "2", "--nproc", "2", "--image", image, "--name", name]
    begun = time.monotonic()
    done = dlenv("run", *words, "--", rank, cwd=notebook_dir)
    assert time.monotonic() - begun < 120  # and not the ten minutes that the others would sleep
    assert done.returncode == 1, done
    job = the_job(name)
    assert (job["state"], job["failed_rank"], job["failed_node"]) == ("FAILED", int(rank), node)
    assert f"RuntimeError: rank {rank} gives up" in job["traceback"]
    assert f"rank {rank} gives up" in done.stderr
    assert left_of(job["id"]) == []


def test_a_container_that_is_removed_takes_the_others_with_it(image: str, notebook_dir: Path, write: Write) -> None:
    write("wait.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    job = submit(notebook_dir, ["wait.py", "--nodes", "2", "--launcher", "python", "--image", image])
    until(lambda: dlenv("logs", job).stdout.count("up") == 2)
    second = docker_images.engine().containers(filters={"name": f"dlenv-{job}-1-1"})
    docker_images.engine().remove_container(second[0]["Id"], force=True)
    until(lambda: json.loads(dlenv("jobs", job, "--json").stdout)["state"] == "FAILED")
    found = json.loads(dlenv("jobs", job, "--json").stdout)
    assert found["reason"] == "removed from outside", found
    assert "node 1" in found["message"]
    assert left_of(job) == []


def test_a_stop_ends_every_node(image: str, notebook_dir: Path, write: Write) -> None:
    write("wait.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    job = submit(notebook_dir, ["wait.py", "--nodes", "2", "--nproc", "2", "--launcher", "python", "--image", image])
    until(lambda: dlenv("logs", job).stdout.count("up") == 4)
    assert "CANCELLED" in dlenv("stop", job).stdout
    assert left_of(job) == []


def test_a_failure_is_tried_again_with_the_log_of_each(image: str, notebook_dir: Path, write: Write) -> None:
    write("third.py", THIRD_TIME)
    done = dlenv("run", "third.py", "--image", image, "--retries", "3", "--name", "third", cwd=notebook_dir)
    assert done.returncode == 0, done
    job = the_job("third")
    lines = [f"attempt {number} of {job['id']}" for number in (1, 2, 3)]
    said = [line for line in done.stdout.splitlines() if not line.startswith("[dlenv]")]
    assert said == lines
    assert (job["state"], job["attempt"], job["attempts"]) == ("SUCCEEDED", 3, 4)
    folder = jobs_dir() / job["id"]
    logs = [(folder / name / "log").read_text() for name in ("run", "run-2", "run-3")]
    assert [log.splitlines()[-1] for log in logs] == lines
    assert dlenv("logs", job["id"]).stdout == done.stdout
    assert left_of(job["id"]) == []


def test_the_last_attempt_s_end_is_the_job_s(image: str, notebook_dir: Path, write: Write) -> None:
    write("never.py", "import os\nprint('try', os.environ['DLENV_ATTEMPT'])\nraise SystemExit(4)\n")
    words = ["never.py", "--image", image, "--nodes", "2", "--launcher", "python", "--retries", "1"]
    done = dlenv("run", *words, "--name", "never", cwd=notebook_dir)
    assert done.returncode == 4, done
    job = the_job("never")
    assert (job["state"], job["attempt"], job["exit_code"]) == ("FAILED", 2, 4)
    assert left_of(job["id"]) == []


@pytest.mark.parametrize("engine", ["docker", "process"])
@pytest.mark.parametrize("how", ["script", "module"])
def test_an_attempt_runs_the_code_that_was_submitted(
    image: str, notebook_dir: Path, write: Write, engine: str, how: str
) -> None:
    write("helper.py", "WORD = 'old'\n")
    write(
        "main.py",
        "import os, sys, helper\n"
        "print(os.environ['DLENV_ATTEMPT'], 'old', helper.WORD, os.path.exists('made'), sys.argv[1:])\n"
        "open('main.py', 'w').write('print(1)'); open('helper.py', 'w').write('WORD = 5'); open('made', 'w')\n"
        "sys.exit(os.environ['DLENV_ATTEMPT'] == '1')\n",
    )
    what = ["main.py"] if how == "script" else ["-m", "main"]
    where = ["--image", image] if engine == "docker" else ["--engine", "process"]
    name = f"code-{engine}-{how}"
    done = dlenv("run", *what, *where, "--retries", "1", "--name", name, "--", "x", cwd=notebook_dir)
    assert done.returncode == 0, done
    said = [line for line in done.stdout.splitlines() if not line.startswith("[dlenv]")]
    assert said == ["1 old old False ['x']", "2 old old True ['x']"]
    assert "as it was submitted" in the_job(name)["code"]
    assert (notebook_dir / "main.py").read_text() == "print(1)"


def test_somebody_is_told_when_a_job_has_ended(image: str, notebook_dir: Path, write: Write) -> None:
    write("a.py", "raise SystemExit(3)\n")
    command = 'echo "$DLENV_JOB_NAME $DLENV_JOB_STATE $DLENV_JOB_EXIT_CODE" >> told'
    dlenv("run", "a.py", "--image", image, "--name", "noisy", "--notify", command, cwd=notebook_dir)
    until(lambda: (notebook_dir / "told").exists())
    dlenv("jobs")
    time.sleep(1)
    assert (notebook_dir / "told").read_text() == "noisy FAILED 3\n"


def test_each_host_may_start_its_own_node(image: str, notebook_dir: Path, write: Write) -> None:
    write("meet.py", MEET)
    common = ["meet.py", "--launcher", "python", "--nodes", "2", "--master", f"127.0.0.1:{free_ports()}"]
    here = submit(notebook_dir, [*common, "--image", image, "--node-rank", "0"])
    there = dlenv("run", *common, "--image", image, "--node-rank", "1", cwd=notebook_dir)
    assert (there.returncode, there.stdout) == (0, "[1] got hello as 1 of 2 on 1\n"), there
    until(lambda: json.loads(dlenv("jobs", here, "--json").stdout)["state"] == "SUCCEEDED")
    assert dlenv("logs", here).stdout == "met 2\n"


def test_an_image_s_own_command_runs_without_a_script(notebook_dir: Path) -> None:
    dockerfile = f'FROM {docker_images.base_image()}\nWORKDIR /srv\nENTRYPOINT ["python3", "-c", "import os,sys; \
print(os.getcwd(), sys.argv[1:])"]\nCMD ["usual"]\n'
    image = docker_images.image_from(dockerfile, "own-command")
    done = dlenv("run", "--image", image, cwd=notebook_dir)
    assert (done.returncode, done.stdout) == (0, "/srv ['usual']\n"), done
    nothing = dlenv("run", "--image", docker_images.base_image(), cwd=notebook_dir)
    assert nothing.returncode != 0
    assert "Nothing to run" in nothing.stderr


def test_a_dry_run_shows_every_node_and_the_totals(image: str, notebook_dir: Path, write: Write) -> None:
    write("train.py", "import torch.distributed\n")
    words = ["train.py", "--nodes", "2", "--nproc", "2", "--image", image, "--memory", "1g", "--dry-run"]
    shown = dlenv("run", *words, "-e", "TOKEN", cwd=notebook_dir, TOKEN="seven-of-nine").stdout
    assert "2 nodes x 2 processes = 4 processes" in shown
    assert "memory 2.0 GiB" in shown
    assert shown.count("docker run") == 2
    assert all(f"PET_NODE_RANK={rank}" in shown for rank in (0, 1)), shown
    assert "seven-of-nine" not in shown


TOGETHER = """
import os, pathlib, time
attempt = os.environ["DLENV_ATTEMPT"]
print(len(os.environ["TOKEN"]), attempt, flush=True)
pathlib.Path(f"{attempt}-{os.environ['DLENV_NODE_RANK']}").touch()
while len(list(pathlib.Path().glob(f"{attempt}-*"))) < 2:  # the first that fails stops the other
    time.sleep(0.05)
time.sleep(1)
raise SystemExit(2)
"""


def test_values_of_secrets_are_kept_nowhere(image: str, notebook_dir: Path, write: Write) -> None:
    write("a.py", TOGETHER)
    words = ["a.py", "--image", image, "--nodes", "2", "--launcher", "python", "--retries", "1", "-e", "TOKEN"]
    done = dlenv("run", *words, "--name", "secret-job", cwd=notebook_dir, TOKEN="sesame-sesame")
    assert done.stdout.count("13 2") == 2, done
    job = the_job("secret-job")
    assert job["secrets"] == ["TOKEN"]
    texts = [path.read_bytes() for path in (jobs_dir() / job["id"]).rglob("*") if path.is_file()]
    assert not [text for text in texts if b"sesame" in text]


AROUND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).absolute().parents[1]))
import built, lib
print(built.NAME, lib.NAME, (pathlib.Path(__file__).parent / "data" / "x.txt").read_text(), __file__)
"""


def test_the_copy_of_the_code_finds_what_lies_around_it(image: str, notebook_dir: Path, write: Write) -> None:
    for folder in ("tools/data", "lib"):
        (notebook_dir / folder).mkdir(parents=True)
    write("lib/__init__.py", "NAME = 'beside'")
    write("tools/train.py", AROUND)
    write("tools/built.py", "NAME = 'built'")
    write("tools/data/x.txt", "data")
    write("tools/.gitignore", "built.py\ndata/\n")
    words = ["tools/train.py", "--image", image, "--launcher", "python", "--retries", "1"]
    done = dlenv("run", *words, cwd=notebook_dir)
    assert "built beside data" in done.stdout, done
    assert "/code/" in done.stdout
