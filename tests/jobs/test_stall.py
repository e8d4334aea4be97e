"""When a running job is said to hang, and when not."""

from __future__ import annotations

import pytest

from jupyter_dlenv.jobs.stall import Pulse, is_still, stalled

LIMIT_S = 600.0


@pytest.mark.parametrize(
    ("utilization", "memory", "still"),
    [
        (0, 0, True),
        (0, None, True),
        (1, 0, False),
        (100, 0, True),
        (100, 30, False),
        (100, None, False),
        (None, 0, False),
    ],
)
def test_a_gpu_is_still_when_idle_or_spinning(utilization: int | None, memory: int | None, still: bool) -> None:
    assert is_still(utilization, memory) is still


@pytest.mark.parametrize(
    ("pulse", "says"),
    [
        (Pulse(720, gpus=2, gpus_still_s=700), "No line for 12 min and its GPUs are idle"),
        (Pulse(720, gpus=2, gpus_still_s=599), ""),
        (Pulse(599, gpus=2, gpus_still_s=9999), ""),
        (Pulse(720, gpus=2), ""),
        (Pulse(720, gpus=2, cores=0.0), ""),
        (Pulse(720, gpus=2, gpus_still_s=700, cores=8.0), "its GPUs are idle"),
        (Pulse(660, cores=0.01), "No line for 11 min and hardly any CPU in use"),
        (Pulse(660, cores=0.5), ""),
        (Pulse(660), ""),
    ],
)
def test_only_who_is_silent_and_still_hangs(pulse: Pulse, says: str) -> None:
    found = stalled("night", pulse, LIMIT_S)
    assert says in found.message if found else not says


@pytest.mark.parametrize("after_s", [0.0, -1.0])
def test_it_can_be_switched_off(after_s: float) -> None:
    assert stalled("night", Pulse(1e9, cores=0.0), after_s) is None


@pytest.mark.parametrize(
    ("ranks", "quiet"),
    [
        ({}, ()),
        ({0: 700.0}, ()),
        ({0: 700.0, 1: 700.2}, ()),
        ({0: 700.0, 1: 900.0, 2: 700.0}, (1,)),
        ({0: 650.0, 1: 900.0, 2: 900.5, 3: 650.0}, (2, 1)),
    ],
)
def test_the_ranks_that_stopped_first_are_named(ranks: dict[int, float], quiet: tuple[int, ...]) -> None:
    found = stalled("night", Pulse(650, gpus=4, gpus_still_s=650, ranks=ranks), LIMIT_S)
    assert found
    assert found.ranks == quiet
    assert ("Silent longest: rank " + ", ".join(map(str, quiet)) in found.message) == bool(quiet)


def test_many_ranks_are_not_all_named() -> None:
    ranks = {0: 600.0, **dict.fromkeys(range(1, 65), 900.0)}
    found = stalled("night", Pulse(650, gpus=64, gpus_still_s=650, ranks=ranks), LIMIT_S)
    assert found
    assert found.message.endswith("rank 1, 2, 3, 4.")
    assert len(found.ranks) == 64


def test_the_remedy_names_the_job_and_fits_it() -> None:
    with_gpus, without = stalled("night", Pulse(650, 1, 650), LIMIT_S), stalled("night", Pulse(650, cores=0), LIMIT_S)
    assert with_gpus
    assert without
    assert "jupyter dlenv shell night" in with_gpus.remedy
    assert "NCCL_DEBUG=INFO" in with_gpus.remedy
    assert "NCCL" not in without.remedy
