"""Several replicas on one host: one log, one end, and nobody outside who would have to see to it."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shims import Shims, python, until

from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.shim import network
from jupyter_dlenv.errors import InvalidRequest
from jupyter_dlenv.spec import End, RankLogs

SLEEP = "import time\nprint('ready')\ntime.sleep(600)"


@pytest.fixture
def gang(tmp_path: Path) -> Iterator[Callable[[int], Shims]]:
    made = []

    def make(replicas: int) -> Shims:
        folder = RunFolder(tmp_path / "run")
        folder.create(replicas=replicas)
        made.append(Shims(folder, replicas))
        return made[-1]

    yield make
    for shims in made:
        shims.end()


def test_the_log_holds_the_lines_of_all_replicas(gang: Callable[[int], Shims]) -> None:
    shims = gang(3)
    for index in range(3):
        shims.prepare(index, python(f"print('line of {index}')"), note="Attempt 2 of 3.")
    shims.start()
    results = shims.finish()
    assert [(result.exit_code, result.cause) for result in results] == [(0, "exited")] * 3
    assert shims.lines[0] == "[dlenv] Attempt 2 of 3."
    assert sorted(shims.lines[1:]) == ["[1] line of 1", "[2] line of 2", "line of 0"]
    assert [result.log_bytes for result in results] == [len(shims.log), 0, 0]
    assert shims.folder.first_failure() is None


def test_ranks_of_all_replicas_have_global_numbers(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    code = (
        "import os, sys\nfolder = sys.argv[1] + '/ranks/run/attempt_0/'\n"
        "for rank in '01':\n"
        " os.makedirs(folder + rank)\n"
        " open(folder + rank + '/stdout.log', 'w').write(f'{rank}\\n')\n"
        "print('launcher')"
    )
    for index in range(2):
        path = shims.folder.node(index).path
        logs = RankLogs("ranks/*/attempt_*/*/std*.log", -2)
        shims.prepare(index, python(code, str(path)), rank_logs=logs, first_rank=2 * index)
    shims.start()
    shims.finish()
    assert sorted(shims.lines) == sorted(["0", "[1] 1", "[2] 0", "[3] 1", "launcher", "[node 1] launcher"])


def test_replica_0_goes_on_merging_until_the_last_has_ended(gang: Callable[[int], Shims], tmp_path: Path) -> None:
    shims = gang(2)
    shims.prepare(0, python("print('short')"))
    code = "import os, sys, time\nprint('begun')\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)\n"
    shims.prepare(1, python(code + "print('more\\n\\r50%', end='')", str(tmp_path / "go on")))
    shims.start()
    until(lambda: {"short", "[1] begun"} <= set(shims.lines), "both")
    time.sleep(1)
    assert shims.folder.result() is None
    (tmp_path / "go on").touch()
    shims.finish()
    assert sorted(shims.lines) == ["[1] 50%", "[1] begun", "[1] more", "short"]


def test_one_fails_all_stop(gang: Callable[[int], Shims]) -> None:
    shims = gang(3)
    shims.prepare(0, python(SLEEP))
    shims.prepare(1, python("import time\ntime.sleep(1)\nraise SystemExit(7)"))
    shims.prepare(2, python(SLEEP))
    shims.start()
    results = shims.finish()
    assert [(result.exit_code, result.cause) for result in results] == [(143, "gang"), (7, "exited"), (143, "gang")]
    assert shims.folder.first_failure() == 1
    assert json.loads((shims.folder.path / "first").read_text())["at"] <= time.time()


def test_a_replica_that_cannot_start_stops_all(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    shims.prepare(0, python(SLEEP))
    shims.prepare(1, ["no-such-program"])
    shims.start()
    assert [(result.exit_code, result.cause) for result in shims.finish()] == [(143, "gang"), (127, "exited")]
    assert "[1] [dlenv] no-such-program: no such program." in shims.lines


@pytest.mark.parametrize("victim", [0, 1])
def test_a_replica_that_vanishes_stops_all(gang: Callable[[int], Shims], victim: int) -> None:
    shims = gang(2)
    for index in range(2):
        shims.prepare(index, python(SLEEP))
    shims.start()
    until(lambda: all((shims.folder.node(index).path / "alive").exists() for index in range(2)), "both")
    shims.says(b"[1] ready")
    shims.running[victim].send_signal(signal.SIGKILL)
    other = 1 - victim
    assert shims.running[other].wait(30) == 143
    result = shims.folder.node(other).result()
    assert result
    assert result.cause == "gang"
    for process in Path("/proc").glob("[0-9]*"):  # the command of the killed shim went on alone
        environ = process / "environ"
        if environ.exists() and os.access(environ, os.R_OK) and SLEEP.encode() in (process / "cmdline").read_bytes():
            os.kill(int(process.name), signal.SIGKILL)


def test_a_stop_reaches_all(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    for index in range(2):
        shims.prepare(index, python("import signal\nsignal.signal(2, signal.SIG_DFL)\n" + SLEEP))
    shims.start()
    shims.says(b"[1] ready")
    until(lambda: "ready" in shims.lines, "replica 0")
    shims.folder.request_stop()
    assert [(result.exit_code, result.cause) for result in shims.finish()] == [(130, "stopped")] * 2
    assert shims.folder.first_failure() is None


def test_the_leader_s_end_is_the_end(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    shims.prepare(0, python("import time\ntime.sleep(1)"), ends=End.LEADER)
    shims.prepare(1, python(SLEEP), ends=End.LEADER)
    shims.start()
    results = shims.finish()
    assert [(result.exit_code, result.cause) for result in results] == [(0, "exited"), (0, "done")]
    assert results[1].signal == signal.SIGTERM


def test_a_leader_that_fails_is_a_failure(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    shims.prepare(0, python("raise SystemExit(3)"), ends=End.LEADER)
    shims.prepare(1, python(SLEEP), ends=End.LEADER)
    shims.start()
    assert [(result.exit_code, result.cause) for result in shims.finish()] == [(3, "exited"), (143, "gang")]


@pytest.mark.parametrize("server", [0, 1])
def test_replicas_that_serve_end_with_the_others(gang: Callable[[int], Shims], server: int) -> None:
    shims = gang(3)
    for index in range(3):
        serves = index in (server, 2)
        code = SLEEP if serves else "import time; time.sleep(1); print('trained')"
        shims.prepare(index, processes=[{"argv": python(code), "env": {}, "name": "", "serves": serves}])
    shims.start()
    causes = [result.cause for result in shims.finish()]
    assert causes == ["done" if index in (server, 2) else "exited" for index in range(3)]
    assert [result.exit_code for result in shims.folder.results(3) if result] == [0, 0, 0]


def test_a_command_waits_for_its_peers(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    code = "import os, sys; print('peer there:', os.path.exists(sys.argv[1]))"
    shims.prepare(0, python(code, str(shims.folder.node(1).path / "alive")), peers=["localhost"])
    shims.prepare(1, python("pass"))
    shims.start(0)
    time.sleep(1)
    assert shims.lines == []
    shims.start(1)
    shims.finish()
    assert shims.lines == ["peer there: True"]


def test_a_wait_for_peers_can_be_stopped(gang: Callable[[int], Shims]) -> None:
    shims = gang(2)
    shims.prepare(0, python("print('ran')"), peers=["localhost"])
    shims.start(0)
    time.sleep(0.5)
    shims.folder.request_stop(kill=True)
    (shims.folder.node(1).path / "result.json").write_text('{"exit_code": 0}')
    assert shims.running[0].wait(30) == 137
    assert shims.lines == []


def test_peers_without_an_address_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(network, "PATIENCE_S", 0.2)
    monkeypatch.setattr(network, "_address", {"node-0": "10.0.0.1"}.get)
    assert network.wait_for(os.fsencode(tmp_path), 0, ["node-0", "node-1"]) == 0
    assert capfd.readouterr().out == "[dlenv] These nodes have no address after 0 s: node-1.\n"


def test_the_own_address_is_filled_in(gang: Callable[[int], Shims]) -> None:
    shims = gang(1)
    shims.prepare(0, ["sh", "-c", "echo $HERE; echo $THERE"], env={"HERE": "{own-ip}", "THERE": "tcp://{own-ip}:1/"})
    shims.start()
    shims.finish()
    address, there = shims.lines
    assert ipaddress.ip_address(address).version == 4
    assert there == f"tcp://{address}:1/"


def test_a_loopback_address_is_nobody_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_address", lambda name: {"peer": "10.1.2.3"}.get(name, "127.0.1.1"))
    monkeypatch.setattr(network, "_towards", {"10.1.2.3": "10.1.2.9", network.SOMEWHERE: "192.168.1.2"}.get)
    assert network.own_address(["peer"]) == "10.1.2.9"
    assert network.own_address([]) == "192.168.1.2"
    monkeypatch.setattr(network, "_towards", lambda address: None)
    assert network.own_address([]) == "127.0.1.1"


def test_processes_must_have_a_command(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(InvalidRequest):
        folder.write_launch([], "/", processes=[{"argv": []}])
    with pytest.raises(InvalidRequest):
        folder.write_launch([], "/", processes=[{"argv": ["a"], "env": {"A=": "b"}}])


def test_a_link_in_the_place_of_a_replica_s_folder_is_not_followed(
    gang: Callable[[int], Shims], tmp_path: Path
) -> None:
    shims = gang(2)
    node = shims.folder.node(1)
    elsewhere = tmp_path / "elsewhere"
    node.path.rename(elsewhere)
    (elsewhere / "result.json").write_text("{}")
    (elsewhere / "raw" / "launcher.log").write_text("stolen")
    node.path.symlink_to(elsewhere)
    assert node.launcher_text() == ""
    assert shims.folder.results(2) == [None, None]
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        node.write_secrets({"A": "b"})


@pytest.mark.parametrize("content", ["", "[]", '{"index": -1}', '{"index": true}', '{"index": 99999}', "{}"])
def test_garbage_names_no_first_failure(gang: Callable[[int], Shims], content: str) -> None:
    shims = gang(1)
    (shims.folder.path / "first").write_text(content)
    assert shims.folder.first_failure() is None
