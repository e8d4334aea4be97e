"""The command line, as processes, and Docker's absence."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker_images
import pytest

Write = Callable[[str, str], Path]
COMMAND = [sys.executable, "-m", "jupyter_dlenv"]


def run(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=180, check=False
    )


def test_a_run_prints_plain_lines_and_ends_as_the_script(notebook_dir: Path, write: Write) -> None:
    write("a.py", "import sys\nprint('hello', sys.argv[1:])\nsys.exit(int(sys.argv[1]))\n")
    good = run("run", "a.py", "--", "0", cwd=notebook_dir)
    assert (good.returncode, good.stdout) == (0, "hello ['0']\n"), good
    bad = run("run", "a.py", "--", "5", cwd=notebook_dir)
    assert (bad.returncode, bad.stdout) == (5, "hello ['5']\n")
    assert bad.stderr.splitlines()[0] == "Job a.py FAILED: Ended with exit code 5."


def hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_stops_the_job(notebook_dir: Path, write: Write) -> None:
    write("a.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    with subprocess.Popen(
        [*COMMAND, "run", "a.py", "--name", "stopped-one"],
        cwd=notebook_dir,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) == 130
        finally:
            process.kill()
    jobs = json.loads(run("jobs", "--json").stdout)
    assert [job["state"] for job in jobs if job["name"] == "stopped-one"] == ["CANCELLED"]


def test_jobs_logs_stop_and_rm(notebook_dir: Path, write: Write) -> None:
    write("a.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    job = run("run", "a.py", "--detach", cwd=notebook_dir).stdout.strip()
    for _ in range(200):
        if run("logs", job).stdout == "up\n":
            break
        time.sleep(0.1)
    assert run("logs", job[:13]).stdout == "up\n"
    refused = run("rm", job)
    assert (refused.returncode, "still runs" in refused.stderr) == (1, True)
    assert "CANCELLED" in run("stop", job).stdout
    assert run("rm", job).returncode == 0
    assert job not in run("jobs", "--json").stdout


def test_environments_are_added_listed_and_removed() -> None:
    words = ["--image", "lab/torch:1", "--memory", "8g", "--mount", "/data:/data:ro", "--display-name", "Torch"]
    assert run("env", "add", "from-cli", *words).returncode == 0
    (found,) = [item for item in json.loads(run("env", "list", "--json").stdout) if item["name"] == "from-cli"]
    assert (found["memory"], found["mounts"], found["display_name"]) == ("8g", ["/data:/data:ro"], "Torch")
    assert run("env", "remove", "from-cli").returncode == 0
    again = run("env", "remove", "from-cli")
    assert again.returncode == 1
    assert "There is no environment from-cli" in again.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["env", "add", "X", "--image", "a/b"], "cannot name an environment"),
        (["env", "add", "x", "--image", "--privileged"], "expected one argument"),
        (["env", "add", "x", "--image", "A B"], "not an image reference"),
        (["env", "add", "x", "--image", "a/b", "--gpus", "2;id"], "--gpus takes"),
        (["run", "--nporc", "2"], "Did you mean --nproc?"),
        (["logs", "nobody"], "There is no job"),
        (["images", "probe", "dlenv-test/nowhere:1"], "images pull dlenv-test/nowhere:1"),
    ],
)
def test_bad_words_are_told(words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.docker
def test_images_are_listed_and_probed() -> None:
    image = docker_images.base_image()
    assert image in [item["ref"] for item in json.loads(run("images", "--json").stdout)]
    facts = json.loads(run("images", "probe", image).stdout)
    assert (facts["python"], facts["version"][:2], facts["libc"]) == ("/usr/bin/python3", [3, 11], "glibc")


def test_no_daemon_is_told_with_the_command_that_helps(notebook_dir: Path, write: Write) -> None:
    write("a.py", "print(1)\n")
    for words in (["images"], ["run", "a.py", "--image", "a/b:1"], ["doctor"]):
        done = run(*words, cwd=notebook_dir, DOCKER_HOST="unix:///nowhere/docker.sock")
        text = done.stdout + done.stderr
        assert done.returncode == 1
        assert "No Docker daemon answers at unix:///nowhere/docker.sock" in text
        assert "systemctl start docker" in text
        assert "--engine process" in text


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody without permission")
def test_no_permission_is_told_with_the_command_that_helps() -> None:
    nobody = pwd.getpwnam("nobody")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os; os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[2]))\n"
        "from jupyter_dlenv.engines.docker.engine import DockerEngine\n"
        "from jupyter_dlenv.errors import EngineUnavailable\n"
        "try: DockerEngine().security_options\n"
        "except EngineUnavailable as error: print(error)\n"
    )
    root = str(Path(__file__).parents[1])
    argv = [sys.executable, "-c", code, root, str(nobody.pw_uid), str(nobody.pw_gid)]
    # Imports first, as root: the interpreter may lie in a folder that nobody cannot read.
    argv[2] = code.replace(
        "import os;", "import docker, jupyter_dlenv.engines.docker.engine, getpass, encodings.idna; import os;"
    )
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert "refuses the user nobody" in done.stdout, done
    assert "usermod -aG docker" in done.stdout


def test_the_doctor_speaks_json() -> None:
    findings = json.loads(run("doctor", "--json").stdout)
    assert {"docker", "disk", "sockets"} <= {item["subject"] for item in findings}
    assert {item["level"] for item in findings} <= {"ok", "note", "problem"}


def test_chinese_readers_get_chinese() -> None:
    assert "没有" in run("logs", "nobody", LANGUAGE="zh_CN").stderr
