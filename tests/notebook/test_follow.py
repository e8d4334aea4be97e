"""What a person sees of a log: the tail, the bars, the summary."""

from __future__ import annotations

from typing import Any

from jupyter_dlenv.notebook.client import Frame
from jupyter_dlenv.notebook.follow import MIME, Display, Lines, state_line, summary
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


def test_the_state_line_says_where_the_job_ran() -> None:
    assert state_line(JOB, "FAILED", 999) == (
        "train.py · FAILED · exit code 1 · 2.5 s · plain processes, no container · 5ab4c0de-0000-4000-8000-000000000000"
    )
    assert "exit code" not in state_line({**JOB, "exit_code": None}, "RUNNING", 999)


def test_the_state_line_counts_attempts_where_there_can_be_several() -> None:
    running = {**JOB, "state": "RUNNING", "exit_code": None, "attempt": 2, "attempts": 3}
    assert state_line(running, "RUNNING", 999).startswith("train.py · RUNNING · attempt 2 of 3 · ")
    assert "attempt" not in state_line({**JOB, "attempt": 1, "attempts": 1}, "FAILED", 999)


def test_the_summary_begins_with_the_exit_code() -> None:
    assert summary(JOB) == (
        "Job train.py FAILED: Ended with exit code 1. Rank 3 failed first.\n"
        "Traceback (most recent call last):\nValueError: x\nFull log: /jobs/log"
    )


def test_the_summary_says_what_helps_and_which_line_tells_it() -> None:
    more = {"failed_node": 1, "nodes": 2, "remedy": "Free some memory.", "evidence": "CUDA out of memory."}
    assert summary({**JOB, **more}).splitlines()[:3] == [
        "Job train.py FAILED: Ended with exit code 1. Rank 3 on node 1 failed first.",
        "Free some memory.",
        "CUDA out of memory.",
    ]
    assert "ValueError: x\nTraceback" not in summary({**JOB, "evidence": "ValueError: x"})


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


def test_a_newer_attempt_is_shown_as_soon_as_a_frame_says_so() -> None:
    sent: list[str] = []
    display = Display(
        {**JOB, "state": "RUNNING", "exit_code": None, "attempt": 1, "attempts": 2},
        lambda data, transient, update: sent.append(data["text/plain"]),
    )
    display.add(Frame(b"", "c", {}, "RUNNING", None, attempt=2))
    assert "attempt 2 of 2" in sent[-1]


def test_metrics_are_asked_for_once_at_the_end() -> None:
    asked: list[int] = []
    sent: list[str] = []

    def metrics() -> dict[str, Any]:
        asked.append(len(sent))
        return {"columns": ["step", "loss"], "rows": [[0, 1.0], [1, 0.5]], "total": 2}

    display = Display(JOB, lambda data, transient, update: sent.append(data["text/html"]), metrics)
    display.add(frame(b"one\n"))
    display.add(frame(job=JOB))
    assert asked == [1]
    assert ["<svg" in page for page in sent] == [False, True]


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
