"""Processes side by side, where no launcher starts them."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shims import Shims, python, until

from jupyter_dlenv.engines.folder import RunFolder, ShimResult
from jupyter_dlenv.spec import End

SLEEP = "import time\nprint('ready')\ntime.sleep(600)"
STUBBORN = "import signal\nsignal.signal(15, signal.SIG_IGN)\nsignal.signal(2, signal.SIG_IGN)\n" + SLEEP


@pytest.fixture
def shims(tmp_path: Path) -> Iterator[Shims]:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    made = Shims(folder)
    yield made
    made.end()


def process(code: str, name: str = "", *, serves: bool = False, **env: str) -> dict[str, Any]:
    """Return one process of a launch."""
    return {"argv": python(code), "env": env, "name": name, "serves": serves}


def run(shims: Shims, *processes: dict[str, Any], **launch: Any) -> ShimResult:
    """Run processes to their end."""
    shims.prepare(0, processes=processes, **launch)
    shims.start()
    return shims.finish()[0]


def test_each_process_has_files_of_its_own_and_global_numbers(shims: Shims) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    assert run(shims, process(code), process(code), first_rank=4).exit_code == 0
    assert sorted(shims.lines) == ["[4] err", "[4] out", "[5] err", "[5] out"]
    assert (shims.folder.path / "ranks" / "1" / "stderr.log").read_text() == "err\n"
    assert shims.folder.launcher_text() == ""


def test_rank_0_has_no_prefix(shims: Shims) -> None:
    run(shims, process("print('a')"), process("print('b')"))
    assert sorted(shims.lines) == ["[1] b", "a"]


def test_processes_run_side_by_side_in_sessions_of_their_own(shims: Shims, tmp_path: Path) -> None:
    code = f"""
import os, time
from pathlib import Path
mine, other = Path({str(tmp_path)!r}, os.environ["ME"]), Path({str(tmp_path)!r}, os.environ["OTHER"])
mine.touch()
while not other.exists(): time.sleep(0.01)
print(os.getpid() == os.getsid(0) == os.getpgid(0), os.getcwd(), os.environ["COMMON"], os.environ["TOKEN"])
print(sorted(os.listdir("/proc/self/fd"))[:4])
"""
    shims.folder.write_secrets({"TOKEN": "secret"})
    first, second = process(code, ME="a", OTHER="b"), process(code, ME="b", OTHER="a", COMMON="changed")
    assert run(shims, first, second, env={"COMMON": "common"}, cwd=str(tmp_path)).exit_code == 0
    assert f"True {tmp_path} common secret" in shims.lines
    assert f"[1] True {tmp_path} changed secret" in shims.lines
    # Input, two outputs, and the list itself: nothing of the shim's is open.
    assert shims.lines.count("['0', '1', '2', '3']") == 1


def test_the_first_that_fails_ends_the_others(shims: Shims) -> None:
    crash = "import time\ntime.sleep(0.5)\nraise SystemExit(9)"
    result = run(shims, process(SLEEP), process(crash, "worker 0"), process(STUBBORN), first_rank=2)
    assert (result.exit_code, result.signal, result.cause) == (9, None, "exited")
    assert shims.folder.launcher_text() == "[dlenv] rank 3 (worker 0) failed first: exit code 9\n"


def test_a_signal_is_told_as_shells_do(shims: Shims) -> None:
    result = run(shims, process("import os; os.kill(os.getpid(), 11)"), process(SLEEP))
    assert result.exit_code == 139
    assert shims.folder.launcher_text() == "[dlenv] rank 0 failed first: exit code 139\n"


def test_a_process_that_cannot_start_fails_first(shims: Shims) -> None:
    absent = {"argv": ["no-such-program"], "env": {}, "name": ""}
    never = process("print('never')")
    assert run(shims, process(SLEEP), absent, never).exit_code == 127
    text = "[dlenv] no-such-program: no such program.\n[dlenv] rank 1 failed first: exit code 127\n"
    assert shims.folder.launcher_text() == text
    assert "[2] never" not in shims.lines


def test_the_leader_s_good_end_is_the_end(shims: Shims) -> None:
    result = run(shims, process("import time; time.sleep(0.5)", "chief"), process(SLEEP, "ps 0"), ends=End.LEADER)
    assert (result.exit_code, result.cause) == (0, "exited")
    assert shims.folder.launcher_text() == ""


def test_nobody_leads_on_a_later_node(shims: Shims) -> None:
    last = process("import time; time.sleep(1); print('last')")
    assert run(shims, process("pass"), last, ends=End.LEADER, first_rank=2).exit_code == 0
    assert shims.lines == ["[3] last"]


def test_servers_end_with_the_last_worker(shims: Shims) -> None:
    worker = process("import time; time.sleep(0.5); print('trained')")
    result = run(shims, process(SLEEP, serves=True), worker, worker)
    assert result.exit_code == 0
    assert shims.lines.count("[1] trained") == shims.lines.count("[2] trained") == 1


def test_a_server_that_fails_is_a_failure(shims: Shims) -> None:
    assert run(shims, process("raise SystemExit(4)", serves=True), process(SLEEP)).exit_code == 4


def test_a_server_may_end_well_early(shims: Shims) -> None:
    assert run(shims, process("pass", serves=True), process("import time; time.sleep(0.5)")).exit_code == 0


@pytest.mark.parametrize("how", ["stop", "SIGINT", "SIGTERM"])
def test_a_stop_reaches_all_and_is_nobody_s_failure(shims: Shims, how: str) -> None:
    code = "import signal\nsignal.signal(2, signal.SIG_DFL)\n" + SLEEP
    shims.prepare(0, processes=[process(code), process(code)])
    shims.start()
    until(lambda: sorted(shims.lines) == ["[1] ready", "ready"], "both")
    if how == "stop":
        shims.folder.request_stop()
    else:
        shims.running[0].send_signal(getattr(signal, how))
    result = shims.finish()[0]
    assert (result.exit_code, result.cause) == (130, "stopped")
    assert shims.folder.launcher_text() == ""


def test_a_kill_reaches_all(shims: Shims) -> None:
    shims.prepare(0, processes=[process(STUBBORN), process(STUBBORN)], grace_s=(600, 600))
    shims.start()
    until(lambda: sorted(shims.lines) == ["[1] ready", "ready"], "both")
    shims.folder.request_stop(kill=True)
    assert shims.finish()[0].exit_code == 137
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if belongs(path, shims)]


def belongs(environ: Path, shims: Shims) -> bool:
    """Tell whether a living process is one of the test's."""
    try:
        return str(shims.folder.path).encode() in environ.parent.joinpath("cmdline").read_bytes()
    except OSError:
        return False


def test_other_signals_reach_all(shims: Shims) -> None:
    code = "import signal, time\nsignal.signal(10, lambda *_: print('got it'))\n" + SLEEP.replace("600", "1")
    shims.prepare(0, processes=[process(code), process(code)])
    shims.start()
    until(lambda: sorted(shims.lines) == ["[1] ready", "ready"], "both")
    shims.running[0].send_signal(signal.SIGUSR1)
    shims.finish()
    assert sorted(shims.lines) == ["[1] got it", "[1] ready", "got it", "ready"]


def test_a_folder_that_takes_no_files_leaves_the_processes_alone(shims: Shims) -> None:
    (shims.folder.path / "ranks").rmdir()
    (shims.folder.path / "ranks").write_text("in the way")
    assert run(shims, process("print('ran')")).exit_code == 0
    assert re.fullmatch(r"\[dlenv\] No raw files for rank 0: .*\nran\n", shims.folder.launcher_text())


def test_descriptors_that_a_command_would_inherit_are_inherited(shims: Shims, tmp_path: Path) -> None:
    held = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(held, True)
    code = f"import os; print(os.fstat({held}).st_ino == os.stat({str(tmp_path / 'lock')!r}).st_ino)"
    argv = [sys.executable, "-I", "-S", "-c", f"import os; os.execvp({python(code)[0]!r}, {python(code)!r})"]
    shims.prepare(0, processes=[{"argv": argv, "env": {}, "name": ""}])
    shims.start(inherited=(held,))
    shims.finish()
    os.close(held)
    assert shims.lines == ["True"]
