"""Why kernels ended, in words; what is listed of them; when idle GPUs end them."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_dlenv.kernels.board import BOARD, Board, Phase, Report
from jupyter_dlenv.kernels.death import Circumstances, explain_death
from jupyter_dlenv.kernels.listing import kernel_rows
from jupyter_dlenv.lastwords import Notebook, read_parent, read_words
from jupyter_dlenv.server.idle import GpuIdle, Verdict, judge
from jupyter_dlenv.settings import DLEnv
from jupyter_dlenv.spec import Job, JobState, JobStatus, Reason, Role

GIB = 1 << 30
KILLED = JobStatus(JobState.FAILED, 137, Reason.KILLED, "Killed from outside.")


@pytest.mark.parametrize(
    ("status", "lines", "seen", "words"),
    [
        (KILLED, "", {}, "Exit code 137. Killed from outside."),
        (KILLED, "", {"out_of_memory": True, "memory_limit": GIB, "memory_peak": GIB}, "its limit is 1.0 GiB"),
        (KILLED, "", {"out_of_memory": True, "memory_limit": GIB}, "env add 'a b' --memory 2g"),
        (KILLED, "", {"out_of_memory": True}, "The host ran out of memory"),
        (JobStatus(JobState.FAILED, 1), "OSError: [Errno 28] No space left on device", {}, "The disk is full"),
        (JobStatus(JobState.FAILED, 1), "fine", {"out_of_memory": True, "memory_limit": GIB}, "Exit code 1."),
        (JobStatus(JobState.FAILED, None, Reason.REMOVED), "", {}, "removed from outside"),
        (JobStatus(JobState.SUCCEEDED, 0, Reason.COMPLETED), "", {}, "exited by itself with exit code 0"),
        (JobStatus(JobState.FAILED, 139), "", {}, "crashed in native code"),
        (JobStatus(JobState.LOST), "", {"daemon_gone": True}, "Docker is gone"),
    ],
)
def test_an_end_in_words(status: JobStatus, lines: str, seen: dict[str, Any], words: str) -> None:
    death = explain_death(status, lines, Circumstances("a b", **seen))
    assert words in death.message
    assert death.message.startswith("The kernel of a b ended. ")
    assert death.text().endswith(lines or death.message)


def job(kernel_id: str, state: JobState = JobState.RUNNING, **labels: str) -> Job:
    """Return a kernel as an engine lists it."""
    status = JobStatus(state, started_at=1.0)
    return Job(kernel_id, Role.KERNEL, "docker", "c" + kernel_id, "", "me", "torch", "t:1", status, labels)


def test_rows_join_engine_and_board() -> None:
    jobs = [
        job("a", lease="GPU-1,GPU-2"),
        job("b", JobState.FAILED),
        job("pooled", id="pooled", pool="1"),
        job("claimed", id="pooled-2", pool="1"),
    ]
    reports = [
        Report("a", phase=Phase.READY, message="Its GPUs are idle.", environment="torch"),
        Report("b", phase=Phase.ENDED, why="Died.", last_lines="x", ended_at=5.0, environment="torch"),
        Report("c", phase=Phase.PULLING, message="10 %", environment="torch", image="t:1"),
    ]
    rows = {row["id"]: row for row in kernel_rows(jobs, reports)}
    assert list(rows) == ["a", "claimed", "b", "c"]
    assert rows["a"]["state"] == "RUNNING"
    assert rows["a"]["gpus"] == ["GPU-1", "GPU-2"]
    assert rows["a"]["message"] == "Its GPUs are idle."
    assert (rows["b"]["state"], rows["b"]["last_lines"], rows["b"]["ended_at"]) == ("FAILED", "x", 5.0)
    assert (rows["c"]["state"], rows["c"]["image"], rows["c"]["native_id"]) == ("PULLING", "t:1", "")


def test_the_board_tells_and_forgets() -> None:
    board, told = Board(), []
    board.listen(told.append)
    board.update("a", phase=Phase.PULLING, message="1 %")
    board.update("a", phase=Phase.READY)
    assert [(report.phase, report.message) for report in told] == [(Phase.PULLING, "1 %"), (Phase.READY, "1 %")]
    board.forget("a")
    assert board.all() == []
    for number in range(60):
        board.update(f"dead-{number}", phase=Phase.ENDED)
    assert len(board.all()) == 50
    assert board.all()[-1].kernel_id == "dead-59"


def test_last_words_are_a_ring(tmp_path: Any) -> None:
    noted = Notebook(str(tmp_path))
    noted.write("first\n")
    assert read_words(str(tmp_path)) == "first\n"
    for number in range(5000):
        noted.write(f"line {number}\n")
    lines = read_words(str(tmp_path)).splitlines()
    assert lines[-1] == "line 4999"
    assert lines == [f"line {number}" for number in range(5000 - len(lines), 5000)]
    noted.write("x" * 100_000)
    assert set(read_words(str(tmp_path))) <= {"x"}


def test_what_a_container_put_there_is_not_trusted(tmp_path: Any) -> None:
    assert (read_words(str(tmp_path)), read_parent(str(tmp_path))) == ("", {})
    noted = Notebook(str(tmp_path))
    noted.note_parent({"msg_id": "1", "a": "long" * 100})
    noted.note_parent({"msg_id": "2"})
    assert read_parent(str(tmp_path)) == {"msg_id": "2"}
    for text in ("[]", "{", '{"msg_id": 3}', "[" * 100_000):
        (tmp_path / "parent.json").write_text(text)
        assert read_parent(str(tmp_path)) == {}
    for name in ("parent.json", "last-words"):
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("/etc/passwd")
    assert (read_words(str(tmp_path)), read_parent(str(tmp_path))) == ("", {})


@pytest.mark.parametrize(
    ("idle_s", "busy", "expected"),
    [
        (0, False, Verdict()),
        (69, False, Verdict()),
        (70, False, Verdict(warn=True)),
        (99, False, Verdict(warn=True)),
        (100, False, Verdict(end=True)),
        (1000, True, Verdict()),
    ],
)
def test_idle_gpus_warn_and_end(idle_s: float, busy: bool, expected: Verdict) -> None:
    assert judge(idle_s, busy=busy, timeout_s=100, warning_s=30) == expected
    assert judge(idle_s, busy=busy, timeout_s=0, warning_s=30) == Verdict()


class Kernels:
    """Stands for Jupyter's kernel manager: kernels with GPUs cannot be started without GPUs."""

    def get_kernel(self, kernel_id: str) -> Any:
        return SimpleNamespace(execution_state="busy" if kernel_id == "busy" else "idle")


async def test_kernels_with_idle_gpus_are_warned_once_and_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = DLEnv(cull_gpu_idle_timeout=0.2, cull_gpu_idle_warning=0.2)
    usage = {"GPU-1": 0, "GPU-2": 50, "GPU-3": 0}
    idle = GpuIdle(settings, logging.getLogger("test"), usage=lambda: usage)
    held = {"idle": "GPU-1", "used": "GPU-2", "busy": "GPU-3", "untold": "MIG-1"}
    mine: Any = {name: SimpleNamespace(kernel=SimpleNamespace(gpu_uuids=(uuid,))) for name, uuid in held.items()}
    try:
        assert await idle.due(mine, Kernels()) == {}
        assert await idle.due(mine, Kernels()) == {}
        assert caplog.text.count("Its GPUs are idle") == 1
        assert {report.kernel_id for report in BOARD.all()} == {"idle"}
        idle._since["idle"] -= 1
        due = await idle.due(mine, Kernels())
        assert list(due) == ["idle"]
        assert "idle for 1 s" in due["idle"]
        usage["GPU-1"] = 3
        assert await idle.due(mine, Kernels()) == {}
    finally:
        BOARD.forget("idle")
