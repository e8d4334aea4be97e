"""Exit codes and last words, put into sentences."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jupyter_dlenv.jobs.diagnosis import explain, failing_rank, last_traceback
from jupyter_dlenv.resources import parse_size
from jupyter_dlenv.spec import Reason

REPORT = """
E1121 10:00:00.000000 77 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: {other}) local_rank: 0
Traceback (most recent call last):
  File "/usr/lib/python3.11/runpy.py", line 198, in _run_module_as_main
    return _run_code(code, main_globals, None,
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-21_10:00:01
  host      : node
  rank      : 0 (local_rank: 0)
  exitcode  : {other} (pid: 80)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 80
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:00:00
  host      : node
  rank      : 3 (local_rank: 3)
  exitcode  : {code} (pid: 83)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


@pytest.mark.parametrize(("code", "exit_code"), [("1", 1), ("42", 42), ("-9", 137), ("-11", 139)])
def test_the_root_cause_is_the_rank_that_failed_first(code: str, exit_code: int) -> None:
    assert failing_rank(REPORT.format(code=code, other="-15")) == (3, exit_code)


def test_the_last_report_counts() -> None:
    text = REPORT.format(code="1", other="1") + REPORT.format(code="7", other="1").replace(
        "rank      : 3", "rank      : 5"
    )
    assert failing_rank(text) == (5, 7)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all fine",
        "Root Cause (first observed failure):",
        "Root Cause (first observed failure):\n  rank      : many (local_rank: 1)\n  exitcode  : 1 (pid: 3)",
        "Root Cause (first observed failure):\n  rank      : " + "9" * 100_000,
        REPORT.format(code="1", other="1").split("Root Cause")[0],
    ],
    ids=range(6),
)
def test_no_report_no_rank(text: str) -> None:
    assert failing_rank(text) is None


def stderr_of(code: str) -> str:
    """Return what a real Python writes when a program fails."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


SIMPLE = "def f(): raise KeyError('lr')\nf()"
DURING = "try: 1/0\nexcept ZeroDivisionError: raise KeyError('lr')"
CAUSE = "try: 1/0\nexcept ZeroDivisionError as error: raise KeyError('lr') from error"
THREE = "try:\n try: 1/0\n except ZeroDivisionError: [][1]\nexcept IndexError as error: raise KeyError('lr') from error"


@pytest.mark.parametrize("code", [SIMPLE, DURING, CAUSE, THREE])
def test_the_traceback_with_all_that_led_to_it(code: str) -> None:
    text = stderr_of(code)
    noise = "epoch 1\nTraceback (most recent call last):\n  File 'x', line 1\nOSError: an older one\nepoch 2\n"
    assert last_traceback(noise + text) == text.rstrip("\n")
    assert last_traceback(noise + text + "\n[W] a warning afterwards\n") == text.rstrip("\n")


def test_an_older_traceback_is_not_part_of_it() -> None:
    older, newer = stderr_of(DURING), stderr_of(SIMPLE)
    assert last_traceback(older + newer) == newer.rstrip("\n")


@pytest.mark.parametrize("prefix", ["[rank1]: ", "[3] "])
def test_prefixes_are_taken_off(prefix: str) -> None:
    text = stderr_of(CAUSE)
    prefixed = "\n".join(f"{prefix}{line}" if line else line for line in text.split("\n"))
    assert last_traceback(prefixed) == text.rstrip("\n")


def test_a_message_of_several_lines_stays_whole() -> None:
    text = stderr_of("raise RuntimeError('CUDA error: out of memory\\nKernel errors may come later.\\nSet X=1')")
    assert last_traceback(text).endswith(
        "RuntimeError: CUDA error: out of memory\nKernel errors may come later.\nSet X=1"
    )


def test_a_syntax_error_and_its_marker() -> None:
    text = stderr_of("exec('def f(:')")
    assert last_traceback(text) == text.rstrip("\n")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
def test_an_exception_group() -> None:
    text = stderr_of("raise ExceptionGroup('two', [ValueError('one'), TypeError('other')])")
    assert last_traceback(text) == text.rstrip("\n")


@pytest.mark.parametrize("text", ["", "no such thing", "Traceback (most recent call first):", "\n" * 100_000])
def test_no_traceback(text: str) -> None:
    assert last_traceback(text) == ""


def test_an_unfinished_traceback_is_better_than_none() -> None:
    assert (
        last_traceback("x\nTraceback (most recent call last):\n  File") == "Traceback (most recent call last):\n  File"
    )


GIB = 1 << 30


@pytest.mark.parametrize(
    ("arguments", "reason", "words"),
    [
        ({"exit_code": 0}, Reason.COMPLETED, ""),
        ({"exit_code": 0, "oom_killed": True, "memory_limit": GIB}, Reason.COMPLETED, ""),
        ({"exit_code": 1}, Reason.USER_ERROR, "Ended with exit code 1."),
        ({"exit_code": 125}, Reason.ENGINE, "run folder"),
        ({"exit_code": 126}, Reason.USER_ERROR, "could not be run"),
        ({"exit_code": 127}, Reason.USER_ERROR, "not found"),
        ({"exit_code": 130}, Reason.KILLED, "SIGINT"),
        ({"exit_code": 134}, Reason.USER_ERROR, "SIGABRT"),
        ({"exit_code": 135}, Reason.OUT_OF_MEMORY, "--shm-size"),
        ({"exit_code": 139}, Reason.USER_ERROR, "SIGSEGV"),
        ({"exit_code": 143}, Reason.KILLED, "SIGTERM"),
        ({"exit_code": 136}, Reason.USER_ERROR, "Ended by signal SIGFPE."),
        ({"exit_code": 255}, Reason.USER_ERROR, "Ended with exit code 255."),
        ({"exit_code": 137, "oom_killed": True, "memory_limit": 8 * GIB}, Reason.OUT_OF_MEMORY, "--memory 16g"),
        ({"exit_code": 137, "oom_killed": True, "memory_limit": 8 * GIB}, Reason.OUT_OF_MEMORY, "limit of 8.0 GiB"),
        ({"exit_code": 1, "oom_killed": True, "memory_limit": 300 << 20}, Reason.OUT_OF_MEMORY, "--memory 600m"),
        ({"exit_code": 137, "oom_killed": True}, Reason.OUT_OF_MEMORY, "host ran out of memory"),
        ({"exit_code": 137, "stopped_by_us": True, "memory_limit": GIB}, Reason.STOPPED, "its owner"),
        ({"exit_code": 137, "memory_limit": GIB}, Reason.KILLED, "not for its memory limit"),
        ({"exit_code": 137, "timeout_s": 90.0}, Reason.TIMEOUT, "time limit of 90 s"),
    ],
    ids=str,
)
def test_every_end_has_its_reason(arguments: dict[str, object], reason: Reason, words: str) -> None:
    found, message = explain(**arguments)  # type: ignore[arg-type]
    assert found is reason
    assert words in message
    assert bool(message) == (reason is not Reason.COMPLETED)


@pytest.mark.parametrize("limit", [1, 4 << 20, 1000 << 20, GIB - 1, GIB, 3 * GIB // 2, 64 * GIB])
def test_the_size_to_try_next_can_be_typed(limit: int) -> None:
    message = explain(137, True, limit)[1]
    assert parse_size(message.rpartition("--memory ")[2].rstrip(".")) >= 2 * limit
