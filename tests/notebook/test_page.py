"""What a job's output holds: the last lines of any log, small, readable, and safe."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from jupyter_dlenv.notebook import tail as tail_module
from jupyter_dlenv.notebook.client import Frame
from jupyter_dlenv.notebook.page import MIME, bundle
from jupyter_dlenv.notebook.tail import LAST_LINES, LogTail

JOB: dict[str, Any] = {
    "id": "5ab4c0de-0000-4000-8000-000000000000",
    "name": "train.py",
    "state": "RUNNING",
    "created_at": 100.0,
    "started_at": 101.0,
    "finished_at": None,
    "image": "",
    "exit_code": None,
    "message": "",
    "log_path": "/jobs/log",
}
FAILED = {
    **JOB,
    "state": "FAILED",
    "finished_at": 103.5,
    "exit_code": 1,
    "message": "Ended with exit code 1.",
    "failed_rank": 3,
    "traceback": "Traceback (most recent call last):\nValueError: <x>\n",
}


def tail_of(*pieces: bytes, bars: dict[str, str] | None = None, ranks: int = 1, most: int = LAST_LINES) -> LogTail:
    tail = LogTail(most, ranks)
    for data in pieces:
        tail.add(Frame(data, "c", bars or {}, "RUNNING", None))
    return tail


def shown(tail: LogTail, job: dict[str, Any] = JOB, metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    data = bundle(job, job["state"], "c", tail, 104.0, metrics)
    assert data[MIME] == {"job_id": job["id"], "cursor": "c", "state": job["state"], "name": "train.py"}
    return data


def text_of(page: str) -> str:
    return re.sub(r"<[^>]*>", "", page).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_the_tail_keeps_the_last_lines_and_the_bars() -> None:
    tail = tail_of(b"1\n2\n3\n4\n", bars={"0": "bar", "1": "other"}, most=3)
    assert tail.text() == "2\n3\n4\nbar\n[1] other"
    assert tail.count == 4
    tail.add(Frame(b"\xff\n", "c", {}, "RUNNING", None))
    assert tail.text() == "3\n4\n\ufffd"


def test_bars_stand_in_the_order_of_ranks() -> None:
    tail = tail_of(b"", bars={"10": "c", "launcher": "d", "2": "b", "0": "a"})
    assert tail.text() == "a\n[2] b\n[10] c\nd"


@pytest.mark.parametrize(("ranks", "text"), [(2, "[0-1] up\n[0-1] 50%"), (0, "[0-1] up\n[0-1] 50%"), (1, None)])
def test_equal_lines_fold_where_several_ranks_may_write_them(ranks: int, text: str | None) -> None:
    tail = tail_of(b"up\n[1] up\n", bars={"0": "50%", "1": "50%"}, ranks=ranks)
    assert tail.text() == (text or "up\n[1] up\n50%\n[1] 50%")


def test_folded_lines_leave_room_for_as_many_as_one_rank_has() -> None:
    lines = "".join(f"{'' if rank == 0 else f'[{rank}] '}step {step}\n" for step in range(300) for rank in range(8))
    data = shown(tail_of(lines.encode(), ranks=8))
    assert data["text/plain"].splitlines()[1:3] == ["… 800 earlier lines: /jobs/log", "[0-7] step 100"]
    assert data["text/plain"].splitlines()[-1] == "[0-7] step 299"


def test_lines_that_nobody_will_see_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    settled = tail_module.settled
    monkeypatch.setattr(tail_module, "settled", lambda line: looked_at.append(line) or settled(line))
    million = b"x\n" * 1_000_000
    tail = tail_of(*[million] * 10)
    assert tail.count == 10_000_000
    assert len(looked_at) == 10 * LAST_LINES


def test_a_log_without_lines_has_no_path_yet() -> None:
    data = shown(tail_of(b""))
    assert data["text/plain"] == "train.py · RUNNING · 3.0 s · plain processes, no container · " + JOB["id"]
    assert "Full log: /jobs/log" in shown(tail_of(b"one\n"))["text/plain"]
    assert shown(tail_of(b"one\n"))["text/plain"].splitlines()[-1] == "one"


def test_a_failed_job_begins_with_why() -> None:
    data = shown(tail_of(b"one\ntwo\n"), FAILED)
    lines = data["text/plain"].splitlines()
    assert lines[0].startswith("train.py · FAILED · exit code 1 · ")
    assert lines[1:5] == [
        "Job train.py FAILED: Ended with exit code 1. Rank 3 failed first.",
        "Traceback (most recent call last):",
        "ValueError: <x>",
        "Full log: /jobs/log",
    ]
    assert lines[-2:] == ["one", "two"]
    assert "ValueError: &lt;x&gt;" in data["text/html"]
    assert text_of(data["text/html"]).endswith("one\ntwo")


def test_colours_are_in_the_page_and_not_in_the_text() -> None:
    data = shown(tail_of(b"\x1b[31mred\x1b[0m \x1b]0;t\x07<b>\x00\xff\n"))
    assert data["text/plain"].splitlines()[-1] == "red <b>\ufffd"
    assert '<span style="color:#d1383d">red</span> &lt;b&gt;\ufffd</pre>' in data["text/html"]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", data["text/plain"] + data["text/html"])


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 1_000_000,
        b"<&>\"'" * 200_000,
        "\u4e2d".encode() * 300_000,
        b"\x1b[1mx\x1b[38;5;1my" * 50_000,
        b"\xff" * 1_000_000,
        b"\x00" * 1_000_000,
        b"1%\r" * 300_000,
        b"\x1b]" * 500_000,
    ],
    ids=["long", "escaped", "wide", "coloured", "invalid", "nul", "returns", "strings"],
)
def test_an_update_is_small_whatever_the_job_writes(line: bytes) -> None:
    rows = [[step, *[step * 1.0] * 30] for step in range(10_000)]
    metrics = {"columns": ["step", *["m" * 500] * 30], "rows": rows, "total": len(rows)}
    job = {**FAILED, "traceback": "x" * 500_000, "message": "y" * 500_000}
    tail = tail_of(
        (line + b"\n") * 20 + b"more\n" * 300 + (line + b"\n") * 5,
        bars={str(rank): line.decode("latin-1") for rank in range(64)},
    )
    data = shown(tail, job, metrics)
    assert len(json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass")) < 100_000
    tail.add(Frame(b"the last\n", "c", {}, "RUNNING", None))
    data = shown(tail, job, metrics)
    assert data["text/plain"].endswith("\nthe last")
    assert "\nthe last</pre>" in data["text/html"]
    assert "earlier lines: /jobs/log" in data["text/plain"]
