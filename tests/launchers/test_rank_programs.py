"""The small programs that launchers put around a rank: raw files, ssh's stand-in, mpi4py around a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jupyter_dlenv.engines.shim import FOLDER

PATIENCE_S = 60
START = (sys.executable, "-I", "-S")


def own(name: str, *words: str) -> list[str]:
    """Return the command line of one of them, as launchers write it."""
    return [*START, f"{FOLDER}/{name}.py", *words]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Raw files ------------------------------------------------------------------------------------------------------------


def redirected(folder: Path, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the rank that RANK names."""
    argv = own("redirect", str(folder), next(iter(env), "RANK"), *command)
    return subprocess.run(argv, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=False)


def test_a_rank_writes_files_of_its_own(tmp_path: Path) -> None:
    done = redirected(tmp_path, "sh", "-c", "echo out; echo err >&2; exit 3", RANK="12")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert (tmp_path / "12/stdout.log").read_text() == "out\n"
    assert (tmp_path / "12/stderr.log").read_text() == "err\n"


def test_its_local_rank_is_filled_in(tmp_path: Path) -> None:
    words = ("--local_rank={local_rank}", "log_{local_rank}.txt", "--local_rank={local_rank}")
    redirected(tmp_path, "echo", *words, LOCAL_RANK="1", RANK="5")
    assert (tmp_path / "1/stdout.log").read_text() == " ".join(["--local_rank=1", *words[1:]]) + "\n"


def test_nothing_else_of_a_command_is_filled_in(tmp_path: Path) -> None:
    words = ("--local_rank={local_rank}", "log_{local_rank}.txt")
    redirected(tmp_path, "echo", *words, RANK="5", LOCAL_RANK="1")
    assert (tmp_path / "5/stdout.log").read_text() == " ".join(words) + "\n"


@pytest.mark.parametrize("rank", [{}, {"RANK": ""}, {"RANK": "../1"}])
def test_without_a_rank_nothing_runs(tmp_path: Path, rank: dict[str, str]) -> None:
    done = redirected(tmp_path, "echo", "hello", **rank)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("dlenv: RANK is not set")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_loses_no_line(tmp_path: Path) -> None:
    (tmp_path / "0").write_text("in the way")
    done = redirected(tmp_path, "echo", "hello", RANK="0")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "no raw log" in done.stderr


def test_a_missing_program_is_named_in_its_file(tmp_path: Path) -> None:
    assert redirected(tmp_path, "no-such-program", RANK="0").returncode == 127
    assert "no-such-program: No such file" in (tmp_path / "0/stderr.log").read_text()


# The remote shell -----------------------------------------------------------------------------------------------------


class Nodes:
    """One that waits for commands, and one that sends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def remote(self, name: str = "node-1") -> subprocess.Popen[str]:
        """Start the one that waits."""
        return self._start(own("remote", str(self.folder), name))

    def rsh(self, *words: str) -> subprocess.Popen[str]:
        """Start the one that sends."""
        return self._start(own("rsh", str(self.folder), *words))

    def _start(self, argv: list[str]) -> subprocess.Popen[str]:
        self.started.append(
            subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
        return self.started[-1]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path / "mailbox")
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("remote_first", [True, False])
def test_a_command_runs_on_the_other_node(nodes: Nodes, remote_first: bool) -> None:
    starts = [nodes.remote, lambda: nodes.rsh("node-1", "echo one;", "echo $((1 + 1)) \u00e9;", "exit 7")]
    first, second = [start() for start in (starts if remote_first else reversed(starts))]
    remote, rsh = (first, second) if remote_first else (second, first)
    assert rsh.wait(PATIENCE_S) == 7
    assert remote.communicate(timeout=PATIENCE_S) == ("one\n2 \u00e9\n", "")
    assert remote.returncode == 0, "its exit code is for the sender"


def test_each_node_runs_its_own_command(nodes: Nodes) -> None:
    remotes = [nodes.remote(name) for name in ("node-1", "node-2")]
    senders = [nodes.rsh(f"node-{number}", f"echo {number}") for number in (2, 1)]
    assert [rsh.wait(PATIENCE_S) for rsh in senders] == [0, 0]
    assert [remote.communicate(timeout=PATIENCE_S)[0] for remote in remotes] == ["1\n", "2\n"]


@pytest.mark.parametrize("asked", ["rsh", "remote"])
def test_a_signal_on_either_side_ends_the_command(nodes: Nodes, asked: str) -> None:
    pid = nodes.folder.parent / "pid"
    command = f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"
    both = {"remote": nodes.remote(), "rsh": nodes.rsh("node-1", command)}
    wait_until(pid.exists)
    both[asked].send_signal(signal.SIGTERM)
    assert both[asked].wait(PATIENCE_S) == 143
    assert both["rsh"].wait(PATIENCE_S) == 143, "a shell's code for the signal"
    assert both["remote"].wait(PATIENCE_S) == (143 if asked == "remote" else 0)
    assert not Path(f"/proc/{int(pid.read_text())}").exists()


def test_a_node_that_nobody_calls_ends_when_asked(nodes: Nodes) -> None:
    remote = nodes.remote()
    with pytest.raises(subprocess.TimeoutExpired):
        remote.wait(0.5)
    remote.terminate()
    assert remote.wait(PATIENCE_S) == 143


@pytest.mark.parametrize("words", [(), ("node-1",), ("../node-1", "true"), ("-l", "true")])
def test_what_names_no_host_is_refused(nodes: Nodes, words: tuple[str, ...]) -> None:
    rsh = nodes.rsh(*words)
    assert rsh.wait(PATIENCE_S) == 255
    assert not nodes.folder.exists()


# mpi4py around a script -----------------------------------------------------------------------------------------------

STAND_IN = "import sys\ndef main(): print('mpi4py runs', sys.argv[1:], sys.path[0])\n"


def ranked(cwd: Path, *words: str, **env: str) -> str:
    """Return what a program says as a rank of MPI."""
    argv = [sys.executable, "-s", f"{FOLDER}/mpi_rank.py", *words]
    return subprocess.run(argv, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout


def test_mpi4py_runs_the_program_where_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "site/mpi4py").mkdir(parents=True)
    (tmp_path / "site/mpi4py/__init__.py").touch()
    (tmp_path / "site/mpi4py/run.py").write_text(STAND_IN)
    said = ranked(tmp_path, "-m", "train", "--lr", "1", PYTHONPATH=str(tmp_path / "site"))
    assert said == f"mpi4py runs ['-m', 'train', '--lr', '1'] {tmp_path}\n"


def test_any_other_program_runs_plainly(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; print(__name__, sys.argv, sys.path[0])")
    assert ranked(tmp_path, "train.py", "-x") == f"__main__ ['train.py', '-x'] {tmp_path}\n"
