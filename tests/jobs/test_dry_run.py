"""What a dry run shows: commands that a shell takes, which start what the job would; all else is comments."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from jupyter_dlenv.engines.docker.request import command_line
from jupyter_dlenv.gpus.asks import stand_ins
from jupyter_dlenv.jobs.assembly import Assembled, _devices, assemble
from jupyter_dlenv.jobs.dry_run import shown
from jupyter_dlenv.jobs.principal import Principal
from jupyter_dlenv.jobs.records import JobFolder
from jupyter_dlenv.launchers import Launch, Process
from jupyter_dlenv.launchers.launch import OWN_IP
from jupyter_dlenv.options import RunRequest, parse_run
from jupyter_dlenv.resources import GpuAccess, GpuGrant
from jupyter_dlenv.settings import DLEnv
from jupyter_dlenv.spec import End, Identity

REPORT = """
import json, os, sys
names = ("A", "RANK", "WORLD_SIZE", "PET_LOCAL_ADDR", "DMLC_NODE_HOST", "CUDA_VISIBLE_DEVICES")
told = {key: os.environ[key] for key in names if key in os.environ}
os.write(1, (json.dumps([told, sys.argv[1:]]) + "\\n").encode())
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "it's.py"
    path.write_text(REPORT)
    return path


def assembled(script: Path, *words: str, gpus: GpuGrant | None = None) -> Assembled:
    """Return what plain processes would be started for a command line."""
    request = parse_run([str(script), *words], environ={"TOKEN": "seven"}, cwd=str(script.parent)).request
    folder = JobFolder(request.request_id)
    return asyncio.run(assemble(request, Principal("alice"), DLEnv(), folder, gpus or GpuGrant()))


def run(text: str) -> list[Any]:
    """Return what the processes say that a shell starts for it."""
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_has_the_variables_that_were_given(script: Path) -> None:
    text = shown(assembled(script, "-e", "A=b c", "-e", "TOKEN", "--", "x\nrm y"))
    assert run(text) == [[{"A": "b c"}, ["x\nrm y"]]]
    assert text.startswith("# The values of these variables are not shown: TOKEN.\nenv ")
    assert "seven" not in text


def test_processes_side_by_side_are_all_started(script: Path) -> None:
    text = shown(assembled(script, "--launcher", "python", "--nproc", "2", "-e", "A=b", "--", "x\ny"))
    expected = [[{"A": "b", "RANK": str(rank), "WORLD_SIZE": "2"}, ["x\ny"]] for rank in range(2)]
    assert sorted(run(text), key=str) == expected


def test_what_only_serves_is_ended(tmp_path: Path) -> None:
    waits = tmp_path / "waits.py"
    waits.write_text("import os, time\nif '\"chief\", \"index\"' not in os.environ['TF_CONFIG']: time.sleep(600)\n")
    text = shown(assembled(waits, "--launcher", "tensorflow-ps", "--workers", "1", "--servers", "1"))
    assert run(text) == []


@pytest.mark.parametrize(("launcher", "variable"), [("own", "PET_LOCAL_ADDR"), ("mxnet", "DMLC_NODE_HOST")])
def test_a_node_s_address_is_found_out(script: Path, launcher: str, variable: str) -> None:
    words = ["--launcher", "mxnet", "--nodes", "2", "--node-rank", "1", "--master", "192.0.2.7:29500"]
    made = assembled(script, *words)
    if launcher == "own":
        env = {"PET_LOCAL_ADDR": OWN_IP}
        made = replace(made, launches=(Launch((made.spec.python, str(script), OWN_IP), env),))
    [[told, arguments]] = run(shown(made))
    assert told[variable].count(".") == 3
    assert arguments == ([OWN_IP] if launcher == "own" else [])


def test_every_line_of_a_remark_is_a_comment(script: Path) -> None:
    text = shown(assembled(script), waits="It is late.\nrm x")
    assert text.splitlines()[:2] == ["# It would wait: It is late.", "# rm x"]
    assert run(text) == [[{}, []]]


def test_what_waits_is_shown_with_names_that_no_gpu_has(script: Path) -> None:
    ask = assembled(script, "--gpus", "2").ask()
    gpus = stand_ins(ask, 2, GpuAccess.HOST)
    text = shown(assembled(script, "--gpus", "2", "--launcher", "python", gpus=gpus), "All are busy.")
    assert "# It would wait: All are busy.\n" in text
    assert run(text)[0][0]["CUDA_VISIBLE_DEVICES"] == "GPU-granted-later-1,GPU-granted-later-2"


@pytest.mark.parametrize(("access", "device"), [("cdi", "nvidia.com/gpu="), ("toolkit", ""), ("devices", None)])
def test_each_replica_that_waits_has_a_share(script: Path, access: str, device: str | None) -> None:
    ask = replace(assembled(script, "--gpus", "2").ask(), replicas=2)
    gpus = stand_ins(ask, 4, GpuAccess(access))
    names = [f"GPU-granted-later-{number}" for number in range(1, 5)]
    assert [share.uuids for share in gpus.shares] == [tuple(names[:2]), tuple(names[2:])]
    devices = () if device is None else tuple(f"{device}{name}" for name in names[2:])
    assert gpus.of_replica(1).devices == devices


@pytest.mark.parametrize(
    ("gpus", "devices"),
    [
        (GpuGrant(), ()),
        (GpuGrant(("GPU-a", "GPU-b"), GpuAccess.TOOLKIT), ()),
        (GpuGrant(("GPU-a", "GPU-b"), GpuAccess.HOST), ("GPU-a", "GPU-b")),
        (GpuGrant(("MIG-a", "MIG-b"), GpuAccess.DEVICES), ("MIG-a", "MIG-b")),
    ],
)
def test_gpus_are_named_where_cuda_shows_others_or_parts_of_them(gpus: GpuGrant, devices: tuple[str, ...]) -> None:
    assert _devices(gpus) == devices


def test_workers_on_the_host_are_given_the_leased_gpus(script: Path) -> None:
    gpus = stand_ins(assembled(script, "--gpus", "2").ask(), 2, GpuAccess.HOST)
    made = assembled(script, "--gpus", "2", "--launcher", "mxnet", gpus=gpus)
    given = [process.env["CUDA_VISIBLE_DEVICES"] for process in made.launches[0].processes]
    assert given == ["GPU-granted-later-1", "GPU-granted-later-2", "-1", "-1"]


def in_containers(made: Assembled, *launches: Launch) -> str:
    """Return what is shown where the same job runs in containers, its files in the run folder."""
    engine = SimpleNamespace(
        capabilities=SimpleNamespace(images=True), plan=lambda spec: SimpleNamespace(command=command_line(spec))
    )
    spec = replace(
        made.spec,
        image="sha256:" + "a" * 64,
        image_ref="a",
        python="python3",
        identity=Identity(os.getuid(), os.getgid()),
    )
    return shown(replace(made, engine=cast("Any", engine), spec=spec, launches=launches or made.launches))


def test_a_container_runs_them_by_a_shell(script: Path) -> None:
    processes = (
        Process(("python3", "a b.py"), {"RANK": "0"}, "chief"),
        Process(("python3", "-c", "\nprint(1)\n"), name="ps 0", serves=True),
    )
    text = in_containers(assembled(script), Launch(env={"B": "1"}, processes=processes, ends=End.LEADER))
    assert "--env B=1 " in text
    inner = text.split("--entrypoint sh a -c ")[1]
    lines = subprocess.run(["sh", "-c", f"printf %s {inner}"], capture_output=True, text=True, check=True).stdout
    assert lines == (
        "env RANK=0 python3 'a b.py' & chief=$!\npython3 -c '\nprint(1)\n' & ps_0=$!\n"
        'wait "$chief"\ncode=$?\nkill "$ps_0" 2>/dev/null\nexit $code'
    )


def test_the_mounted_folder_is_made_with_its_files(script: Path, tmp_path: Path) -> None:
    made = assembled(script)
    run_dir = tmp_path / "jobs" / "run"
    made = replace(
        made,
        spec=replace(made.spec, run_dir=str(run_dir)),
        target=replace(made.target, files={"cell.py": "print('x')\n%d\\n"}, links={"here": "/w"}),
    )
    text = in_containers(made, Launch(("true",), files={"hosts": "node-0 slots=2\n"}))
    before, docker, _rest = text.partition("docker run --rm")
    assert docker
    subprocess.run(["sh", "-c", before], check=True)
    assert (run_dir / "cell.py").read_text() == "print('x')\n%d\\n"
    assert (run_dir / "hosts").read_text() == "node-0 slots=2\n"
    assert os.readlink(run_dir / "here") == "/w"


def test_a_script_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("import torch.distributed\n", encoding="utf-8-sig")
    assert assembled(path).launcher == "torchrun"


def test_nothing_is_written(script: Path) -> None:
    made = assembled(script)
    shown(made)
    assert not JobFolder(made.spec.id).path.exists()
    assert isinstance(made.request, RunRequest)
