"""Records of the ledger, which anybody may have written: what can be meant is read, all else is void."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from jupyter_dlenv.gpus.asks import Ask, ask_of, waiting_in
from jupyter_dlenv.gpus.holders import holders_by_uuid
from jupyter_dlenv.gpus.ledger import Entry
from jupyter_dlenv.resources import GpuRequest

ASK = Ask("id", "alice", "trainer", "train", GpuRequest.parse("0,1+cc8.0", memory="40g"), 60.0, False, False, "/jobs")
SERVED = {(1000, "/jobs")}


def written(ask: Ask = ASK, **changes: Any) -> dict[str, Any]:
    """Return a request as the ledger holds it, with other values in it or in what it asks for."""
    data = json.loads(json.dumps(asdict(ask)))
    for key, value in changes.items():
        (data if key in data else data["request"])[key] = value
    return dict(data)


def entry(data: dict[str, Any], name: str = "000000000007-id", *, uid: int = 1000, alive: bool = True) -> Entry:
    """Return a record of the queue."""
    return Entry(name, data, uid, alive)


def test_a_request_is_read_as_it_was_written() -> None:
    assert ask_of(written()) == ASK


@pytest.mark.parametrize(
    "changes",
    [
        {"count": "8"},
        {"count": -1},
        {"count": 1.5},
        {"count": True},
        {"count": 0},
        {"count": 10**30},
        {"every": "yes"},
        {"shared": 1},
        {"busy": None},
        {"names": 5},
        {"min_memory_bytes": "40g"},
        {"min_capability": [8]},
        {"min_capability": [float("inf"), 0]},
        {"limit_s": 10**400},
        {"limit_s": float("nan")},
        {"limit_s": "soon"},
        {"by_process": "no"},
        {"request": []},
    ],
)
def test_what_cannot_be_meant_is_void(changes: dict[str, Any]) -> None:
    assert ask_of(written(**changes)) is None
    assert waiting_in(entry(written(**changes)), SERVED) is None


@pytest.mark.parametrize("name", ["id", "-1-id", "\u00b2-id", "9" * 40 + "-id", ""])
def test_a_name_without_a_number_is_no_place(name: str) -> None:
    assert waiting_in(entry(written(), name), SERVED) is None


def test_a_job_is_served_by_a_process_of_its_user_and_folder() -> None:
    alive = [
        waiting_in(entry(written(), uid=uid, alive=False), served)
        for uid, served in ((1000, SERVED), (1001, SERVED), (1000, {(1000, "/other")}))
    ]
    assert [item is not None and item.alive for item in alive] == [True, False, False]


def test_a_kernel_s_request_ends_with_its_process() -> None:
    kernel = written(by_process=True)
    assert waiting_in(entry(kernel, alive=False), SERVED) is None
    found = waiting_in(entry(kernel), set())
    assert found is not None
    assert (found.alive, found.sequence) == (True, 7)


@pytest.mark.parametrize("uuids", [5, "GPU-1", None, {"GPU-1": 1}])
def test_a_lease_of_nothing_known_holds_nothing(uuids: object) -> None:
    assert holders_by_uuid([], [entry({"uuids": uuids}, "holder")], 0) == {}


def test_an_absurd_end_is_no_end() -> None:
    (holder,) = holders_by_uuid([], [entry({"uuids": ["GPU-1"], "ends_at": 10**400}, "holder")], 0)["GPU-1"]
    assert holder.ends_at is None
