"""A log whose writer was killed, or whose disk was full, is completed: every line once, in each rank's order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shims import PATIENCE_S, Shims, mounted_disk, python, until

from jupyter_dlenv.engines import recover
from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.engines.recover import complete
from jupyter_dlenv.engines.shim.lines import WRITTEN_ANEW
from jupyter_dlenv.engines.shim.merged import ENTRY_BYTES, Entry, pack, unpack

WRITER = """
import os, random, sys, time
rank, pick = int(sys.argv[1]), random.Random(int(sys.argv[1]))
for begin in range(0, {lines}, 1000):
    block = b"".join(b"%d %07d %s\\n" % (rank, begin + n, b"x" * pick.randint(0, 80)) for n in range(1000))
    while block:
        size = pick.randint(1, 70000)
        os.write(1, block[:size])
        block = block[size:]
os.write(1, b"the end, without a newline")
time.sleep(600)
"""


@pytest.fixture
def shims(tmp_path: Path) -> Iterator[Shims]:
    yield from made(tmp_path / "run", 2)


def made(path: Path, replicas: int) -> Iterator[Shims]:
    """Yield shims of a fresh folder."""
    folder = RunFolder(path)
    folder.create(replicas=replicas)
    shims = Shims(folder, replicas)
    yield shims
    for process in shims.running.values():
        kill_all(process.pid)
        process.wait(PATIENCE_S)


def kill_all(root: int) -> None:
    """Kill a process and all its descendants, at once as far as possible."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def expected(folder: RunFolder, name: str, prefix: bytes = b"") -> list[bytes]:
    """Return what the log must hold of one raw file."""
    return [prefix + line for line in (folder.path / name).read_bytes().splitlines()]


def of_rank(log: bytes, rank: int) -> list[bytes]:
    """Return a rank's lines of the log."""
    lines = log.splitlines()
    return [line for line in lines if line.startswith(b"[") == bool(rank)]


def assert_whole(shims: Shims) -> None:
    """Fail where the log is not all that the ranks wrote, each in its order, nothing twice."""
    log = shims.log
    assert of_rank(log, 0) == expected(shims.folder, "ranks/0/stdout.log")
    assert of_rank(log, 1) == expected(shims.folder, "ranks/1/stdout.log", b"[1] ")


def two_ranks(shims: Shims, lines: int = 200_000, **launch: Any) -> None:
    """Start a shim around two writers."""
    code = WRITER.format(lines=lines // 2)
    processes = [{"argv": python(code, str(rank)), "env": {}, "name": ""} for rank in range(2)]
    shims.prepare(0, processes=processes, **{"replicas": 1, **launch})
    shims.start(0)


ROUNDS = 12


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("whom", ["the shim", "all"])
def test_a_killed_shim_loses_and_doubles_nothing(shims: Shims, seed: int, whom: str) -> None:
    two_ranks(shims)
    until(lambda: shims.log, "the first line")
    time.sleep(random.Random(seed).uniform(0, 0.4))
    shim = shims.running[0]
    if whom == "all":
        kill_all(shim.pid)
    else:
        ranks = [pid for pid in descendants(shim.pid) if pid != shim.pid]
        shim.kill()
        raw = [shims.folder.path / "ranks" / str(rank) / "stdout.log" for rank in range(2)]
        until(lambda: all(path.read_bytes().endswith(b"without a newline") for path in raw), "the ranks' last lines")
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shim.wait(PATIENCE_S)
    before = len(shims.log)
    added = complete(shims.folder, 1)
    assert len(shims.log) == before + added
    assert_whole(shims)
    assert complete(shims.folder, 1) == 0
    assert_whole(shims)


def descendants(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(word) for word in task.read_text().split()]
    return found


def test_followers_see_what_was_completed(shims: Shims) -> None:
    two_ranks(shims)
    until(lambda: shims.log, "the first line")
    _data, cursor = shims.folder.read_log()
    begin = shims.folder.offset(cursor)
    kill_all(shims.running[0].pid)
    shims.running[0].wait(PATIENCE_S)
    complete(shims.folder, 1)
    rest = b""
    while (piece := shims.folder.read_log(cursor, final=True))[0]:
        rest, cursor = rest + piece[0], piece[1]
    assert shims.log[begin:] == rest


def test_a_log_that_ended_as_it_should_needs_nothing(shims: Shims) -> None:
    code = "print('a'); print('bar\\r\\x1b[K', end=''); import sys; print('50%\\r', end='', file=sys.stderr)"
    shims.prepare(0, python(code), replicas=2)
    shims.prepare(1, python("print('b', end='')"), replicas=2)
    shims.start()
    shims.finish()
    before = shims.log
    assert sorted(before.splitlines())[0] == b"50%" or b"a\n" in before
    assert complete(shims.folder, 2) == 0
    assert shims.log == before


def test_all_replicas_are_completed(shims: Shims) -> None:
    for index in range(2):
        code = "import time\nprint('ready')\ntime.sleep(1.5)\nprint('second')\ntime.sleep(600)"
        shims.prepare(index, python(code))
    shims.start()
    until(lambda: b"[1] ready\n" in shims.log and b"\nready\n" in b"\n" + shims.log, "both")
    others = [pid for pid in descendants(shims.running[0].pid) if pid != shims.running[0].pid]
    shims.running[0].kill()
    raw = shims.folder.path / "raw" / "launcher.log"
    until(lambda: b"second" in raw.read_bytes(), "the second line")
    kill_all(shims.running[1].pid)
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    for process in shims.running.values():
        process.wait(PATIENCE_S)
    complete(shims.folder, 2)
    there = (shims.folder.node(1).path / "raw" / "launcher.log").read_text().splitlines()
    assert shims.lines.count("ready") == shims.lines.count("second") == 1
    assert [line for line in shims.lines if line.startswith("[1] ")] == [f"[1] {line}" for line in there]


# Without a shim -------------------------------------------------------------------------------------------------------


@pytest.fixture
def left(tmp_path: Path) -> Shims:
    """A folder that a killed shim left: two raw lines and a half, and nothing merged."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    shims = Shims(folder)
    shims.prepare(0, ["true"])
    (folder.path / "raw" / "launcher.log").write_bytes(b"one\r\ntwo\n10%\r20%")
    return shims


def entry(**values: Any) -> bytes:
    """Return an entry for the launcher's file."""
    defaults = {"begin": 0, "end": 0, "log_begin": 0, "log_end": 0, "cut_before": False, "cut_after": False}
    return pack(Entry(**{"path": b"raw/launcher.log", **defaults, **values}))


def test_what_was_never_merged(left: Shims) -> None:
    assert complete(left.folder) == 12
    assert left.log == b"one\ntwo\n20%\n"
    assert complete(left.folder) == 0
    assert left.folder.open_lines() == {}


@pytest.mark.parametrize("there", range(9))
def test_a_piece_that_was_partly_written(left: Shims, there: int) -> None:
    (left.folder.path / "log").write_bytes(b"before\n" + b"one\ntwo\n"[:there])
    (left.folder.path / "merged").write_bytes(entry(end=9, log_begin=7, log_end=15))
    assert complete(left.folder) == 12 - there
    assert left.log == b"before\none\ntwo\n20%\n"
    assert complete(left.folder) == 0


ANEW = WRITTEN_ANEW.decode().strip()


@pytest.mark.parametrize(
    ("merged", "new", "lines"),
    [
        ({"end": 9}, b"new\n", [ANEW, "new"]),  # shorter than what was merged of it
        ({"end": 9}, b"", [ANEW]),
        ({"end": 9, "check": b"one\r\ntwo\n"}, b"one\r\ntwo\nnew\n", ["new"]),
        ({"end": 9, "check": b"one\r\ntwo\n"}, b"new\nand more\n", [ANEW, "new", "and more"]),
        ({"end": 9, "check": b"one\r\ntwo\n"}, b"new\n\0\0\0\0\0\0and more\n", [ANEW, "new", "and more"]),
        ({"end": 9, "anew": True}, b"new\n", ["new"]),
        ({"end": 0, "anew": True}, b"new\n\0\0\0last\n", ["new", "last"]),
        ({"end": 9, "cut_after": True}, b"new\n", [ANEW, "new"]),
        ({"end": 9, "check": b"e\r\ntwo\n", "log_end": 20}, b"new\nand more\n", [ANEW, "new", "and more"]),
    ],
)
def test_a_raw_file_that_was_emptied_since_is_read_from_the_start(
    left: Shims, merged: dict[str, Any], new: bytes, lines: list[str]
) -> None:
    (left.folder.path / "log").write_bytes(b"one\ntwo\n")
    (left.folder.path / "merged").write_bytes(entry(**{"log_end": 8, **merged}))
    (left.folder.path / "raw" / "launcher.log").write_bytes(new)
    complete(left.folder)
    assert left.lines == ["one", "two", *lines]
    assert complete(left.folder) == 0


@pytest.mark.parametrize("count", [1, 1000])
@pytest.mark.parametrize("seen", [True, False])
def test_a_killed_shim_and_an_output_that_is_emptied(shims: Shims, seen: bool, count: int) -> None:
    """It may have been emptied before the kill, when the shim saw it, and is so after the kill."""
    begin = "import os, time\ndef wait(name):\n    while not os.path.exists(name): time.sleep(.01)\n"
    empty = f"os.system('echo again > /dev/stdout')\nfor i in range({count}): print('late', i)\n"
    steps = f"for i in range(50): print('early', i)\nwait('killed')\n{empty}print('last')\ntime.sleep(600)"
    code = begin + ("os.system('echo first; echo again > /dev/stdout; sleep .3')\n" if seen else "") + steps
    shims.prepare(0, python(code), cwd=str(shims.folder.path), replicas=1)
    shims.start(0)
    shims.says(b"early 49\n")
    time.sleep(0.1)
    before, others = shims.lines, [pid for pid in descendants(shims.running[0].pid) if pid != shims.running[0].pid]
    shims.running[0].kill()
    shims.running[0].wait(PATIENCE_S)
    (shims.folder.path / "killed").touch()
    raw = shims.folder.path / "raw" / "launcher.log"
    until(lambda: raw.read_bytes().endswith(b"last\n"), "the last line")
    for pid in others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    complete(shims.folder, 1)
    remark = [] if ANEW in before else [ANEW]
    assert shims.lines == [*before, *remark, "again", *(f"late {i}" for i in range(count)), "last"]
    assert complete(shims.folder, 1) == 0


def test_a_cut_line_stays_cut(left: Shims) -> None:
    raw = left.folder.path / "raw" / "launcher.log"
    raw.write_bytes(b"x" * (9 << 20) + b"\nnext\n")
    assert complete(left.folder) == (4 << 20) + 27 + 5
    assert left.log.endswith(b"xxx [dlenv] line cut at 4 MiB\nnext\n")
    (left.folder.path / "log").write_bytes(b"short\n")
    (left.folder.path / "merged").write_bytes(entry(end=5 << 20, log_end=6, cut_after=True))
    complete(left.folder)
    assert left.log == b"short\nnext\n"


def test_a_log_beyond_its_limit_is_not_completed_and_says_so_once(left: Shims) -> None:
    left.prepare(0, ["true"], log_cap_bytes=100)
    (left.folder.path / "log").write_bytes(b"x" * 200 + b"\n")
    for _ in range(2):
        complete(left.folder)
    assert left.log.count(b"\n") == 2
    assert left.lines[1] == (
        "[dlenv] The log has passed its limit, so 16 bytes that were not in it yet are in the raw files only."
    )


def test_it_waits_for_whoever_writes_the_log(left: Shims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "_PATIENCE_S", 0.3)
    with open(left.folder.path / "alive", "w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        assert complete(left.folder) == 0
    assert left.log == b""
    assert complete(left.folder) == 12


def test_two_may_complete_it_at_once(left: Shims) -> None:
    added: list[int] = []
    threads = [threading.Thread(target=lambda: added.append(complete(left.folder))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [0] * 7 + [12]
    assert left.log == b"one\ntwo\n20%\n"


GARBAGE = [
    b"x" * 5000,
    b"\xff" * (ENTRY_BYTES * 4),
    entry(begin=5, end=3),
    entry(end=1 << 62, log_end=1 << 62),
    entry(path=b"../../etc/passwd", end=3, log_end=1 << 40),
    entry(end=9, log_begin=1 << 40, log_end=1 << 41),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_hurts_nobody_else(left: Shims, garbage: bytes) -> None:
    (left.folder.path / "merged").write_bytes(garbage)
    complete(left.folder)
    assert len(left.log) < 100 + len(WRITTEN_ANEW)
    assert b"root:" not in left.log


@pytest.mark.parametrize(
    "launch",
    [
        {"rank_logs": {"pattern": "../*", "rank_part": 0}},
        {"rank_logs": {"pattern": "*/*", "rank_part": 7}},
        {"rank_logs": {"pattern": 5, "rank_part": 0}},
        {"rank_logs": "x"},
        {"first_rank": 10**30},
        {"node_rank": "1"},
        {"processes": 5, "log_cap_bytes": -1},
    ],
    ids=str,
)
def test_a_launch_that_nobody_wrote_so_has_no_ranks(left: Shims, launch: dict[str, Any]) -> None:
    (left.folder.path / "launch.json").write_text(json.dumps(launch))
    complete(left.folder)
    assert left.log == b"one\ntwo\n20%\n"


@pytest.mark.parametrize("name", ["log", "merged", "alive"])
def test_links_are_not_followed(left: Shims, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (left.folder.path / name).symlink_to(victim)
    assert complete(left.folder) == 0
    assert victim.read_text() == "precious"


def test_an_endless_raw_file_ends_at_the_limit(left: Shims) -> None:
    left.prepare(0, ["true"], log_cap_bytes=8 << 20)
    with open(left.folder.path / "raw" / "launcher.log", "r+b") as raw:
        raw.truncate(1 << 43)
    complete(left.folder)
    assert len(left.log) < 9 << 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_log_that_is_made_here_belongs_to_whom_the_folder_does(left: Shims) -> None:
    os.chown(left.folder.path, 1234, 4321)
    complete(left.folder)
    assert {(left.folder.path / name).stat().st_uid for name in ("log", "merged", "alive", "tail.json")} == {1234}


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Shims]:
    """A run folder on a disk of 24 MiB."""
    with mounted_disk(tmp_path, "24m") as path:
        yield from made(path / "run", 1)


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_was_full_and_a_killed_shim(small_disk: Shims, seed: int) -> None:
    filler = small_disk.folder.path.parent / "filler"
    filler.write_bytes(b"x" * random.Random(seed).randint(2 << 20, 4 << 20))
    two_ranks(small_disk)
    raw = [small_disk.folder.path / "ranks" / str(rank) / "stdout.log" for rank in range(2)]
    until(lambda: all(path.exists() and path.stat().st_size > 4 << 20 for path in raw), "a full disk")
    time.sleep(random.Random(seed).uniform(0, 0.5))
    kill_all(small_disk.running[0].pid)
    small_disk.running[0].wait(PATIENCE_S)
    complete(small_disk.folder, 1)  # as far as the disk takes it
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", filler.parent], check=True)
    complete(small_disk.folder, 1)
    assert_whole(small_disk)


def test_a_shim_that_gave_up_on_a_full_disk(small_disk: Shims) -> None:
    filler = small_disk.folder.path.parent / "filler"
    filler.write_bytes(b"x" * (8 << 20))
    code = "import os; os.write(1, b''.join(b'%07d\\n' % i for i in range(1400000)))"
    small_disk.prepare(0, python(code))
    small_disk.start()
    assert small_disk.finish()[0].log_error == "No space left on device"
    filler.unlink()
    raw = (small_disk.folder.path / "raw" / "launcher.log").read_bytes()
    assert 0 < len(small_disk.log) < len(raw)
    complete(small_disk.folder, 1)
    assert small_disk.log == raw


def test_entries_survive_the_way_to_the_disk_and_back() -> None:
    first = Entry(b"ranks/0/stdout.log", 1, 2, 3, 4, True, False)
    second = Entry(b"\xff" * 900, 0, 1 << 40, 0, 1 << 41, False, True, True, b"the last bytes\0")
    assert unpack(pack(first) + b"\0" * ENTRY_BYTES + pack(second)) == {0: first, 2 * ENTRY_BYTES: second}
