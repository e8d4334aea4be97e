"""Exit codes and last words, put into sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker_images
import pytest

from jupyter_dlenv.jobs.diagnosis import Diagnosis, Facts, NodeFacts, diagnose, explain, failing_rank
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


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[dlenv] rank 3 (ps 1) failed first: exit code 137", (3, 137)),
        ("[dlenv] rank 0 failed first: exit code 1", (0, 1)),
        ("[dlenv] rank 0 failed", None),
        (
            "mpirun detected that one or more processes exited with non-zero status, thus causing\nthe job to be "
            "terminated. The first process to do so was:\n\n  Process name: [[58461,1],3]\n  Exit code:    2",
            (3, 2),
        ),
        ("   Process name: [prterun-n-77@1,1]\n   Exit code:    3", (1, 3)),
        ("mpirun noticed that process rank 1 with PID 77 on node n exited on signal 9 (Killed).", (1, 137)),
        (
            "prterun noticed that process rank 2 with PID 77 on node n exited on\nsignal 11 (Segmentation fault).",
            (2, 139),
        ),
    ],
)
def test_what_our_own_program_and_others_report(line: str, found: tuple[int, int] | None) -> None:
    assert failing_rank(f"a line\n{line}\nanother\n") == found


def stderr_of(code: str) -> str:
    """Return what a real Python writes when a program fails."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr


def last_traceback(text: str) -> str:
    """Return the traceback that is shown of a single process that failed."""
    return diagnose(Facts(1, nodes=(NodeFacts(launcher=text),))).traceback


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


# Several processes ----------------------------------------------------------------------------------------------------

PEER_LOST = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:16432"


def failed(words: str) -> str:
    """Return the standard error of a process that ended with an exception."""
    return f'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n    run()\n{words}\n'


def of_nodes(*nodes: NodeFacts, **given: Any) -> Diagnosis:
    """Return why a job of these nodes failed."""
    return diagnose(Facts(1, nodes=nodes, mounts=("/project",), **given))


def test_the_reported_rank_is_the_cause_whatever_others_say() -> None:
    report = REPORT.format(code="1", other="1")
    ranks = {
        0: ("", failed(PEER_LOST)),
        1: ("", failed("OSError: [Errno 98] in use")),
        3: ("", failed("KeyError: 'lr'")),
    }
    found = of_nodes(NodeFacts(0, report, ranks, 1))
    assert (found.cause, found.rank, found.evidence) == ("exception", 3, "KeyError: 'lr'")
    assert found.traceback.endswith("KeyError: 'lr'")
    assert found.node is None


def test_a_lost_connection_is_no_cause_where_another_rank_has_one() -> None:
    report = REPORT.format(code="1", other="1")
    ranks = {0: ("", failed("ModuleNotFoundError: No module named 'yaml'")), 3: ("", failed(PEER_LOST))}
    found = of_nodes(NodeFacts(0, report, ranks, 1))
    assert (found.cause, found.rank) == ("module", 0)


def test_a_lost_connection_is_the_cause_where_nothing_else_is() -> None:
    found = of_nodes(NodeFacts(0, REPORT.format(code="1", other="1"), {3: ("", failed(PEER_LOST)), 0: ("", "")}, 1))
    assert (found.cause, found.rank) == ("peer-lost", 3)


def test_a_rank_s_signal_is_its_own_and_not_the_launcher_s() -> None:
    found = of_nodes(NodeFacts(0, REPORT.format(code="-9", other="-15"), {0: ("", failed(PEER_LOST)), 3: ("", "")}, 1))
    assert (found.cause, found.rank, found.reason) == ("killed", 3, Reason.KILLED)
    found = of_nodes(NodeFacts(0, REPORT.format(code="-7", other="-15"), {0: ("", ""), 3: ("", "")}, 1), shm_bytes=GIB)
    assert (found.cause, found.rank) == ("bus-error", 3)
    assert "--shm-size 2g" in found.remedy


def test_a_memory_limit_names_the_rank_that_it_hit() -> None:
    node = NodeFacts(0, REPORT.format(code="-9", other="-15"), {0: ("", failed(PEER_LOST)), 3: ("", "")}, 1)
    found = of_nodes(node, oom_killed=True, memory_limit=GIB)
    assert (found.cause, found.rank, found.evidence) == ("memory-limit", 3, "")


def test_ranks_without_a_report_are_compared() -> None:
    ranks = {0: ("", failed(PEER_LOST)), 1: ("", failed("ValueError: boom")), 2: ("", failed(PEER_LOST))}
    found = of_nodes(NodeFacts(0, "", ranks, 1))
    assert (found.cause, found.rank, found.evidence) == ("exception", 1, "ValueError: boom")


def test_ranks_in_one_text_are_told_apart_by_their_marks() -> None:
    marked = "".join(
        f"[rank{rank}]: {line}\n"
        for pair in zip(failed(PEER_LOST).splitlines(), failed("KeyError: 'lr'").splitlines(), strict=True)
        for rank, line in enumerate(pair, 2)
    )
    found = of_nodes(NodeFacts(0, marked + REPORT.format(code="1", other="1"), {}, 1))
    assert (found.cause, found.rank, found.evidence) == ("exception", 3, "KeyError: 'lr'")


def test_the_launcher_s_own_traceback_is_not_the_script_s() -> None:
    found = of_nodes(NodeFacts(0, failed("ValueError: boom") + REPORT.format(code="1", other="1"), {}, 1))
    assert (found.cause, found.rank, found.evidence) == ("exception", 3, "ValueError: boom")
    assert "ChildFailedError" not in found.traceback


def at(clock: str, rank: int) -> str:
    """Return torchrun's report of a rank that failed at that time."""
    report = REPORT.format(code="1", other="1").replace(
        "rank      : 3 (local_rank: 3)", f"rank      : {rank} (local_rank: 1)"
    )
    return report.replace("2026-11-21_10:00:00", clock)


def test_the_first_failure_among_nodes_counts() -> None:
    early, late = failed("ValueError: early"), failed("OSError: [Errno 28] No space left on device")
    first = NodeFacts(0, at("2026-11-21_10:00:09", 1), {0: ("", ""), 1: ("", late)}, 1)
    second = NodeFacts(1, at("2026-11-21_10:00:04", 3), {2: ("", ""), 3: ("", early)}, 1)
    found = of_nodes(first, second)
    assert (found.node, found.rank, found.evidence) == (1, 3, "ValueError: early")
    found = of_nodes(first, second, first_node=0)
    assert (found.node, found.rank, found.cause) == (0, 1, "disk-full")


def test_a_node_that_was_stopped_for_another_is_never_the_first() -> None:
    stopped = NodeFacts(0, "", {0: ("", failed("KeyError: 'in a handler'"))}, 143, "gang")
    found = of_nodes(stopped, NodeFacts(1, "", {1: ("", failed("ValueError: boom"))}, 1))
    assert (found.node, found.rank, found.evidence) == (1, 1, "ValueError: boom")


def test_a_node_s_lost_connection_gives_way_to_another_node_s_cause() -> None:
    nodes = NodeFacts(0, "", {0: ("", failed(PEER_LOST))}, 1), NodeFacts(1, failed("MemoryError"), {}, 1)
    assert (of_nodes(*nodes, first_node=0).cause, of_nodes(*nodes, first_node=0).node) == ("allocation", 1)


def test_a_collective_that_timed_out_gives_way_to_a_real_failure() -> None:
    timeout = "RuntimeError: Timed out waiting 1800000ms for recv operation to complete"
    ranks = {0: ("", failed(timeout)), 1: ("", failed("ValueError: boom"))}
    assert of_nodes(NodeFacts(0, "", ranks, 1)).cause == "exception"
    assert of_nodes(NodeFacts(0, "", {0: ("", failed(timeout)), 1: ("", failed(timeout))}, 1)).cause == "nccl-timeout"


# What counts in a text ------------------------------------------------------------------------------------------------


def of_text(text: str, exit_code: int = 1) -> Diagnosis:
    """Return why a single process failed that wrote this."""
    return diagnose(Facts(exit_code, nodes=(NodeFacts(launcher=text),)))


def test_what_was_said_before_the_last_traceback_does_not_count() -> None:
    warnings = "CUDA out of memory. Skipping this batch.\n" + failed("OSError: [Errno 28] No space left on device")
    assert of_text(warnings + "epoch 2\n" + failed("ValueError: boom")).evidence == "ValueError: boom"


def test_the_code_that_a_traceback_shows_does_not_count() -> None:
    text = failed("ValueError: boom").replace("    run()", '    raise MemoryError("CUDA out of memory.")')
    assert of_text(text).cause == "exception"


def test_an_exception_s_cause_counts() -> None:
    text = stderr_of("try: open('/nowhere/x')\nexcept OSError as error: raise RuntimeError('no data') from error")
    found = of_text(text)
    assert (found.cause, found.remedy) == ("file-outside", "Show its folder: --mount /nowhere:/nowhere:ro")
    assert found.traceback == text.rstrip("\n")


def test_a_killed_process_is_not_explained_by_what_it_printed_before() -> None:
    assert of_text(failed("ValueError: handled") + "epoch 2\n" * 100, 137).cause == "killed"


def test_evidence_is_one_readable_line() -> None:
    long = "ValueError: " + "x" * 10_000
    found = of_text(failed(long).replace("ValueError", "\x1b[31mValueError\x1b[0m"))
    assert found.evidence.startswith("ValueError: xxx")
    assert len(found.evidence) == 400
    assert len(found.message) < 300


def test_progress_bars_are_read_as_they_are_shown() -> None:
    assert of_text(" 10%|#\r 20%|##\rOSError: nothing\r\nMemoryError\n").evidence == "MemoryError"


def test_a_package_of_the_user_s_own_is_told_from_one_to_install() -> None:
    text = failed("ModuleNotFoundError: No module named 'gear'")
    found = diagnose(Facts(1, modules=("gear",), nodes=(NodeFacts(launcher=text),)))
    assert (found.cause, of_text(text).cause) == ("local-module", "module")


HOSTILE = {
    "one long line": "x" * (1 << 18),
    "one long word": "a." * (1 << 17),
    "brackets": "[" * (1 << 18),
    "escapes": "\x1b[" * (1 << 17),
    "open escape": "\x1b[" + "0" * (1 << 18),
    "tracebacks": "Traceback (most recent call last):\n" * 7000,
    "chained": "The above exception was the direct cause of the following exception:\n\n"
    "Traceback (most recent call last):\n" * 2000,
    "reports": "Root Cause (first observed failure):\n  rank : " * 5000,
    "almost signs": "OOM when allocating tensor with shape unable to write to file NCCL error in: " * 3000,
    "almost names": "No such file or directory: '" * 9000,
    "almost libraries": "lib" * 80_000 + ".so",
    "carriage returns": "\r" * (1 << 18),
    "newlines": "\n" * (1 << 18),
    "spaces": " " * (1 << 18),
    "colons": ": /x" * 60_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_no_text_takes_long(text: str) -> None:
    """Sixteen ranks of it; an expression that backtracks takes hours."""
    ranks = dict.fromkeys(range(16), (text, text))
    assert diagnose(Facts(1, nodes=(NodeFacts(0, text, ranks, 1),))).message


# Real failures --------------------------------------------------------------------------------------------------------

BASE = "base"
TORCH = "torch"

SHARED = """
from multiprocessing import shared_memory
memory = shared_memory.SharedMemory(create=True, size=1 << 22)
memory.buf[:] = bytes(1 << 22)
"""
LOADER = """
import torch
from torch.utils.data import DataLoader, Dataset
class Ones(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index): return torch.ones(1 << 20)
if __name__ == "__main__":
    for batch in DataLoader(Ones(), batch_size=4, num_workers=1): pass
"""
THREADS = (
    "import threading, time\nfor _ in range(99): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()"
)
PORT = "import socket\ns = socket.create_server(('', 9000))\nsocket.create_server(('', 9000))"
STORE = """
import datetime, torch.distributed
torch.distributed.init_process_group(
    "gloo", init_method="tcp://127.0.0.1:29500", rank={rank}, world_size=2, timeout=datetime.timedelta(seconds=1)
)
"""
NO_PEER = STORE.format(rank=1)
PORT_OF_STORE = "import socket\ns = socket.create_server(('', 29500))\n" + STORE.format(rank=0)

REAL: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("memory-limit", BASE, "x = bytearray(1 << 30)", {"mem_limit": "64m", "memswap_limit": "64m"}),
    ("bus-error", BASE, SHARED, {"shm_size": "1m"}),
    ("shm-full", TORCH, LOADER, {"shm_size": "1m"}),
    ("disk-full", BASE, "open('/t/x', 'wb').write(bytes(1 << 20))", {"tmpfs": {"/t": "size=64k"}}),
    ("processes", BASE, THREADS, {"pids_limit": 20}),
    (
        "open-files",
        BASE,
        "x = [open('/etc/passwd') for _ in range(99)]",
        {"ulimits": [{"Name": "nofile", "Soft": 20, "Hard": 20}]},
    ),
    ("read-only", BASE, "open('/etc/x', 'w')", {"read_only": True}),
    ("permission", BASE, "open('/etc/shadow')", {}),
    ("file-outside", BASE, "open('/data/x.csv')", {}),
    ("file-missing", BASE, "open('x.csv')", {}),
    ("program-missing", BASE, "import subprocess\nsubprocess.run(['ffmpeg'])", {}),
    ("module", BASE, "import cv2", {}),
    ("local-module", BASE, "import utils", {}),
    ("system-module", BASE, "import tkinter", {}),
    ("opencv-libraries", BASE, "import ctypes\nctypes.CDLL('libGL.so.1')", {}),
    ("library", BASE, "import ctypes\nctypes.CDLL('libsndfile.so.1')", {}),
    ("port-in-use", BASE, PORT, {}),
    ("port-in-use", TORCH, PORT_OF_STORE, {}),
    ("rendezvous", TORCH, STORE.format(rank=0), {}),
    ("rendezvous", TORCH, NO_PEER, {}),
    ("connection-refused", BASE, "import socket\nsocket.create_connection(('127.0.0.1', 9))", {}),
    ("no-network", BASE, "import urllib.request as r\nr.urlopen('http://example.org')", {}),
    ("no-cuda-build", TORCH, "import torch\ntorch.ones(1).cuda()", {}),
    ("allocation", TORCH, "import torch\ntorch.empty(1 << 50)", {}),
    ("allocation", BASE, "x = bytearray(1 << 60)", {}),
    ("start-method", BASE, "import multiprocessing as m\nm.set_start_method('spawn')\nm.set_start_method('fork')", {}),
    ("pickle-main", BASE, "import pickle\npickle.dumps(lambda: 1)", {}),
    (
        "arguments",
        BASE,
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args()",
        {},
    ),
    ("syntax", BASE, "def f(:", {}),
    (
        "architecture",
        BASE,
        "import os\nopen('/tmp/x', 'w').write('x')\nos.chmod('/tmp/x', 0o755)\nos.execv('/tmp/x', ['x'])",
        {},
    ),
    ("killed", BASE, "import os\nos.kill(os.getpid(), 9)", {}),
    ("crash", BASE, "import ctypes\nctypes.string_at(0)", {}),
    ("cpu-instructions", BASE, "import os\nos.kill(os.getpid(), 4)", {}),
    ("aborted", BASE, "import os\nos.abort()", {}),
    ("terminated", BASE, "import os\nos.kill(os.getpid(), 15)", {}),
    ("exit-code", BASE, "raise SystemExit(3)", {}),
)


def ran(image: str, code: str, folder: Path, options: dict[str, Any], launcher: Sequence[str] = ("-B",)) -> Facts:
    """Run a script in a container without network as an ordinary user, and return what is known of its end."""
    engine = docker_images.engine()
    (folder / "train.py").write_text(code)
    folder.chmod(0o755)
    host = {"network_mode": "none", "init": True, "binds": [f"{folder}:/project:ro"], **options}
    argv = ["python3", *launcher, "/project/train.py"]
    made = engine.create_container(
        image,
        argv,
        user=str(os.getuid() or 12345),
        hostname="node",
        working_dir="/project",
        host_config=engine.create_host_config(**host),
    )["Id"]
    try:
        engine.start(made)
        exit_code = int(engine.wait(made)["StatusCode"])
        log = engine.logs(made).decode("utf-8", "replace")
        killed = bool(engine.inspect_container(made)["State"]["OOMKilled"])
    finally:
        engine.remove_container(made, force=True)
    limit = 64 << 20 if "mem_limit" in options else 0
    node = NodeFacts(launcher=log, exit_code=exit_code)
    return Facts(
        exit_code, killed, limit, 1 << 20, network="none", mounts=("/project",), workdir="/project", nodes=(node,)
    )


@pytest.mark.docker
@pytest.mark.parametrize(
    ("cause", "image", "code", "options"), REAL, ids=[f"{number}-{each[0]}" for number, each in enumerate(REAL)]
)
def test_real_failures(
    cause: str, image: str, code: str, options: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    reference = request.getfixturevalue("torch_image") if image == TORCH else docker_images.base_image()
    facts = ran(reference, code, tmp_path, options)
    found = diagnose(facts)
    assert found.cause == cause, facts
    assert found.evidence in facts.nodes[0].launcher


RANKS = """
import os, sys, time, torch, torch.distributed
torch.distributed.init_process_group("gloo")
one = torch.ones(1)
torch.distributed.all_reduce(one)
if os.environ["RANK"] == "1":
    {end}
torch.distributed.all_reduce(one)
time.sleep(60)
"""


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "cause", "evidence"),
    [
        ("raise ValueError('boom')", "exception", "ValueError: boom"),
        ("os.kill(os.getpid(), 9)", "killed", ""),
        ("os._exit(3)", "exit-code", ""),
    ],
)
def test_real_ranks_under_torchrun(end: str, cause: str, evidence: str, torch_image: str, tmp_path: Path) -> None:
    logs = tmp_path / "ranks"
    logs.mkdir()
    logs.chmod(0o777)
    script = tmp_path / "script"
    script.mkdir()
    options = {"binds": [f"{script}:/project:ro", f"{logs}:/ranks"], "extra_hosts": {"node": "127.0.0.1"}}
    launcher = (
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--redirects=3",
        "--log-dir=/ranks",
    )
    facts = ran(torch_image, RANKS.format(end=end), script, options, launcher)
    texts = {
        rank: (path.with_name("stdout.log").read_text(), path.read_text())
        for rank in (0, 1)
        for path in logs.glob(f"*/attempt_0/{rank}/stderr.log")
    }
    found = diagnose(replace(facts, nodes=(replace(facts.nodes[0], ranks=texts),)))
    assert (found.cause, found.rank) == (cause, 1), (facts, texts)
    assert evidence in found.evidence
    assert bool(found.evidence) == bool(evidence)
    assert "ChildFailedError" not in found.traceback
