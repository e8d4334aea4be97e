"""The metrics of jobs: read as their logs grow, and kept."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from jupyter_dlenv.engines.folder import RunFolder
from jupyter_dlenv.jobs import measures
from jupyter_dlenv.jobs.measures import keep_metrics, measured
from jupyter_dlenv.jobs.metrics import MetricReader
from jupyter_dlenv.jobs.records import JobFolder, JobRecord
from jupyter_dlenv.launchers import Program, command
from jupyter_dlenv.spec import new_id

SCRIPT = """
import sys
from jupyter_dlenv.jobs import measures
from jupyter_dlenv.jobs.records import JobFolder
measures._AT_ONCE_BYTES = 0
folder = JobFolder(sys.argv[1])
measures.keep_metrics(folder, folder.record(), 1 << 20)
"""


def job(log: str, **changes: Any) -> tuple[JobFolder, JobRecord]:
    """Return a job with a log."""
    base: dict[str, Any] = {"id": new_id(), "name": "n", "owner": "o", "engine": "process", "command": "c"}
    record = JobRecord(**{**base, "launcher": "python", "nproc": 1, **changes})
    folder = JobFolder(record.id)
    assert folder.create(record)
    RunFolder(folder.run).create()
    (folder.run / "log").write_text(log)
    return folder, record


def test_they_are_read_on_and_kept() -> None:
    folder, record = job("epoch 1 loss: 0.5\n")
    assert measured(folder, record, ended=False)["rows"] == [[1, None, 0, 0.5]]
    with (folder.run / "log").open("a") as log:
        log.write("epoch 2 loss: 0.25\n")
    made = measured(folder, record, ended=False)
    assert made["rows"][1:] == [[2, None, 0, 0.25]]
    assert not folder.metrics.exists()
    keep_metrics(folder, record, 10)
    assert folder.metrics.read_text().split() == ["epoch,step,rank,name,value", "1,,0,loss,0.5", "2,,0,loss,0.25"]
    assert measured(folder, record, ended=True) == made == {**made, "note": "", "total": 2}


def test_a_process_that_ends_keeps_them_first() -> None:
    folder, _record = job("".join(f"epoch {n} loss: 0.5\n" for n in range(50_000)))
    subprocess.run([sys.executable, "-c", SCRIPT, folder.path.name], check=True, timeout=60)
    assert len(folder.metrics.read_text().splitlines()) == 50_001


def test_who_ends_too_early_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder, record = job("loss: 1\n")
    reader = measures._reader(folder, record)
    monkeypatch.setattr(measures, "_AT_ONCE_BYTES", 0)
    monkeypatch.setattr(measures, "_EXIT_PATIENCE_S", 0.0)
    with reader._lock:
        keep_metrics(folder, record, 1)
        measures._finish_keeping()
        assert folder.path.name in capsys.readouterr().err
    monkeypatch.setattr(measures, "_EXIT_PATIENCE_S", 30.0)
    measures._finish_keeping()
    assert folder.metrics.exists()


def test_a_look_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, record = job("loss: 1\n" * 100)
    monkeypatch.setattr(measures, "_PATIENCE_S", 0.0)
    assert measured(folder, record, ended=False)["rows"] == []
    monkeypatch.setattr(measures, "_PATIENCE_S", 10.0)
    assert len(measured(folder, record, ended=False)["rows"]) == 100


def test_what_is_missing_is_told() -> None:
    folder, record = job(
        ("a" * 1500 + "\n") + "epoch 1 " + " ".join(f"x{n}=1" for n in range(40)) + "\n", plot=(r"(?P<x>(a+)+)[bc]",)
    )
    made = measured(folder, record, ended=False)
    assert "(a+)+" in made["note"]
    assert "too many metrics" in made["note"]
    keep_metrics(folder, record, 1)
    assert measured(folder, record, ended=True)["note"] == made["note"]


@pytest.mark.parametrize(
    ("changes", "line", "rank"),
    [
        ({}, "[3] loss: 0.5", 0),
        ({"nproc": 4}, "[3] loss: 0.5", 3),
        ({"nodes": 2}, "[node 1] loss: 0.5", "node 1"),
        ({"launcher": "tensorflow-ps"}, "[worker 0] loss: 0.5", "worker 0"),
        ({"nproc": 4}, "[worker 0] loss: 0.5", 0),
    ],
)
def test_whose_lines_they_are(changes: dict[str, Any], line: str, rank: int | str) -> None:
    folder, record = job(line + "\n", plot=(r"loss: (?P<loss>\S+)",), **changes)
    assert measured(folder, record, ended=True)["rows"] == [[None, None, rank, 0.5]]
    assert measured(folder, record, ended=True)["rows"] == [[None, None, rank, 0.5]]


@pytest.mark.parametrize("launcher", ["tensorflow-ps", "paddle-ps", "mxnet", "horovod"])
def test_all_names_of_processes_are_known(launcher: str) -> None:
    program = Program(python="python", argv=("train.py",), nproc=2, run_dir="/run", env={})
    names = [process.name for process in command(launcher, program).processes[1:]]
    assert launcher in measures._WITH_NAMES
    for name in filter(None, names):
        assert MetricReader().feed(f"[{name}] loss: 0.5\n".encode()) == []
