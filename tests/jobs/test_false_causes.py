"""What must not be taken for the cause: what was handled, what is only noise, and what comes after the end."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from jupyter_dlenv.jobs.diagnosis import Diagnosis, Facts, NodeFacts, diagnose

EPOCHS = "".join(f"epoch {number} loss 0.5\n" for number in range(200))
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"
FROM = "\nThe above exception was the direct cause of the following exception:\n\n"
NO_APEX = "ModuleNotFoundError: No module named 'apex'"
NO_CACHE = "FileNotFoundError: [Errno 2] No such file or directory: 'cache.pt'"
DISK_FULL = "OSError: [Errno 28] No space left on device"
BOOM = "ValueError: boom"

NOISE = (
    "2024-01-01 10:00:00.0: W tensorflow/dso_loader.cc:64] Could not load dynamic library 'libcudart.so.11.0'; "
    "dlerror: libcudart.so.11.0: cannot open shared object file: No such file or directory",
    "INFO:2024-01-01 00:00:00,000:jax._src.xla_bridge:925: Unable to initialize backend 'cuda': ",
    "[W1122 10:00:00 socket.cpp:426] [c10d] The server socket has failed to bind (errno: 98 - Address already in use).",
    "WARNING Max retries exceeded with url: /x, retrying",
    "wandb: Network error (ConnectTimeoutError), entering retry loop.",
)


def raised(words: str) -> str:
    """Return what Python writes of an exception."""
    return f'Traceback (most recent call last):\n  File "t.py", line 3, in <module>\n    run()\n{words}\n'


def of_text(text: str, exit_code: int = 1) -> Diagnosis:
    """Return why a single process failed that wrote this."""
    node = NodeFacts(launcher=text, exit_code=exit_code)
    return diagnose(Facts(exit_code, mounts=("/project",), workdir="/project", gpus=1, nodes=(node,)))


# Long before the end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exit_code", "cause"), [(1, "exit-code"), (3, "exit-code"), (137, "killed"), (139, "crash"), (143, "terminated")]
)
@pytest.mark.parametrize("early", [raised(NO_APEX), raised(BOOM), f"{DISK_FULL}\n", *(f"{line}\n" for line in NOISE)])
def test_what_was_written_long_before_the_end_says_nothing(early: str, exit_code: int, cause: str) -> None:
    found = of_text(early + EPOCHS, exit_code)
    assert (found.cause, found.evidence, found.traceback) == (cause, "", "")


@pytest.mark.parametrize("line", NOISE)
def test_a_warning_right_before_the_end_says_nothing(line: str) -> None:
    assert of_text(f"epoch 1\n{line}\n", 3).cause == "exit-code"


@pytest.mark.parametrize(("exit_code", "cause"), [(137, "killed"), (139, "crash"), (143, "terminated")])
def test_a_signal_from_outside_is_its_own_cause(exit_code: int, cause: str) -> None:
    found = of_text(raised(NO_APEX) + "epoch 1\n", exit_code)
    assert (found.cause, found.traceback) == (cause, "")


def test_a_rank_s_signal_is_not_explained_by_what_it_handled() -> None:
    node = NodeFacts(0, "[dlenv] rank 1 failed first: exit code 137\n", {0: ("", ""), 1: ("", raised(NO_APEX))}, 137)
    found = diagnose(Facts(137, nodes=(node,)))
    assert (found.cause, found.rank, found.traceback) == ("killed", 1, "")


def test_a_real_process_that_handled_an_exception_and_was_killed() -> None:
    code = (
        "import traceback, os\ntry: import nowhere\nexcept ImportError: traceback.print_exc()\n"
        "for i in range(200): print('epoch', i, flush=True)\nos.kill(os.getpid(), 9)"
    )
    assert of_text(written(code), 137).cause == "killed"


def written(code: str) -> str:
    """Return all that a real Python writes."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    run = subprocess.run([sys.executable, "-c", code], stdout=-1, stderr=-2, text=True, check=False, env=environment)
    return str(run.stdout)


@pytest.mark.parametrize(
    "behind",
    [
        "wandb: loss 0.5\n" * 60,
        "node:1:2 [0] NCCL INFO comm 0x1 Abort COMPLETE\n" * 60,
        "Exception raised from get at x.cpp:2 (most recent call first):\n" + "frame #0: c10::Error\n" * 80,
        "last words\n" * 29,
        raised("subprocess.CalledProcessError: Command 'python' returned non-zero exit status 1."),
    ],
    ids=["wandb", "nccl", "c++", "some", "launcher"],
)
def test_what_ended_it_may_have_some_lines_behind_it(behind: str) -> None:
    assert of_text(raised(BOOM) + behind).evidence == BOOM
    assert of_text(raised(NO_APEX) + behind).cause == "module"


# While the process ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behind",
    [
        "Exception ignored in: <function Loader.__del__ at 0x7f>\n" + raised("OSError: [Errno 24] Too many open files"),
        "Error in atexit._run_exitfuncs:\n" + raised(DISK_FULL),
        "Exception in thread Thread-1:\n" + raised(DISK_FULL),
        "--- Logging error ---\n" + raised(DISK_FULL),
        "Task exception was never retrieved\nfuture: <Task>\n" + raised(DISK_FULL),
        "tensorboard: could not flush: [Errno 28] No space left on device\n",
        "wandb: Waiting for W&B process to finish...\nConnectionError: wandb could not upload\n",
    ],
)
def test_what_is_written_behind_an_exception_is_not_the_cause(behind: str) -> None:
    found = of_text(raised(BOOM) + behind)
    assert (found.cause, found.evidence) == ("exception", BOOM)
    assert "Exception ignored" not in found.traceback


def test_a_real_destructor_that_fails_behind_an_exception() -> None:
    code = (
        "class Loader:\n def __del__(self): raise OSError(24, 'Too many open files')\n"
        "loader = Loader()\nraise ValueError('boom')"
    )
    assert of_text(written(code)).evidence == BOOM


def test_a_thread_s_exception_counts_where_nothing_else_does() -> None:
    text = "Exception in thread Thread-1:\n" + raised(DISK_FULL)
    assert of_text(text + "the writer failed\n").cause == "disk-full"
    assert of_text(text + EPOCHS).cause == "exit-code"


def test_log_lines_are_no_part_of_a_shown_traceback() -> None:
    assert of_text(raised(BOOM) + "closing\n" * 20).traceback == raised(BOOM).rstrip("\n")


# Exceptions that led to each other ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handled", "last", "cause"),
    [
        (NO_CACHE, BOOM, "exception"),
        (NO_APEX, "FileNotFoundError: [Errno 2] No such file or directory: '/data/x'", "file-outside"),
        (NO_CACHE, DISK_FULL, "disk-full"),
        (DISK_FULL, "BrokenPipeError: [Errno 32] Broken pipe", "disk-full"),
        ("_queue.Empty", "ConnectionResetError: [Errno 104] Connection reset by peer", "peer-lost"),
    ],
)
def test_a_handled_exception_gives_way_to_the_one_that_came_of_it(handled: str, last: str, cause: str) -> None:
    assert of_text(raised(handled) + DURING + raised(last)).cause == cause


def test_an_exception_counts_from_which_another_was_raised() -> None:
    assert of_text(raised(NO_APEX) + FROM + raised("RuntimeError: no plugin")).cause == "module"
    last = raised(NO_APEX) + DURING + raised(DISK_FULL) + FROM + raised("RuntimeError: not saved")
    assert of_text(last).cause == "disk-full"


def test_an_abort_is_told_by_what_says_most() -> None:
    qt = "qt.qpa.xcb: could not connect to display\n"
    oom = raised("torch.OutOfMemoryError: CUDA out of memory.")
    watchdog = "[E626] [Rank 1] Watchdog caught collective operation timeout\nterminate called\n"
    assert of_text(raised("ImportError: no apex here") + qt, 134).cause == "display"
    assert of_text(oom + watchdog, 134).cause == "gpu-memory"
    found = of_text(raised(BOOM) + "terminate called without an active exception\n", 134)
    assert (found.cause, BOOM in found.traceback) == ("aborted", True)


def test_a_rank_that_another_s_failure_aborted_is_not_the_cause() -> None:
    jax = "F1122 client.h:80] Terminating process because the JAX distributed service detected fatal errors.\n"
    ranks = {0: ("", raised(BOOM)), 1: ("", jax)}
    node = NodeFacts(0, "[dlenv] rank 1 failed first: exit code 134\n", ranks, 134)
    found = diagnose(Facts(134, nodes=(node,)))
    assert (found.cause, found.rank) == ("exception", 0)


# Where a message stands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (" 10%|#   | 3/100 [00:01<?, ?it/s]" + raised("KeyError: 'lr'"), "KeyError: 'lr'"),
        (raised("KeyError: 'lr'").replace("    run()", "epoch 3 loss 2\n    run()"), "KeyError: 'lr'"),
        (
            raised(
                "KeyError: Caught KeyError in DataLoader worker process 0.\n"
                "Original Traceback (most recent call last):\n"
                "  File \"w.py\", line 3, in _worker_loop\n    raise MemoryError\nKeyError: 'label'"
            ),
            "KeyError: 'label'",
        ),
        (
            "  + Exception Group " + raised("    | ValueError: one\nepoch").replace("\n  ", "\n  | "),
            "ValueError: one",
        ),
        (raised("mylib.Bad.<locals>.Config: lr\nERROR: y"), "mylib.Bad.<locals>.Config: lr"),
    ],
    ids=["behind a bar", "between frames", "quoted", "group", "own class"],
)
def test_messages_are_found(text: str, evidence: str) -> None:
    found = of_text(text)
    assert (found.cause, found.evidence) == ("exception", evidence)
