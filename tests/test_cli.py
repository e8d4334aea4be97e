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
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.cli import main

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
    for code in ("5", "130"):
        bad = run("run", "a.py", "--", code, cwd=notebook_dir)
        assert (bad.returncode, bad.stdout) == (int(code), f"hello ['{code}']\n")
        assert bad.stderr.splitlines()[0].startswith("Job a.py FAILED: ")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1:strict", "gbk", "ascii"])
def test_a_log_is_printed_byte_by_byte_in_any_locale(notebook_dir: Path, write: Write, encoding: str) -> None:
    write("进度.py", "import os\nos.write(1, b'\\xff ' + '\u2193 \u2588 \u00e7\\n'.encode())\n")
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*COMMAND, "run", "进度.py"], cwd=notebook_dir, env=env, capture_output=True, timeout=180, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"\xff \xe2\x86\x93 \xe2\x96\x88 \xc3\xa7\n"), done
    listed = subprocess.run([*COMMAND, "jobs"], env=env, capture_output=True, timeout=180, check=False)
    assert (listed.returncode, listed.stderr) == (0, b"")
    found = subprocess.run([*COMMAND, "jobs", "--json"], env=env, capture_output=True, timeout=180, check=False)
    name = json.loads(found.stdout.decode(encoding.split(":")[0]))[0]["name"]
    assert name == "进度.py"


def test_a_reader_that_leaves_is_told_that_the_job_goes_on(notebook_dir: Path, write: Write) -> None:
    write(
        "a.py",
        "import os, time\n"
        "print('up', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.05)\n"
        "print('more', flush=True)\n"
        "while not os.path.exists('end'): time.sleep(0.05)\n",
    )
    argv = [*COMMAND, "run", "a.py", "--name", "unread"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, cwd=notebook_dir, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "up\n"
        process.stdout.close()
        (notebook_dir / "go").touch()
        try:
            said = process.stderr.read()
            assert process.wait(60) == 141
        finally:
            process.kill()
    (notebook_dir / "end").touch()
    (job,) = [job for job in json.loads(run("jobs", "--json").stdout) if job["name"] == "unread"]
    assert f"jupyter dlenv logs --follow {job['id']}" in said
    assert f"jupyter dlenv stop {job['id']}" in said
    assert "Traceback" not in said
    assert run("logs", "--follow", job["id"]).stdout == "up\nmore\n"


def test_a_list_that_nobody_reads_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed:
        done = subprocess.run([*COMMAND, "jobs", "--json"], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_long_folder_for_temporary_files_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 110)
    folder.mkdir()
    done = run("jobs", "--json", TMPDIR=str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert isinstance(json.loads(done.stdout), list)


def hear_signals() -> None:
    """Undo what a shell does to what it starts in the background, and ``nohup`` to what it starts."""
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


def ended_by(signals: list[signal.Signals], folder: Path, tmp: Path) -> tuple[int, str, dict[str, Any]]:
    """Send signals to a run that goes on; return how it ended, what it printed then, and its job."""
    name, env = f"by-{signals[0].name}", {**os.environ, "TMPDIR": str(tmp)}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    argv = [*COMMAND, "run", "a.py", "--name", name]
    with subprocess.Popen(argv, cwd=folder, env=env, preexec_fn=hear_signals, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        for signum in signals:
            process.send_signal(signum)
        try:
            printed, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in said
    (job,) = [job for job in json.loads(run("jobs", "--json").stdout) if job["name"] == name]
    return process.returncode, printed, job


SAVES = """
import time
try:
    print("up", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(1)
    print("saved", flush=True)
    raise SystemExit(1)
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_an_interrupt_and_a_kill_stop_the_job_gently_and_are_what_the_command_dies_of(
    notebook_dir: Path, tmp_path: Path, write: Write, signals: list[signal.Signals]
) -> None:
    write("a.py", SAVES)
    (tmp_path / "t").mkdir()
    code, printed, job = ended_by(signals, notebook_dir, tmp_path / "t")
    assert (code, printed, job["state"]) == (-signals[0], "saved\n", "CANCELLED")
    assert not list((tmp_path / "t").glob("dlenv-*"))


def test_a_closed_terminal_leaves_the_job_alone(notebook_dir: Path, tmp_path: Path, write: Write) -> None:
    write("a.py", SAVES)
    code, printed, job = ended_by([signal.SIGHUP], notebook_dir, tmp_path)
    assert (code, printed, job["state"]) == (-signal.SIGHUP, "", "RUNNING")
    assert "CANCELLED" in run("stop", job["id"]).stdout


def test_a_process_that_calls_the_command_outlives_its_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: object) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    monkeypatch.setattr("jupyter_dlenv.cli.run_job", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main(["run", "a.py"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


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
