"""Attempts: which end is followed by another one, when, and what is kept."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from jupyter_dlenv.jobs.records import Final, JobFolder, JobRecord
from jupyter_dlenv.jobs.retention import Kept, too_much
from jupyter_dlenv.jobs.retries import between_attempts, due_at, pause_s, tried_again
from jupyter_dlenv.spec import JobState, JobStatus, Reason, new_id

RECORD = JobRecord("", "train.py", "alice", "docker", "train.py", "python", 1, retries=2)


def _ended(state: JobState = JobState.FAILED, code: int | None = 1, reason: Reason | None = Reason.USER_ERROR) -> Final:
    return Final(JobStatus(state, code, reason, "It broke.", 100.0, 200.0))


@pytest.mark.parametrize(
    ("final", "attempt", "again"),
    [
        (_ended(), 1, True),
        (_ended(), 2, True),
        (_ended(), 3, False),
        (_ended(code=137, reason=Reason.KILLED), 1, True),
        (_ended(JobState.LOST, None, Reason.REMOVED), 1, True),
        (_ended(code=None, reason=Reason.REBOOT), 1, True),
        (_ended(JobState.SUCCEEDED, 0, Reason.COMPLETED), 1, False),
        (_ended(JobState.CANCELLED, 130, Reason.STOPPED), 1, False),
        (_ended(code=143, reason=Reason.TIMEOUT), 1, False),
        (_ended(code=127), 1, False),
    ],
)
def test_which_end_is_followed_by_another_attempt(final: Final, attempt: int, again: bool) -> None:
    assert tried_again(RECORD, final, attempt) is again


def test_pauses_grow_to_a_minute() -> None:
    assert [pause_s(attempt) for attempt in (1, 2, 3, 10)] == [1, 2, 4, 60]
    assert due_at([]) == 0
    assert due_at([_ended(), _ended()]) == 202


def test_each_attempt_has_a_folder_and_an_end_of_its_own() -> None:
    folder = JobFolder(new_id())
    record = replace(RECORD, id=folder.path.name)
    assert folder.create(record)
    folder.keep_waiting({"by_process": False})
    assert between_attempts(folder, record) is None
    assert folder.waiting() is not None
    folder.mark_started("1")
    assert (folder.attempt, folder.run.name, folder.started(), folder.waiting()) == (1, "run", True, None)
    now = time.time()
    assert folder.end_attempt(1, replace(_ended(), status=replace(_ended().status, finished_at=now)))
    assert not folder.end_attempt(1, _ended())
    assert (folder.attempt, folder.run.name, folder.started()) == (2, "run-2", False)
    assert folder.pauses()
    status = between_attempts(folder, record)
    assert status is not None
    assert (status.state, status.attempt) == (JobState.PENDING, 2)
    assert "Attempt 2 of 3" in status.message
    assert "It broke." in status.message
    folder.mark_started("2")
    assert (folder.started(), folder.pauses()) == (True, False)
    assert [final.status.exit_code for final in folder.ended_attempts()] == [1]
    folder.remove()


def test_one_process_starts_an_attempt() -> None:
    folder = JobFolder(new_id())
    folder.create(replace(RECORD, id=folder.path.name))
    with folder.starting() as first:
        with folder.starting() as second:
            assert (first, second) == (True, False)
        folder.mark_started("1")
    with folder.starting() as late:
        assert not late
    folder.remove()


DAY = 86400.0


@pytest.mark.parametrize(
    ("most_days", "most_bytes", "removed"),
    [(0, 0, []), (10, 0, [30, 20]), (0, 250, [30]), (25, 150, [30, 20]), (0, 50, [30, 20, 1])],
)
def test_the_oldest_records_go_first(most_days: float, most_bytes: int, removed: list[int]) -> None:
    now = 1e9
    kept = [Kept(JobFolder(new_id()), now - days * DAY, 100) for days in (20, 1, 30)]
    found = too_much(kept, now, most_days=most_days, most_bytes=most_bytes)
    assert [round((now - each.ended_at) / DAY) for each in found] == removed
