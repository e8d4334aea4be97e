"""The run folder read from the host, most of it written by somebody who means harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jupyter_dlenv.engines import shim
from jupyter_dlenv.engines.folder import RunFolder, ShimResult, follow
from jupyter_dlenv.errors import EngineError, InvalidRequest
from jupyter_dlenv.spec import RankLogs

RESULT = {
    "exit_code": 1,
    "signal": None,
    "cause": "exited",
    "started_at": 1.5,
    "finished_at": 2.5,
    "log_bytes": 3,
    "log_error": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "jobs" / "run")
    made.create()
    return made


@pytest.fixture(autouse=True)
def impatience() -> Iterator[None]:
    """End a test that hangs in a trap."""

    def hang(signum: int, frame: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


async def over() -> bool:
    return True


async def chunks(folder: RunFolder, ended: Callable[[], Awaitable[bool]] = over, cursor: str = "") -> list[Any]:
    return [chunk async for chunk in follow(folder, cursor, ended)]


# Written by the host --------------------------------------------------------------------------------------------------


def test_the_folder_is_private(folder: RunFolder) -> None:
    folder.write_launch(["true"], "/", timeout_s=2.5, rank_logs=RankLogs("ranks/*", -1))
    folder.write_secrets({"KEY": "value"})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder.path, *folder.path.iterdir()]}
    assert modes == {"run": 0o700, "raw": 0o700, "ranks": 0o700, "launch.json": 0o600, "secrets.json": 0o600}
    assert json.loads((folder.path / "launch.json").read_text()) == {
        "argv": ["true"],
        "cwd": "/",
        "env": {},
        "timeout_s": 2.5,
        "grace_s": [5, 5],
        "rank_logs": {"pattern": "ranks/*", "rank_part": -1},
        "log_cap_bytes": 21474836480,
        "forward_signals": False,
        "replicas": 1,
        "first_rank": 0,
        "node_rank": 0,
        "ends": "all",
        "processes": [],
        "peers": [],
        "note": "",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_folder_belongs_to_whom_the_container_runs_as(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(1234, 4321)
    folder.write_launch(["true"], "/")
    folder.write_secrets({"KEY": "value"})
    folder.request_stop()
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [folder.path, *folder.path.iterdir()]}
    assert owners == {(1234, 4321)}


def test_a_folder_may_be_made_twice(folder: RunFolder) -> None:
    (folder.path / "log").write_bytes(b"kept\n")
    folder.create()
    assert folder.read_log()[0] == b"kept\n"


def test_a_request_to_stop_replaces_whatever_is_there(folder: RunFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder.path / "stop").symlink_to(victim)
    folder.request_stop(kill=True)
    assert (folder.path / "stop").read_bytes() == b"kill"
    assert victim.read_text() == "precious"
    folder.request_stop()
    assert (folder.path / "stop").read_bytes() == b"kill"


def test_a_request_to_stop_does_not_hang_on_a_pipe(folder: RunFolder) -> None:
    os.mkfifo(folder.path / "stop")
    folder.request_stop(kill=True)
    assert (folder.path / "stop").read_bytes() == b"kill"


def test_a_request_to_stop_that_cannot_be_left(folder: RunFolder) -> None:
    (folder.path / "stop").mkdir()
    with pytest.raises(EngineError, match="could not be asked to stop"):
        folder.request_stop(kill=True)
    assert [path.name for path in folder.path.iterdir() if path.name.startswith(".")] == []


# The log --------------------------------------------------------------------------------------------------------------


def test_the_log_is_read_in_whole_lines(folder: RunFolder) -> None:
    (folder.path / "log").write_bytes(b"one\ntwo\nthr")
    data, cursor = folder.read_log()
    assert data == b"one\ntwo\n"
    assert folder.read_log(cursor) == (b"", cursor)
    with open(folder.path / "log", "ab") as log:
        log.write(b"ee\nfour")
    data, cursor = folder.read_log(cursor)
    assert data == b"three\n"
    assert folder.read_log(cursor, final=True)[0] == b"four"


@pytest.mark.parametrize("limit", [1, 7, 100, 1 << 20])
def test_pieces_put_together_are_the_log(folder: RunFolder, limit: int) -> None:
    pick = random.Random(limit)
    text = b"".join(pick.randbytes(pick.randint(0, 50)).replace(b"\n", b"") + b"\n" for _ in range(200))
    (folder.path / "log").write_bytes(text)
    got, cursor = b"", ""
    while (piece := folder.read_log(cursor, limit))[0]:
        assert piece[0].endswith(b"\n")
        got, cursor = got + piece[0], piece[1]
    assert got == text
    assert folder.offset(cursor) == len(text) == folder.log_size()


def test_a_long_line_comes_whole(folder: RunFolder) -> None:
    line = b"x" * (4 << 20) + b"\n"
    (folder.path / "log").write_bytes(line + b"next\n")
    data, cursor = folder.read_log()
    assert data == line
    assert folder.read_log(cursor)[0] == b"next\n"


def test_an_endless_line_comes_in_pieces(folder: RunFolder) -> None:
    with open(folder.path / "log", "wb") as log:
        log.write(b"x" * (9 << 20))
    got, cursor = 0, ""
    while (piece := folder.read_log(cursor))[0]:
        assert len(piece[0]) <= 1 << 20
        got, cursor = got + len(piece[0]), piece[1]
    assert got > 4 << 20
    assert got + len(folder.read_log(cursor, 9 << 20, final=True)[0]) == 9 << 20


@pytest.mark.parametrize(
    "cursor", ["0", "garbage", "-1", "0-00000000", "ffffffffffffffffff-00000000", "\x00", "1-1-1", "é", " "]
)
def test_a_made_up_cursor_is_refused(folder: RunFolder, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        folder.read_log(cursor)


def test_a_cursor_of_another_log_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    (folder.path / "log").write_bytes(b"line\n")
    other = RunFolder(tmp_path / "other")
    other.create()
    with pytest.raises(InvalidRequest):
        other.read_log(folder.read_log()[1])


def test_a_log_that_shrank_gives_nothing(folder: RunFolder) -> None:
    (folder.path / "log").write_bytes(b"line\n" * 10)
    _, cursor = folder.read_log()
    (folder.path / "log").write_bytes(b"x\n")
    assert folder.read_log(cursor) == (b"", cursor)


@pytest.mark.parametrize(
    ("max_bytes", "tail"), [(0, b""), (2, b""), (3, b"cc\n"), (5, b"cc\n"), (6, b"bb\ncc\n"), (99, b"aa\nbb\ncc\n")]
)
def test_the_tail_begins_with_a_line(folder: RunFolder, max_bytes: int, tail: bytes) -> None:
    (folder.path / "log").write_bytes(b"aa\nbb\ncc\n")
    assert folder.read_log(folder.tail_cursor(max_bytes))[0] == tail
    assert folder.log_tail(max_bytes) == tail


def test_a_hole_is_skipped_to_the_next_line(folder: RunFolder) -> None:
    with open(folder.path / "log", "wb") as log:
        log.write(b"head\nnotice\n")
        log.truncate(3 << 20)
        log.seek(0, os.SEEK_END)
        log.write(b"rest of a line\ntail\n")
        if log.flush() or os.fstat(log.fileno()).st_blocks * 512 > 1 << 20:
            pytest.skip("this file system makes no holes")
    got, cursor = b"", ""
    while (piece := folder.read_log(cursor))[1] != cursor:
        got, cursor = got + piece[0], piece[1]
    assert got == b"head\nnotice\ntail\n"
    assert folder.log_size() == (3 << 20) + 20


def test_an_empty_log_of_exabytes_is_read_at_once(folder: RunFolder) -> None:
    with open(folder.path / "log", "wb") as log, contextlib.suppress(OSError):
        log.truncate(1 << 43)
    assert folder.log_tail() == b""
    cursor = ""
    for _ in range(3):
        data, cursor = folder.read_log(cursor)
        assert data == b""


# Traps ----------------------------------------------------------------------------------------------------------------


def link_to_shadow(path: Path) -> None:
    path.symlink_to("/etc/shadow")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.mkdir()


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        # A socket's path holds 107 bytes: it is bound by a short name and moved.
        short = Path(f"/tmp/.dlenv-test-{os.getpid()}")
        listener.bind(str(short))
        os.rename(short, path)


def forbidden(path: Path) -> None:
    path.write_text('{"open": {}}')
    path.chmod(0)


TRAPS = [link_to_shadow, link_to_nothing, link_to_itself, link_to_zeros, pipe, directory, unix_socket]
BY_NAME = {"ids": lambda trap: trap.__name__}


def assert_nothing_there(folder: RunFolder) -> None:
    assert folder.read_log() == (b"", folder.tail_cursor(100))
    assert folder.log_size() == 0
    assert folder.log_tail() == b""
    assert folder.open_lines() == {}
    assert folder.result() is None
    assert folder.launcher_text() == ""
    assert folder.rank_texts() == {}


@pytest.mark.parametrize("trap", TRAPS, **BY_NAME)
async def test_nothing_but_a_plain_file_is_read(folder: RunFolder, trap: Callable[[Path], None]) -> None:
    rank = folder.path / "ranks" / "id" / "attempt_0" / "0"
    rank.mkdir(parents=True)
    for path in ("log", "tail.json", "result.json", "raw/launcher.log"):
        trap(folder.path / path)
    trap(rank / "stdout.log")
    trap(rank / "stderr.log")
    assert folder.rank_texts() == {0: ("", "")}
    for name in ("stdout.log", "stderr.log"):
        (rank / name).rename(rank / f"x{name}")
    assert_nothing_there(folder)
    assert await chunks(folder) == []


@pytest.mark.parametrize("depth", ["ranks", "ranks/id", "ranks/id/attempt_0", "ranks/id/attempt_0/0"])
def test_no_link_on_the_way_is_followed(folder: RunFolder, tmp_path: Path, depth: str) -> None:
    real = tmp_path / "elsewhere"
    rest = "ranks/id/attempt_0/0"[len(depth) :].strip("/")
    (real / rest).mkdir(parents=True)
    (real / rest / "stdout.log").write_text("stolen")
    (folder.path / "ranks").rmdir()
    link = folder.path / depth
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(real)
    assert folder.rank_texts() == {}


def test_the_folder_itself_is_no_link(folder: RunFolder, tmp_path: Path) -> None:
    (folder.path / "log").write_text("line\n")
    link = tmp_path / "link"
    link.symlink_to(folder.path)
    assert RunFolder(link).read_log()[0] == b""


def test_a_folder_that_is_gone_is_empty(tmp_path: Path) -> None:
    assert_nothing_there(RunFolder(tmp_path / "gone"))
    with pytest.raises(EngineError):
        RunFolder(tmp_path / "gone").request_stop()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder: RunFolder) -> None:
    forbidden(folder.path / "tail.json")
    assert folder.open_lines() == {}


LEASE = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
time.sleep(10)
"""


def test_a_lease_on_a_file_does_not_block_the_reader(folder: RunFolder) -> None:
    path = folder.path / "tail.json"
    path.write_text('{"open": {"0": "bar"}}')
    with subprocess.Popen([sys.executable, "-c", LEASE, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        held = holder.stdout.readline()
        lines = folder.open_lines()  # an ordinary open waits for as long as /proc/sys/fs/lease-break-time says
        still_holding = holder.poll() is None
        holder.kill()
    if held != b"held\n":
        pytest.skip("this file system has no leases")
    assert lines == {}
    assert still_holding


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"open":' * 50_000,
        b"9" * 500_000,
        b'{"open": [1, 2]}',
        b'{"open": {"0": {"deep": 1}}}',
        b" " * (2 << 20) + b'{"open": {"0": "late"}}',
    ],
    ids=range(12),
)
def test_garbage_says_nothing(folder: RunFolder, garbage: bytes) -> None:
    (folder.path / "tail.json").write_bytes(garbage)
    (folder.path / "result.json").write_bytes(garbage)
    assert folder.open_lines() == {}
    assert folder.result() is None


def test_a_result(folder: RunFolder) -> None:
    (folder.path / "result.json").write_text(json.dumps(RESULT))
    assert folder.result() == ShimResult(1, None, "exited", 1.5, 2.5, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"exit_code": None},
        {"exit_code": "0"},
        {"exit_code": True},
        {"exit_code": -1},
        {"exit_code": 256},
        {"exit_code": 0.0},
        {"signal": 65},
        {"signal": "9"},
        {"cause": "magic"},
        {"cause": ["exited"]},
        {"started_at": float("nan")},
        {"finished_at": float("inf")},
        {"finished_at": 10**400},
        {"started_at": -1},
        {"log_bytes": -1},
        {"log_bytes": 1 << 70},
        {"log_error": 5},
    ],
    ids=str,
)
def test_an_unbelievable_result_is_none(folder: RunFolder, change: dict[str, Any]) -> None:
    (folder.path / "result.json").write_text(json.dumps({**RESULT, **change}))
    assert folder.result() is None


def test_why_the_log_failed_is_believed_in_a_few_words(folder: RunFolder) -> None:
    text = "\x1b[2JNo space\n\ud800 left\u202e" + "x" * 100_000
    (folder.path / "result.json").write_text(json.dumps({**RESULT, "log_error": text}))
    result = folder.result()
    assert result is not None
    assert result.log_error == ("[2JNo space left" + "x" * 300)[:300]


@pytest.mark.parametrize(("log_bytes", "shown"), [(8, True), (9, True), (7, False), (None, True), ("7", True)])
def test_open_lines_that_are_older_than_the_log_are_left_out(folder: RunFolder, log_bytes: Any, shown: bool) -> None:
    (folder.path / "log").write_bytes(b"one\ntwo\n")
    (folder.path / "tail.json").write_text(json.dumps({"open": {"0": "two"}, "log_bytes": log_bytes}))
    (chunk, *_rest) = asyncio.run(chunks(folder))
    assert chunk.data == b"one\ntwo\n"
    assert chunk.open_lines == ({"0": "two"} if shown else {})
    assert folder.open_lines() == {"0": "two"}


def test_open_lines_can_be_sent_on(folder: RunFolder) -> None:
    (folder.path / "tail.json").write_text(json.dumps({"open": {"0": "\ud800 50%", "1": "x" * 100_000, "2": 5}}))
    lines = folder.open_lines()
    assert lines["0"] == "? 50%"
    assert len(lines["1"]) == 4096
    assert sorted(lines) == ["0", "1"]
    json.dumps(lines, ensure_ascii=False).encode()


def test_the_ends_of_the_ranks_files(folder: RunFolder) -> None:
    for attempt in (2, 10):
        for rank in (0, 11):
            path = folder.path / "ranks" / "none_abc" / f"attempt_{attempt}" / str(rank)
            path.mkdir(parents=True)
            (path / "stdout.log").write_text(f"out {attempt} {rank}")
            (path / "stderr.log").write_bytes(b"\xffrr %d %d" % (attempt, rank))
    (folder.path / "ranks" / "none_abc" / "attempt_2" / "not-a-rank").mkdir()
    (folder.path / "ranks" / "none_abc" / "attempt_2" / "not-a-rank" / "stdout.log").write_text("no")
    (folder.path / "raw" / "launcher.log").write_text("report")
    assert folder.rank_texts() == {0: ("out 10 0", "\ufffdrr 10 0"), 11: ("out 10 11", "\ufffdrr 10 11")}
    assert folder.rank_texts(2) == {0: (" 0", " 0"), 11: ("11", "11")}
    assert folder.launcher_text(4) == "port"


def test_a_crowd_of_rank_folders_is_not_all_read(folder: RunFolder) -> None:
    attempt = folder.path / "ranks" / "id" / "attempt_0"
    for rank in range(600):
        (attempt / str(rank)).mkdir(parents=True)
        (attempt / str(rank) / "stdout.log").write_text("x")
    assert len(folder.rank_texts()) == 512


# Following ------------------------------------------------------------------------------------------------------------


async def test_an_ended_log_is_read_to_its_end(folder: RunFolder) -> None:
    (folder.path / "log").write_bytes(b"line\n" * 1_000_000 + b"no newline")
    got = await chunks(folder)
    assert b"".join(chunk.data for chunk in got) == b"line\n" * 1_000_000 + b"no newline"
    assert max(len(chunk.data) for chunk in got) <= 1 << 20
    assert await chunks(folder, cursor=got[-1].cursor) == []
    half = got[len(got) // 2]
    assert b"".join(c.data for c in await chunks(folder, cursor=half.cursor)) == b"".join(
        c.data for c in got[len(got) // 2 + 1 :]
    )


async def test_a_growing_log_arrives_as_it_grows(folder: RunFolder) -> None:
    done = False

    async def ended() -> bool:
        return done

    got: list[bytes] = []

    async def read() -> None:
        async for chunk in follow(folder, "", ended):
            got.append(chunk.data)

    reader = asyncio.create_task(read())
    with open(folder.path / "log", "ab", buffering=0) as log:
        for number in range(20):
            log.write(b"line %d\nhal" % number)
            while f"line {number}\n".encode() not in b"".join(got):
                await asyncio.sleep(0.01)
            log.write(b"f\n")
        log.write(b"the last")
        done = True
    await reader
    said = [data for data in got if data]  # a quiet second is a chunk too
    assert all(data.endswith(b"\n") for data in said[:-1])
    assert b"".join(got) == b"".join(b"line %d\nhalf\n" % number for number in range(20)) + b"the last"


async def test_a_moving_progress_bar_is_told_without_new_bytes(folder: RunFolder) -> None:
    got: list[Any] = []
    done = False

    async def ended() -> bool:
        return done

    async def read() -> None:
        async for chunk in follow(folder, "", ended):
            got.append(chunk)

    reader = asyncio.create_task(read())
    for percent in (10, 20, 30):
        (folder.path / "tail.new").write_text(json.dumps({"open": {"0": f"{percent}%"}}))
        (folder.path / "tail.new").rename(folder.path / "tail.json")
        while not got or got[-1].open_lines != {"0": f"{percent}%"}:
            await asyncio.sleep(0.01)
    (folder.path / "tail.json").unlink()
    done = True
    await reader
    assert [(chunk.data, dict(chunk.open_lines)) for chunk in got] == [
        (b"", {"0": "10%"}),
        (b"", {"0": "20%"}),
        (b"", {"0": "30%"}),
        (b"", {}),
    ]


async def test_a_log_that_never_stops_growing_can_be_read_once(folder: RunFolder) -> None:
    code = "import sys\nwhile True: sys.stdout.write('line\\n' * 1000)"
    with open(folder.path / "log", "wb") as log, subprocess.Popen([sys.executable, "-c", code], stdout=log) as writer:
        try:
            while folder.log_size() < 1 << 20:
                await asyncio.sleep(0.01)
            got = await asyncio.wait_for(chunks(folder), 60)
        finally:
            writer.kill()
    assert sum(len(chunk.data) for chunk in got) >= 1 << 20


async def test_the_whole_way_from_a_command_to_its_follower(folder: RunFolder) -> None:
    steps = "print(i); time.sleep(.5); sys.stderr.write(f'\\r{i}/5'); time.sleep(.5)"
    code = f"import sys, time\nfor i in range(5): {steps}"
    folder.write_launch([sys.executable, "-c", code], "/", {"PYTHONUNBUFFERED": "1"})
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-S", shim.FOLDER, str(folder.path))

    async def ended() -> bool:
        return process.returncode is not None

    got = await chunks(folder, ended)
    await process.wait()
    result = folder.result()
    assert result
    text = b"".join(chunk.data for chunk in got)
    assert text == (folder.path / "log").read_bytes()
    assert text.endswith(b"4/5\n")
    assert result.log_bytes == folder.offset(got[-1].cursor)
    assert any(chunk.open_lines and not chunk.data for chunk in got)
