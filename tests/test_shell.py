"""``jupyter dlenv shell``: real terminals and pipes into real containers, and what is left when they are closed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker_images
import pexpect
import pytest
from jupyter_client.manager import AsyncKernelManager

from jupyter_dlenv.engines.docker.request import assert_safe, create_body
from jupyter_dlenv.engines.docker.terminal import HOLD, Frames
from jupyter_dlenv.errors import InvalidRequest, NotFound
from jupyter_dlenv.kernels.environments import Environment, EnvironmentManager
from jupyter_dlenv.shell.targets import Kind, Target, choose, may_be_image_id, running
from jupyter_dlenv.spec import Identity, Job, JobSpec, JobState, JobStatus, Role, new_id

COMMAND = [sys.executable, "-m", "jupyter_dlenv", "shell"]
PATIENCE_S = 90
KERNEL = "5ab4c0de-0000-4000-8000-000000000000"
OTHER = "5ab4c0de-1111-4000-8000-000000000000"

# What a word names ----------------------------------------------------------------------------------------------------


def job(job_id: str, role: Role, state: JobState = JobState.RUNNING) -> Job:
    return Job(job_id, role, "docker", "container", "train.py", "alice", "torch", "lab/torch:1", JobStatus(state))


TARGETS = [
    Target(Kind.IMAGE, "torch:latest"),
    Target(Kind.IMAGE, "torch:1"),
    *running([job(KERNEL, Role.KERNEL), job(OTHER, Role.TRAINER)]),
]


@pytest.mark.parametrize(
    ("word", "kind", "name"),
    [
        (KERNEL, Kind.KERNEL, KERNEL),
        ("5ab4c0de-0", Kind.KERNEL, KERNEL),
        ("5ab4c0de-1", Kind.JOB, OTHER),
        ("torch:1", Kind.IMAGE, "torch:1"),
        ("torch", Kind.IMAGE, "torch:latest"),
    ],
)
def test_a_word_names_one_thing(word: str, kind: Kind, name: str) -> None:
    found = choose(word, TARGETS)
    assert (found.kind, found.name) == (kind, name)


def test_a_whole_name_comes_before_a_short_form() -> None:
    assert choose("torch", [Target(Kind.ENVIRONMENT, "torch"), *TARGETS]).kind is Kind.ENVIRONMENT


def test_several_things_are_listed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        choose("5ab4", TARGETS)
    assert caught.value.message == (
        f"5ab4 may be any of these:\n  kernel {KERNEL} (train.py)\n  job {OTHER} (train.py)"
    )


@pytest.mark.parametrize("word", ["", "nobody", "5ab4c0de-2", "torc", "torch:2"])
def test_nothing_is_not_guessed(word: str) -> None:
    with pytest.raises(NotFound):
        choose(word, TARGETS)


def test_only_what_runs_has_a_place_for_a_shell() -> None:
    jobs = [job(KERNEL, Role.KERNEL, JobState.FAILED), job(OTHER, Role.SHELL), job(OTHER, Role.KERNEL)]
    assert [target.name for target in running(jobs)] == [OTHER]


def test_a_short_hexadecimal_word_is_no_image() -> None:
    words = ("5ab4", "ed47b8a3fea9", "sha256:ed47b8a3fea9", "lab/torch@sha256:" + "a" * 64)
    assert [may_be_image_id(word) for word in words] == [False, True, True, True]


def test_frames_come_whole_however_they_are_cut() -> None:
    wire = b"\1\0\0\0\0\0\0\3one\2\0\0\0\0\0\0\3bad\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\4more"
    for size in (1, 3, 8, len(wire)):
        frames = Frames()
        found = [piece for at in range(0, len(wire), size) for piece in frames.feed(wire[at : at + size])]
        assert found == [(1, b"one"), (2, b"bad"), (1, b""), (1, b"more")]


def test_a_shell_s_container_differs_from_a_kernel_s_in_its_end_only() -> None:
    values: dict[str, Any] = {"argv": HOLD, "workdir": "/nb", "run_dir": "", "owner": "alice", "image": "sha256:1"}
    spec = JobSpec(id=KERNEL, role=Role.SHELL, identity=Identity(1000, 1000), **values)
    shell, kernel = create_body(spec), create_body(replace(spec, role=Role.KERNEL))
    assert_safe(shell)
    assert {key: shell.pop(key) for key in ("AttachStdin", "OpenStdin", "StdinOnce")} == dict.fromkeys(
        ("AttachStdin", "OpenStdin", "StdinOnce"), True
    )
    assert shell["HostConfig"].pop("AutoRemove") is True
    assert kernel.pop("OpenStdin") is False
    assert shell["Labels"].pop("io.jupyter-dlenv.shell") == kernel["Labels"].pop("io.jupyter-dlenv.kernel") == KERNEL
    for body in (shell, kernel):
        del body["Labels"]["io.jupyter-dlenv.role"], body["Labels"]["io.jupyter-dlenv.spec"]
    assert shell == kernel


# Real containers ------------------------------------------------------------------------------------------------------


def containers(role: str = "shell") -> list[dict[str, Any]]:
    """Return the containers of a role that this session's owner has."""
    wanted = {"label": f"io.jupyter-dlenv.role={role}"}
    found = docker_images.engine().containers(all=True, filters=wanted)
    return [item for item in found if item["Labels"]["io.jupyter-dlenv.name"].startswith(("sh-", "dlenv-test/"))]


def until(true: Callable[[], Any]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def image() -> str:
    return docker_images.base_image()


@pytest.fixture
def environment(image: str) -> str:
    EnvironmentManager().put(Environment("sh-bare", image=image, memory="512m"))
    return "sh-bare"


def piped(word: str, text: str, cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, word, *more], input=text, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE_S, check=False
    )


@contextmanager
def terminal(word: str, cwd: Path) -> Iterator[pexpect.spawn]:
    """A terminal of 31 by 101 with the shell in it, ready to be typed into."""
    child = pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], word], cwd=str(cwd), dimensions=(31, 101), timeout=PATIENCE_S, encoding="utf-8"
    )
    try:
        child.expect("[#$] $")
        yield child
    finally:
        child.close(force=True)


def ask(child: pexpect.spawn, command: str, answer: str) -> Any:
    """Type a command and return the match of its answer, which is not what was typed."""
    child.sendline(f"{command}; echo a''sked")
    child.expect(answer + r"[^\n]*\r?\n(?:.*\n)?asked")
    return child.match


@pytest.mark.docker
def test_commands_are_piped_into_an_environment(environment: str, notebook_dir: Path) -> None:
    os.chown(notebook_dir, 4321, 4321) if os.geteuid() == 0 else None
    uid = notebook_dir.stat().st_uid
    script = (
        "pwd; id -u; id -un; echo $HOME; echo bad >&2; echo x > made; cat /sys/fs/cgroup/memory*/memory.limit*; exit 7"
    )
    done = piped(environment, script, notebook_dir)
    assert done.returncode == 7, done
    assert done.stdout.splitlines()[:2] == [str(notebook_dir), str(uid)]
    assert done.stdout.splitlines()[3] == "/dlenv/home"
    assert done.stderr == "bad\n"
    assert (notebook_dir / "made").stat().st_uid == uid
    assert containers() == []


@pytest.mark.docker
def test_a_shell_s_container_is_confined_and_is_no_kernel_or_job(environment: str, notebook_dir: Path) -> None:
    with terminal(environment, notebook_dir):
        (found,) = containers()
        about = docker_images.engine().inspect_container(found["Id"])
        assert about["HostConfig"]["CapDrop"] == ["ALL"]
        assert about["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
        assert about["HostConfig"]["Memory"] == 512 << 20
        assert not [mount for mount in about["Mounts"] if "docker.sock" in mount["Source"]]
        labels = {key.rpartition(".")[2] for key in found["Labels"] if key.startswith("io.jupyter-dlenv.")}
        assert not labels & {"kernel", "job"}
        jobs = subprocess.run([*COMMAND[:-1], "jobs", "--json"], capture_output=True, text=True, check=True)
        assert found["Labels"]["io.jupyter-dlenv.id"] not in jobs.stdout


@pytest.mark.docker
def test_a_terminal_has_keys_and_a_size(environment: str, notebook_dir: Path) -> None:
    with terminal(environment, notebook_dir) as child:
        ask(child, "stty size", "31 101")
        child.setwinsize(47, 89)
        ask(child, "sleep 0.2; stty size", "47 89")
        child.sendline("sleep 1000; echo not reached")
        child.sendcontrol("c")
        ask(child, "echo $?", "130")
        ask(child, "test -t 0 && echo is a $(tty)", "is a /dev/pts/0")
        child.sendline("exit 9")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 9
    assert containers() == []


@pytest.mark.docker
def test_an_image_has_a_shell_of_its_own(image: str, notebook_dir: Path) -> None:
    done = piped(image, "python3 -c 'import sys; print(sys.version_info[:2])'; cat /proc/self/status", notebook_dir)
    assert done.stdout.splitlines()[0] == "(3, 11)", done
    assert "NoNewPrivs:\t1" in done.stdout
    assert containers() == []


@pytest.mark.docker
@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_of_a_new_container(environment: str, notebook_dir: Path, signum: int) -> None:
    with terminal(environment, notebook_dir) as child:
        assert containers()
        os.kill(child.pid, signum)
        child.expect(pexpect.EOF)
        until(lambda: containers() == [])


@pytest.mark.docker
def test_a_window_that_is_closed_ends_its_container(environment: str, notebook_dir: Path) -> None:
    with terminal(environment, notebook_dir) as child:
        child.sendline("sleep 1000")
        child.ptyproc.fileobj.close()
        until(lambda: containers() == [])


@pytest.mark.docker
def test_much_goes_in_and_out(environment: str, notebook_dir: Path) -> None:
    size = 8 << 20
    script = b"cat | tee copy\n" + b"0123456789abcde\n" * (size // 16)
    done = subprocess.run([*COMMAND, environment], input=script, capture_output=True, cwd=notebook_dir, check=False)
    assert done.returncode == 0, done.stderr
    # The shell reads ahead no further than its line, because its input is a pipe.
    assert len(done.stdout) == (notebook_dir / "copy").stat().st_size == size


@pytest.mark.docker
def test_a_reader_that_goes_leaves_nothing(environment: str, notebook_dir: Path) -> None:
    line = f"{' '.join(COMMAND)} {environment} | head -n 1"
    done = subprocess.run(
        line, input="yes", shell=True, capture_output=True, text=True, cwd=notebook_dir, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == "y\n"
    until(lambda: containers() == [])


@pytest.fixture
def kernel(environment: str, notebook_dir: Path) -> Iterator[str]:
    """The id of a running kernel. Its manager's loop runs in a thread, as a client's would in a process of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE_S)

    manager = AsyncKernelManager(kernel_name=environment)
    run(manager.start_kernel(cwd=str(notebook_dir)))
    yield manager.kernel_id
    run(manager.shutdown_kernel(now=True))
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.docker
def test_a_kernel_s_container_is_entered_as_its_user(kernel: str, notebook_dir: Path) -> None:
    (found,) = containers("kernel")
    about = docker_images.engine().inspect_container(found["Id"])
    groups = {int(gid) for gid in about["HostConfig"]["GroupAdd"] or []}
    done = piped(kernel[:13], "hostname; pwd; id -u; id -g; id -G; cat /proc/self/status", notebook_dir)
    hostname, workdir, uid, gid, every, *status = done.stdout.splitlines()
    assert (hostname, workdir) == (about["Config"]["Hostname"], str(notebook_dir)), done
    assert about["Config"]["User"] == f"{uid}:{gid}"
    assert {int(each) for each in every.split()} - {int(gid)} == groups - {int(gid)}
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert len(containers("kernel")) == 1
    refused = piped(kernel, "", notebook_dir, "--gpus", "1")
    assert (refused.returncode, "runs already" in refused.stderr) == (1, True)


@pytest.mark.docker
@pytest.mark.parametrize("signum", [0, signal.SIGHUP, signal.SIGKILL])
def test_a_closed_terminal_leaves_the_kernel_and_nothing_else(kernel: str, notebook_dir: Path, signum: int) -> None:
    (found,) = containers("kernel")

    def processes() -> str:
        top = docker_images.engine().top(found["Id"], "-o pid,args")
        return json.dumps(top["Processes"])

    before = processes().count('["')
    with terminal(kernel, notebook_dir) as child:
        child.sendline("sleep 4321 & sleep 1234")
        until(lambda: "sleep 4321" in processes() and "sleep 1234" in processes())
        os.kill(child.pid, signum) if signum else child.close(force=True)
        until(lambda: processes().count('["') == before)
    assert "boot.py" in processes()


@pytest.mark.docker
def test_a_job_s_container_is_entered(image: str, notebook_dir: Path) -> None:
    (notebook_dir / "train.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    command = [*COMMAND[:-1], "run", "train.py", "--image", image, "--detach"]
    job_id = subprocess.run(command, cwd=notebook_dir, capture_output=True, text=True, check=True).stdout.strip()
    try:
        script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null"
        until(lambda: "train.py" in piped(job_id[:13], script, notebook_dir).stdout)
    finally:
        subprocess.run([*COMMAND[:-1], "stop", job_id], check=True, capture_output=True)
        subprocess.run([*COMMAND[:-1], "rm", job_id], check=True, capture_output=True)


def test_an_environment_of_processes_gets_a_shell_on_the_host(notebook_dir: Path) -> None:
    EnvironmentManager().put(Environment("sh-plain", engine="process"))
    done = piped("sh-plain", "echo here $0; exit 3", notebook_dir)
    assert done.returncode == 3
    assert "a shell on the host" in done.stderr
    assert done.stdout.startswith("here ")


@pytest.mark.docker
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nobody"], "There is no environment, running kernel, running job or image nobody."),
        ([new_id()], "There is no environment"),
        (["sh-missing"], "jupyter dlenv images pull dlenv-test/nowhere:1"),
        (["sh-bare", "--gpus", "2;id"], "--gpus takes"),
    ],
)
def test_bad_words_are_told(environment: str, notebook_dir: Path, words: list[str], says: str) -> None:
    EnvironmentManager().put(Environment("sh-missing", image="dlenv-test/nowhere:1"))
    config = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "jupyter_dlenv_config.json"
    config.write_text(json.dumps({"DLEnv": {"pull": "never"}}))
    try:
        done = piped(words[0], "", notebook_dir, *words[1:])
    finally:
        config.unlink()
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.docker
def test_an_error_can_be_read_before_the_window_closes(notebook_dir: Path) -> None:
    child = pexpect.spawn(COMMAND[0], [*COMMAND[1:], "nobody", "--stay"], timeout=PATIENCE_S, encoding="utf-8")
    child.expect("image nobody.*Press Enter to close")
    assert child.isalive()
    child.sendline("")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1


@pytest.mark.docker
def test_an_image_without_a_shell_is_told(image: str, notebook_dir: Path) -> None:
    bare = docker_images.image_from(f"FROM {image}\nRUN rm -f /bin/sh /bin/bash /bin/dash\n", "shell-less")
    done = piped(bare, "echo", notebook_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"The image {bare} has no /bin/sh" in done.stderr
    assert containers() == []
