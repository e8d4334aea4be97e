"""What a person sees of a log: the tail, the bars, the summary."""

from __future__ import annotations

import io
from typing import Any

import pytest

from jupyter_dlenv.errors import EngineUnavailable, JobInterrupted, JobNotFound
from jupyter_dlenv.notebook import follow
from jupyter_dlenv.notebook.client import Frame
from jupyter_dlenv.notebook.follow import MIME, Display, Lines, lines_on, state_line, submit, summary
from jupyter_dlenv.notebook.links import dangling_link
from jupyter_dlenv.notebook.magics import stop

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


class Service:
    """A job service that gives prepared answers: an error to raise, or data; the last one again and again."""

    def __init__(self, **answers: list[Any]) -> None:
        self.answers, self.asked = answers, list[str]()

    def call(self, method: str, path: str, body: Any = None, query: Any = None) -> Any:
        self.asked.append(f"{method} {path}")
        name = "submit" if (method, path) == ("POST", "/jobs") else path.rpartition("/")[2]
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def interrupted(monkeypatch: pytest.MonkeyPatch, *cancels: Any) -> tuple[str, Service]:
    """Return what an interrupted submission says; time passes only while it sleeps."""
    now = [0.0]
    monkeypatch.setattr(follow.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    service: Any = Service(submit=[KeyboardInterrupt()], cancel=list(cancels))
    with pytest.raises(JobInterrupted) as caught:
        submit(service, {"request_id": "abc"})
    return str(caught.value), service


def test_a_job_that_is_there_late_is_stopped_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said, service = interrupted(monkeypatch, *[JobNotFound("no")] * 80, {})
    assert said == "Job abc was stopped."
    assert len(service.asked) == 82


@pytest.mark.parametrize(
    ("cancels", "most"), [([JobNotFound("no")], 130), ([JobNotFound("no"), KeyboardInterrupt()], 3)]
)
def test_a_job_that_was_not_stopped_is_not_said_to_be(
    monkeypatch: pytest.MonkeyPatch, cancels: list[Any], most: int
) -> None:
    said, service = interrupted(monkeypatch, *cancels)
    assert "may still start: %dlstop abc" in said
    assert len(service.asked) <= most


def test_a_job_is_stopped_without_a_look_at_gpus() -> None:
    away = EngineUnavailable("No Docker daemon answers")
    service: Any = Service(jobs=[{"jobs": [JOB]}], cancel=[{**JOB, "state": "CANCELLED"}], gpus=[away])
    assert "CANCELLED" in stop(service, [JOB["id"][:8]])
    unknown: Any = Service(jobs=[{"jobs": []}], abc=[JobNotFound("No job abc.")], gpus=[away])
    with pytest.raises(JobNotFound):
        stop(unknown, ["abc"])


def test_a_waiting_kernel_is_stopped_by_the_beginning_of_its_id() -> None:
    queue = [{"id": "abcdef", "role": "kernel"}, {"id": "abc111", "role": "job"}]
    service: Any = Service(jobs=[{"jobs": []}], abc=[JobNotFound("no")], gpus=[{"queue": queue}], cancel=[None])
    assert "abcdef" in stop(service, ["abc"])
    assert service.asked[-1] == "POST /kernels/abcdef/cancel"


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


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "gbk", "ascii"])
def test_lines_are_printed_byte_by_byte_and_our_own_words_as_the_stream_can(encoding: str) -> None:
    raw = io.BytesIO()
    lines = lines_on(io.TextIOWrapper(raw, encoding=encoding), columns=10)
    lines.add(frame(b"\xff \xe2\x86\x93\n", {"0": "█ 50% ç"}))
    bar = "█ 50% ç".encode(encoding, "replace")
    assert raw.getvalue() == b"\xff \xe2\x86\x93\n" + bar


def test_a_stream_of_text_alone_gets_text() -> None:
    stream = io.StringIO()
    lines_on(stream).add(frame(b"\xff \xe2\x86\x93\n"))
    assert stream.getvalue() == "\ufffd ↓\n"


def test_a_dangling_link_is_found(tmp_path: Any) -> None:
    (tmp_path / "link").symlink_to("/nowhere/data")
    assert dangling_link(str(tmp_path / "link" / "x.csv")) == (str(tmp_path / "link"), "/nowhere/data")
    assert dangling_link(str(tmp_path / "missing")) is None
