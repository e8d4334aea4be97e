"""What a person sees of a log: the tail, the bars, the summary."""

from __future__ import annotations

from typing import Any

from jupyter_dlenv.notebook.client import Frame
from jupyter_dlenv.notebook.follow import MIME, Display, Lines, LogTail, clean, state_line, summary
from jupyter_dlenv.notebook.links import dangling_link

JOB: dict[str, Any] = {
    "id": "5ab4c0de-0000-4000-8000-000000000000",
    "name": "train.py",
    "state": "FAILED",
    "created_at": 100.0,
    "started_at": 101.0,
    "finished_at": 103.5,
    "image": "",
    "exit_code": 1,
    "message": "Ended with exit code 1.",
    "failed_rank": 3,
    "traceback": "Traceback (most recent call last):\nValueError: x\n",
    "log_path": "/jobs/log",
}


def frame(data: bytes = b"", bars: dict[str, str] | None = None, job: dict[str, Any] | None = None) -> Frame:
    return Frame(data, "c", bars or {}, "RUNNING" if job is None else job["state"], job)


def test_lines_are_shown_as_a_terminal_leaves_them() -> None:
    assert clean("10%\r50%\r100%") == "100%"
    assert clean("50%\r") == "50%"
    assert clean("\x1b[31mred\x1b[0m \x00\x07ok\x1b]0;title\x07") == "red ok"
    assert len(clean("x" * 10_000)) == 2000


def test_the_tail_keeps_the_last_lines_and_the_bars() -> None:
    tail = LogTail(3)
    tail.add(frame(b"1\n2\n3\n4\n", {"0": "bar", "1": "other"}))
    assert tail.text() == "2\n3\n4\nbar\n[1] other"
    assert tail.count == 4
    tail.add(frame(b"\xff\n"))
    assert tail.text() == "3\n4\n\ufffd"


def test_the_state_line_says_where_the_job_ran() -> None:
    assert state_line(JOB, "FAILED", 999) == (
        "train.py · FAILED · exit code 1 · 2.5 s · plain processes, no container · 5ab4c0de-0000-4000-8000-000000000000"
    )
    assert "exit code" not in state_line({**JOB, "exit_code": None}, "RUNNING", 999)


def test_the_summary_begins_with_the_exit_code() -> None:
    assert summary(JOB) == (
        "Job train.py FAILED: Ended with exit code 1. Rank 3 failed first.\n"
        "Traceback (most recent call last):\nValueError: x\nFull log: /jobs/log"
    )


def test_one_display_is_replaced_and_never_floods() -> None:
    sent: list[tuple[dict[str, Any], bool]] = []

    def publish(data: dict[str, Any], transient: dict[str, Any], update: bool) -> None:
        sent.append((data, update))
        assert transient["display_id"].startswith("dlenv-")

    display = Display(JOB, publish)
    for number in range(1000):
        display.add(frame(b"%d\n" % number))
    display.add(frame(job=JOB))
    assert [update for _data, update in sent] == [False, True]
    last = sent[-1][0]
    assert last[MIME] == {"job_id": JOB["id"], "cursor": "c", "state": "FAILED", "name": "train.py"}
    assert last["text/plain"].splitlines()[1].startswith("Job train.py FAILED")
    assert last["text/plain"].splitlines()[-1] == "999"
    assert "… 800 earlier lines: /jobs/log" in last["text/plain"]


def test_a_terminal_s_last_line_shows_the_bars() -> None:
    written: list[str] = []
    lines = Lines(written.append, columns=10)
    lines.add(frame(b"one\n", {"0": "50% of something long"}))
    lines.add(frame(b"", {"0": "50% of something long"}))
    lines.add(frame(b"two\n"))
    lines.add(frame(job=JOB))
    assert "".join(written) == "one\n50% of so\r\x1b[Ktwo\n"


def test_what_is_no_terminal_gets_lines_alone() -> None:
    written: list[str] = []
    Lines(written.append).add(frame(b"one\n", {"0": "50%"}))
    assert written == ["one\n"]


def test_a_dangling_link_is_found(tmp_path: Any) -> None:
    (tmp_path / "link").symlink_to("/nowhere/data")
    assert dangling_link(str(tmp_path / "link" / "x.csv")) == (str(tmp_path / "link"), "/nowhere/data")
    assert dangling_link(str(tmp_path / "missing")) is None
