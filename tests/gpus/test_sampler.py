"""The sampler: who asks never waits for long, and a driver that hangs holds one thread."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest
from nvml_machine import Machine

from jupyter_dlenv.gpus import sampler as module
from jupyter_dlenv.gpus.inventory import NvmlReader
from jupyter_dlenv.gpus.model import Inventory, NvmlState
from jupyter_dlenv.gpus.sampler import Sampler, read_inventory, utilization

PATIENCE_S = 30.0
COUNT = "nvmlDeviceGetCount_v2"


class CountingReader(NvmlReader):
    """Counts what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.closes = 0

    def read(self) -> Inventory:
        """Count and read."""
        self.reads += 1
        return super().read()

    def close(self) -> None:
        """Count and close."""
        self.closes += 1
        super().close()


@pytest.fixture
def reader(here: Machine) -> CountingReader:
    """What the sampler below reads with."""
    return CountingReader()


@pytest.fixture
def patient(here: Machine, reader: CountingReader) -> Sampler:
    """A sampler that waits as long as it takes."""
    return Sampler(lambda: reader, limit_s=PATIENCE_S, keep_s=0.1)


@pytest.fixture
def sampler(here: Machine, reader: CountingReader) -> Iterator[Sampler]:
    """A sampler that loses its patience soon, and its thread too."""
    before = set(threading.enumerate())
    yield Sampler(lambda: reader, limit_s=1.0, keep_s=0.3)
    here.heal()
    until(lambda: not fresh(before))


def fresh(before: set[threading.Thread]) -> list[str]:
    """Return the names of the sampler's threads that were not there before."""
    return sorted(thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("dlenv-"))


def until(true: Callable[[], object]) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


# On demand ------------------------------------------------------------------------------------------------------------


def test_what_is_young_enough_is_not_read_again(here: Machine, sampler: Sampler, reader: CountingReader) -> None:
    first = sampler.latest(max_age_s=PATIENCE_S)
    assert (first.state, len(first.gpus)) == (NvmlState.OK, 8)
    assert sampler.latest(max_age_s=PATIENCE_S) is first
    assert sampler.latest(max_age_s=0) is not first
    assert reader.reads == 2


def test_all_who_wait_share_one_reading(here: Machine, patient: Sampler, reader: CountingReader) -> None:
    here.hang(COUNT, seconds=0.2)
    found: list[Inventory] = []

    def ask() -> None:
        found.append(patient.latest(PATIENCE_S, PATIENCE_S))

    askers = [threading.Thread(target=ask) for _number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE_S)
    assert [inventory.state for inventory in found] == [NvmlState.OK] * 8
    assert reader.reads == 1


def test_the_session_ends_when_nobody_asks(here: Machine, sampler: Sampler, reader: CountingReader) -> None:
    before = set(threading.enumerate())
    sampler.latest()
    until(lambda: reader.closes == 1 and not fresh(before))
    assert sampler.latest(max_age_s=0).state is NvmlState.OK


def test_no_event_loop_waits(here: Machine, sampler: Sampler) -> None:
    async def both() -> Inventory:
        here.hang(COUNT)
        asked = asyncio.create_task(asyncio.to_thread(sampler.latest))
        await asyncio.sleep(0.05)
        assert not asked.done()
        return await asked

    assert asyncio.run(both()).state is NvmlState.UNKNOWN


# A driver that hangs --------------------------------------------------------------------------------------------------


def test_a_hang_is_told_and_what_was_known_too(here: Machine, sampler: Sampler) -> None:
    known = sampler.latest()
    here.hang(COUNT)
    found = sampler.latest(max_age_s=0)
    assert found.state is NvmlState.UNKNOWN
    assert (found.gpus, found.links, found.taken_at) == (known.gpus, known.links, known.taken_at)
    assert "has not answered since" in found.message
    here.heal()
    until(lambda: sampler.latest(max_age_s=0).state is NvmlState.OK)
    assert sampler.latest(max_age_s=0).message == ""


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", COUNT, "nvmlDeviceGetMemoryInfo_v2", "nvmlEventSetWait_v2"])
def test_a_hang_at_the_very_first(here: Machine, sampler: Sampler, function: str) -> None:
    here.hang(function)
    found = sampler.latest()
    assert (found.state, found.gpus) == (NvmlState.UNKNOWN, ())
    assert found.message
    here.heal()
    until(lambda: len(sampler.latest(max_age_s=0).gpus) == 8)


def test_no_threads_pile_up(here: Machine, sampler: Sampler, reader: CountingReader) -> None:
    before = set(threading.enumerate())
    here.hang(COUNT)
    for _turn in range(50):
        assert sampler.latest(max_age_s=0, timeout_s=0.6).state is NvmlState.UNKNOWN
    assert fresh(before) == ["dlenv-nvml"]
    assert reader.reads == 1


def test_who_has_less_patience_waits_less(here: Machine, patient: Sampler) -> None:
    here.hang(COUNT)
    assert patient.latest(timeout_s=0.1).state is NvmlState.UNKNOWN
    here.heal()
    until(lambda: patient.latest(timeout_s=0.1).state is NvmlState.OK)


def test_who_has_more_patience_waits_no_longer_than_the_limit(here: Machine, sampler: Sampler) -> None:
    here.hang(COUNT)
    found: list[Inventory] = []
    asker = threading.Thread(target=lambda: found.append(sampler.latest(timeout_s=10_000)), daemon=True)
    asker.start()
    asker.join(PATIENCE_S)
    assert [inventory.state for inventory in found] == [NvmlState.UNKNOWN]


def test_a_slow_driver_is_no_silent_one(here: Machine, patient: Sampler) -> None:
    here.hang(COUNT, seconds=0.1)
    assert patient.latest(timeout_s=PATIENCE_S).state is NvmlState.OK


def test_a_hang_while_the_session_ends(here: Machine, sampler: Sampler, reader: CountingReader) -> None:
    sampler.latest()
    here.hang("nvmlShutdown")
    until(lambda: reader.closes)
    assert sampler.latest(max_age_s=0).state is NvmlState.UNKNOWN
    here.heal()
    until(lambda: sampler.latest(max_age_s=0).state is NvmlState.OK)


def test_who_asks_while_the_session_ends_gets_another(here: Machine, patient: Sampler, reader: CountingReader) -> None:
    patient.latest(timeout_s=PATIENCE_S)
    here.hang("nvmlShutdown", seconds=0.5)
    until(lambda: reader.closes)
    assert patient.latest(0, PATIENCE_S).state is NvmlState.OK


def test_a_driver_that_is_gone_is_told_with_the_time(here: Machine, sampler: Sampler) -> None:
    sampler.latest()
    here.unload()
    found = sampler.latest(max_age_s=0)
    assert (found.state, len(found.gpus)) == (NvmlState.UNKNOWN, 8)
    assert "failed since" in found.message
    assert "Driver Not Loaded" in found.message
    time.sleep(1.1)
    assert sampler.latest(max_age_s=0).message == found.message, "the time is that of the first failure"
    here.heal()
    assert sampler.latest(max_age_s=0).state is NvmlState.OK


# Subscribers ----------------------------------------------------------------------------------------------------------


def test_subscribers_are_told_at_the_pace_of_the_fastest(here: Machine, sampler: Sampler) -> None:
    slow: list[Inventory] = []
    fast: list[Inventory] = []
    end_slow = sampler.subscribe(slow.append, hz=0.01)
    until(lambda: len(slow) == 1)
    begin = time.monotonic()
    end_fast = sampler.subscribe(fast.append, hz=1000)
    until(lambda: len(fast) >= 4 and len(slow) >= 4)
    assert all(inventory.state is NvmlState.OK for inventory in fast)
    assert any(one is other for one in slow for other in fast), "one reading is for all"
    count = len(fast)
    assert count <= 1 + 10 * (time.monotonic() - begin), "ten a second at most"
    end_fast()
    count = len(slow)
    time.sleep(0.5)
    assert len(slow) <= count + 1, "back to the pace of the other"
    end_slow()


def test_without_subscribers_nothing_is_read(here: Machine, sampler: Sampler, reader: CountingReader) -> None:
    before = set(threading.enumerate())
    end = sampler.subscribe(lambda inventory: None, hz=10)
    until(lambda: reader.reads >= 2)
    end()
    end()
    until(lambda: not fresh(before))
    count = reader.reads
    time.sleep(0.3)
    assert reader.reads == count


def test_subscribers_hear_of_a_hang_and_of_its_end(here: Machine, sampler: Sampler) -> None:
    told: list[Inventory] = []
    end = sampler.subscribe(told.append, hz=10)
    until(lambda: told)
    here.hang(COUNT)
    until(lambda: told[-1].state is NvmlState.UNKNOWN)
    assert len(told[-1].gpus) == 8
    here.heal()
    until(lambda: told[-1].state is NvmlState.OK)
    end()


def test_a_subscriber_that_raises_is_dropped(here: Machine, sampler: Sampler, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[Inventory] = []
    told: list[Inventory] = []

    def bad(inventory: Inventory) -> None:
        calls.append(inventory)
        raise RuntimeError("Event loop is closed")

    sampler.subscribe(bad, hz=10)
    with caplog.at_level(logging.WARNING, module.__name__):
        end = sampler.subscribe(told.append, hz=10)
        until(lambda: len(told) >= 3)
    assert len(calls) == 1
    assert "Event loop is closed" in caplog.text
    end()


def test_even_an_error_that_nobody_expects_harms_no_other(
    here: Machine, sampler: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(Exception):
        pass

    def bad(inventory: Inventory) -> None:
        raise Odd

    raised: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    told: list[Inventory] = []
    sampler.subscribe(bad, hz=10)
    end = sampler.subscribe(told.append, hz=10)
    until(lambda: len(told) >= 3)
    assert raised == [Odd]
    end()


def test_a_subscriber_may_leave_while_it_is_told(here: Machine, sampler: Sampler) -> None:
    told: list[Inventory] = []
    ends: list[Callable[[], None]] = []

    def once(inventory: Inventory) -> None:
        told.append(inventory)
        ends[0]()

    ends.append(lambda: None)
    ends[0] = sampler.subscribe(once, hz=10)
    until(lambda: told)
    time.sleep(0.3)
    assert len(told) <= 2


# Of a process ---------------------------------------------------------------------------------------------------------


def test_it_works_in_a_forked_child(here: Machine, sampler: Sampler) -> None:
    told: list[Inventory] = []
    end = sampler.subscribe(told.append, hz=10)
    until(lambda: told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # what newer Pythons say of threads and forks
        child = os.fork()
    if not child:
        found = 1
        try:
            here.cards[0].percent = 77
            here.write()
            inventory = sampler.latest(max_age_s=0)
            mine = {thread.name for thread in threading.enumerate() if thread.name.startswith("dlenv-")}
            found = 0 if inventory.gpus[0].utilization_percent == 77 and mine == {"dlenv-nvml"} else 2
        finally:
            os._exit(found)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    end()


def test_the_one_of_this_process(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLER", Sampler(keep_s=0.1))  # another, so that later tests see no GPU of here
    here.cards[1].percent = 42
    here.split(2, "1g.10gb")
    assert len(read_inventory().gpus) == 8
    found = utilization()
    assert found[here.cards[1].uuid] == 42
    assert len(found) == 7, "a GPU that is split does not tell"
    here.unload()
    assert read_inventory().state is NvmlState.UNKNOWN
    assert utilization() == {}


def test_a_process_ends_though_its_driver_hangs(machine: Machine) -> None:
    machine.hang("nvmlInitWithFlags")
    program = "from jupyter_dlenv.gpus.sampler import read_inventory; print(read_inventory(0.5).state.value)"
    env = {**os.environ, **machine.env()}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert done.stdout == "unknown\n"
