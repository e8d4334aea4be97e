"""The ledger's records: held by processes, let go by the kernel, seen by everybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jupyter_dlenv.errors import EngineUnavailable
from jupyter_dlenv.gpus.ledger import LEASES, QUEUE, Ledger

HOLD = """
import sys, time
from pathlib import Path
from jupyter_dlenv.gpus.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
with ledger.locked():
    record = ledger.put(sys.argv[2], sys.argv[3], {"uuids": ["GPU-1"]})
    if sys.argv[4] == "locked":
        print("ready", flush=True)
        time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty ledger."""
    return Ledger(tmp_path / "ledger")


@contextmanager
def holder(ledger: Ledger, kind: str, name: str, state: str = "free") -> Iterator[subprocess.Popen[str]]:
    """Run another process that holds a record, and with ``locked`` the whole ledger."""
    argv = [sys.executable, "-c", HOLD, str(ledger.folder), kind, name, state]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def names(ledger: Ledger, kind: str = LEASES) -> list[str]:
    """Return the records that somebody holds."""
    return [entry.name for entry in ledger.living(kind)]


def test_a_record_lives_as_long_as_it_is_held(ledger: Ledger) -> None:
    with ledger.locked():
        record = ledger.put(LEASES, "one", {"uuids": ["GPU-1"]})
    assert [(entry.name, entry.data, entry.uid, entry.alive) for entry in ledger.entries(LEASES)] == [
        ("one", {"uuids": ["GPU-1"]}, os.geteuid(), True)
    ]
    record.release()
    record.release()  # twice is no harm
    assert ledger.entries(LEASES) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_the_kernel_lets_go_what_a_killed_process_held(ledger: Ledger, signum: int) -> None:
    with holder(ledger, LEASES, "theirs") as process:
        assert names(ledger) == ["theirs"]
        process.send_signal(signum)
        process.wait()
        assert names(ledger) == []
        assert ledger.entries(LEASES) == []  # and what is left of it is removed


def test_a_child_that_inherits_a_record_holds_it(ledger: Ledger) -> None:
    with ledger.locked():
        record = ledger.put(LEASES, "job", {"uuids": ["GPU-1"]})
    with subprocess.Popen(["sleep", "600"], pass_fds=[record.descriptor]) as child:
        record.leave()
        assert names(ledger) == ["job"]
        child.kill()
        child.wait()
    assert names(ledger) == []


def test_a_record_taken_away_is_missed_by_its_holder(ledger: Ledger) -> None:
    with ledger.locked():
        record = ledger.put(QUEUE, "waiting", {})
    assert record.there()
    assert ledger.drop(QUEUE, "waiting")
    assert not record.there()
    assert not ledger.drop(QUEUE, "waiting")


def test_a_replaced_record_is_not_removed_by_its_first_holder(ledger: Ledger) -> None:
    with ledger.locked():
        first = ledger.put(LEASES, "same", {"uuids": ["GPU-1"]})
        second = ledger.put(LEASES, "same", {"uuids": ["GPU-2"]})
    first.release()
    assert [entry.data["uuids"] for entry in ledger.living(LEASES)] == [["GPU-2"]]
    second.update({"uuids": ["GPU-2"], "native_id": "12"})
    assert ledger.entries(LEASES)[0].data == {"uuids": ["GPU-2"], "native_id": "12"}


def test_a_process_that_keeps_the_ledger_is_named_after_a_while(ledger: Ledger) -> None:
    with holder(ledger, LEASES, "greedy", "locked"):
        with pytest.raises(EngineUnavailable, match="has held the GPU ledger") as caught, ledger.locked(0.2):
            pass
        assert caught.value.hint.startswith("fuser -v ")
    with ledger.locked(10):
        pass


def test_a_folder_that_cannot_be_used_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnavailable, match="cannot be used") as caught, Ledger(tmp_path / "file" / "x").locked():
        pass
    assert "sudo install -d -m 1777" in caught.value.hint


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineUnavailable, match="cannot be used"), Ledger(tmp_path / "link").locked():
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_is_no_record_is_passed_over(ledger: Ledger, tmp_path: Path) -> None:
    with ledger.locked():
        pass
    folder = ledger.folder / LEASES
    (folder / "torn.json").write_text('{"uuids": [')
    (folder / "list.json").write_text("[]")
    (folder / "link.json").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.json")
    (folder / "dir.json").mkdir()
    assert ledger.entries(LEASES) == []


def test_others_read_what_is_written_under_any_umask(ledger: Ledger) -> None:
    before = os.umask(0o077)
    try:
        with ledger.locked():
            record = ledger.put(LEASES, "private", {"uuids": ["GPU-1"]})
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (record.path, ledger.folder / "lock")}
    assert modes == {"private.json": 0o644, "lock": 0o644}
    assert ledger.folder.stat().st_mode & 0o7777 == 0o1777


def test_deep_nesting_is_no_record(ledger: Ledger) -> None:
    with ledger.locked():
        (ledger.folder / LEASES / "deep.json").write_text("[" * 60_000)
    assert ledger.entries(LEASES) == []


def test_names_in_a_queue_grow(ledger: Ledger) -> None:
    with ledger.locked():
        first = ledger.put(QUEUE, ledger.next_name("b"), {})
        second = ledger.put(QUEUE, ledger.next_name("a"), {})
        assert [entry.name.partition("-")[2] for entry in ledger.entries(QUEUE)] == ["b", "a"]
        first.release()
        assert ledger.next_name("c") > second.name


def as_nobody(ledger: Ledger) -> str:
    """Return what another user sees of a ledger, holds in it, and can remove from it."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with ledger.locked():
            ledger.put(LEASES, "of-nobody", {"uuids": ["GPU-2"]})
            removed = ledger.drop(LEASES, "of-root")
            seen = [(entry.name, entry.uid) for entry in ledger.living(LEASES)]
        os.write(writes, repr((seen, removed)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writes)
    with open(reads) as file:
        return file.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_users_share_a_ledger_and_do_not_remove_what_is_others() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        ledger = Ledger(Path(folder, "ledger"))
        with ledger.locked():
            mine = ledger.put(LEASES, "of-root", {"uuids": ["GPU-1"]})
        assert as_nobody(ledger) == repr(([("of-nobody", 65534), ("of-root", 0)], False))
        assert mine.there()
        assert names(ledger) == ["of-root"]
        mine.release()


def test_time_passes_while_others_hold_it(ledger: Ledger) -> None:
    """The one who waits gets the ledger as soon as the other lets go."""
    with holder(ledger, LEASES, "short", "locked") as process:
        process.kill()
        begin = time.monotonic()
        with ledger.locked(60):
            assert time.monotonic() - begin < 60
