"""``%dlrun`` from a container kernel: the display, the ranks, the log, the end, and bad input."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker_images
import pytest
from clients import Notebook, environment, notebook

from jupyter_dlenv.notebook.follow import MIME
from jupyter_dlenv.paths import jobs_dir

pytestmark = pytest.mark.docker

Write = Callable[[str, str], Path]

RANKS = """
import os, sys, time
import torch, torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
for step in range(20):
    sys.stdout.write(f"rank {rank} ")
    sys.stdout.flush()
    time.sleep(0.01)
    sys.stdout.write(f"step {step}\\n")
total = torch.ones(1)
dist.all_reduce(total)
print("sum", int(total.item()))
if sys.argv[1:] == [str(rank)]:
    raise ValueError(f"boom on {rank}")
dist.destroy_process_group()
"""


def record(job_id: str) -> dict[str, Any]:
    """Return what was kept of how a job ended."""
    return dict(json.loads((jobs_dir() / job_id / "final.json").read_text()))


def job_id(shown: str) -> str:
    """Return the job's id in a display."""
    return re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", shown)[0]


def left_behind(job: str) -> list[str]:
    """Return the containers of a job."""
    found = docker_images.engine().containers(all=True, filters={"label": f"io.jupyter-dlenv.job={job}"})
    return [item["Id"] for item in found]


async def test_two_ranks_train_and_their_lines_stay_whole(torch: str, notebook_dir: Path, write: Write) -> None:
    write("ranks.py", RANKS)
    async with notebook(torch, notebook_dir) as book:
        result = await book.run("%dlrun ranks.py --nproc 2 --network none")
        assert result.status == "ok", result
        last = result.displays[-1]
        assert set(last) == {"text/plain", "text/html", MIME}
        job = last[MIME]["job_id"]
        assert last[MIME]["state"] == "SUCCEEDED"
        lines = (jobs_dir() / job / "run" / "log").read_text().splitlines()
        wanted = (
            [f"rank 0 step {n}" for n in range(20)]
            + [f"[1] rank 1 step {n}" for n in range(20)]
            + ["sum 2", "[1] sum 2"]
        )
        assert sorted(line for line in lines if "socket.cpp" not in line) == sorted(wanted)
        assert result.shown.splitlines()[0].startswith("ranks.py · SUCCEEDED · exit code 0 · ")
        assert record(job)["status"]["exit_code"] == 0
        assert left_behind(job) == []


async def test_a_failing_rank_is_named_with_its_traceback_first(torch: str, notebook_dir: Path, write: Write) -> None:
    write("ranks.py", RANKS)
    async with notebook(torch, notebook_dir) as book:
        result = await book.run("%dlrun ranks.py --nproc 2 -- 1")
        assert result.status == "error"
        head = result.error.split("Full log")[0]
        assert "exit code 1" in head
        assert "Rank 1 failed first" in head
        assert head.rstrip().endswith("ValueError: boom on 1")
        shown = result.shown
        assert shown.index("exit code 1") < shown.index("ValueError: boom on 1") < shown.index("rank 0 step 0")
        assert record(job_id(shown))["failed_rank"] == 1


async def test_a_cell_is_the_script(bare: str, notebook_dir: Path, write: Write) -> None:
    write("beside.py", "VALUE = 'from beside'\n")
    async with notebook(bare, notebook_dir) as book:
        good = await book.run("%%dlrun -e A=1\nimport os, beside\nprint(beside.VALUE, os.environ['A'], os.getcwd())")
        assert f"from beside 1 {notebook_dir}" in good.shown
        bad = await book.run("%%dlrun\na = 1\nb = 2\nraise KeyError('third line')")
        assert 'cell.py", line 3' in bad.error


async def test_the_display_is_one_and_moves_slowly(bare: str, notebook_dir: Path, write: Write) -> None:
    write(
        "bar.py", "import time\nfor i in range(60):\n    print(f'\\r{i}/60', end='')\n    time.sleep(0.05)\nprint()\n"
    )
    async with notebook(bare, notebook_dir) as book:
        began = time.monotonic()
        result = await book.run("%dlrun bar.py")
        took = time.monotonic() - began
        bars = {shown["text/plain"].splitlines()[-1] for shown in result.displays}
        assert len([bar for bar in bars if bar.endswith("/60")]) > 3
        assert len(result.displays) <= 4 * took + 3
        assert result.shown.splitlines()[-1] == "59/60"


async def test_only_the_last_lines_are_in_the_notebook(bare: str, notebook_dir: Path, write: Write) -> None:
    write("many.py", "for i in range(20000): print('line', i)\n")
    async with notebook(bare, notebook_dir) as book:
        result = await book.run("%dlrun many.py")
        lines = result.shown.splitlines()
        assert lines[-1] == "line 19999"
        assert len(lines) < 210
        assert (jobs_dir() / job_id(result.shown) / "run" / "log").read_text().count("\n") == 20000


async def test_interrupt_stops_all_ranks_and_leaves_nothing(torch: str, notebook_dir: Path, write: Write) -> None:
    write("endless.py", "import time, torch.distributed\nprint('up', flush=True)\ntime.sleep(600)\n")
    async with notebook(torch, notebook_dir) as book:
        task = asyncio.create_task(book.run("%dlrun endless.py --nproc 2"))
        job = await running(book)
        await book.manager.interrupt_kernel()
        result = await task
        assert result.status == "error"
        assert "KeyboardInterrupt" in result.error
        assert record(job)["status"]["state"] == "CANCELLED"
        assert left_behind(job) == []


async def running(_book: Notebook) -> str:
    """Return the newest job once its log says that it is up."""
    for _ in range(1200):
        for folder in sorted(jobs_dir().iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
            log = folder / "run" / "log"
            if not (folder / "final.json").exists() and log.exists() and "up" in log.read_text():
                return folder.name
        await asyncio.sleep(0.05)
    pytest.fail("the job did not come up")


async def test_detach_attach_stop_and_remove(bare: str, notebook_dir: Path, write: Write) -> None:
    write("endless.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    async with notebook(bare, notebook_dir) as book:
        job = job_id((await book.run("%dlrun endless.py --detach --name night")).text)
        await running(book)
        assert "night · RUNNING" in (await book.run("%dljobs")).text
        assert (await book.run(f"%dllogs {job}")).text == "up\n"
        assert "still runs" in (await book.run(f"%dlrm {job}")).error
        assert "CANCELLED" in (await book.run(f"%dlstop {job[:8]}")).text
        attached = await book.run(f"%dlattach {job}")
        assert attached.shown.splitlines()[-1].startswith("up") or "up" in attached.shown
        await book.run(f"%dlrm {job}")
        assert not (jobs_dir() / job).exists()


async def test_a_job_outlives_its_kernel(bare: str, notebook_dir: Path, write: Write) -> None:
    write("later.py", "import time\ntime.sleep(4)\nprint('done')\n")
    async with notebook(bare, notebook_dir) as book:
        job = job_id((await book.run("%dlrun later.py --detach")).text)
    async with notebook(bare, notebook_dir) as book:
        result = await book.run(f"%dlattach {job}")
        assert result.status == "ok", result
        assert result.shown.splitlines()[-1] == "done"


async def test_a_time_limit_is_the_reason_it_is(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        result = await book.run("%%dlrun --timeout 2\nimport time\ntime.sleep(600)")
        assert "time limit" in result.error


async def test_out_of_memory_says_the_limit(bare: str, notebook_dir: Path) -> None:
    async with notebook(bare, notebook_dir) as book:
        result = await book.run("%%dlrun --memory 64m\nx = bytearray(1 << 30)\nprint(len(x))")
        assert "memory" in result.error
        assert "64.0 MiB" in result.error


async def test_packages_of_the_environment_reach_its_jobs(bare: str, notebook_dir: Path) -> None:
    package = notebook_dir / "gear"
    package.mkdir()
    (package / "pyproject.toml").write_text('[project]\nname = "gear"\nversion = "1"\n')
    (package / "gear.py").write_text("VALUE = 7\n")
    async with notebook(bare, notebook_dir) as book:
        await book.run("%pip install -q --no-build-isolation --no-index ./gear")
        result = await book.run("%%dlrun --plain\nimport gear; print(gear.VALUE)")
        assert result.text == "7\n", result


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nope.py", "There is no script"),
        (".", "is a folder"),
        ("/etc/passwd", "outside what the container sees"),
        ("../x.py", "outside what the container sees"),
        ("a.py --nporc 2", "Did you mean --nproc?"),
        ("a.py --gpus 2", "no GPU"),
        ("a.py --gpus 2", "--nproc N"),
        ("a.py --image dlenv-test/nowhere:1", "jupyter dlenv images pull dlenv-test/nowhere:1"),
        ("a.py --image --privileged", "is not an image reference"),
        ("a.py --launcher torchru", "torchrun"),
        ("a.py --engine process", "may not start processes"),
        ("a.py --engine ssh", "no engine"),
        ("a.py --mount /etc:/x", "mount source"),
        ("a.py --mount /:/host", "mount source"),
        ("a.py --mount /var/run/docker.sock:/x", "not a folder"),
        ("a.py --mount /nowhere:/x", "does not exist"),
        ("a.py --memory lots", "not a size"),
        ("'a.py", "cannot be read"),
        ("", "Nothing to run"),
        ("a.py; touch /tmp/pwn", "one word too many"),
    ],
)
async def test_bad_input_is_told(bare_book: Notebook, line: str, says: str) -> None:
    result = await bare_book.run(f"%dlrun {line}")
    assert result.status == "error"
    assert says in result.error
    assert "Traceback" not in result.error
    assert (await bare_book.run("print('alive')")).text == "alive\n"


async def test_arguments_are_never_a_shell_s(bare_book: Notebook) -> None:
    result = await bare_book.run("%dlrun a.py --plain -- '; touch pwn' '$(touch pwn)' `touch` '|' '>' x y")
    assert json.loads(result.text) == ["; touch pwn", "$(touch pwn)", "`touch`", "|", ">", "x", "y"], result
    assert (await bare_book.run("!ls")).text.split() == ["a.py"]


@pytest.fixture
async def bare_book(bare: str, notebook_dir: Path, write: Write) -> Any:
    """A notebook on the bare image beside a script that prints its arguments."""
    write("a.py", "import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    async with notebook(bare, notebook_dir) as book:
        yield book


async def test_a_dry_run_starts_nothing(bare_book: Notebook) -> None:
    before = {path.name for path in jobs_dir().iterdir()} if jobs_dir().exists() else set()
    result = await bare_book.run("%dlrun --dry-run a.py -e SECRET=x")
    assert result.text.startswith("mkdir -p ")
    assert "\ndocker run --rm --init --user " in result.text
    after = {path.name for path in jobs_dir().iterdir()} if jobs_dir().exists() else set()
    assert before == after


async def test_a_container_removed_from_outside_ends_the_job(bare: str, notebook_dir: Path, write: Write) -> None:
    write("endless.py", "import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    environment("bare", image=docker_images.base_image())
    async with notebook(bare, notebook_dir) as book:
        task = asyncio.create_task(book.run("%dlrun endless.py"))
        job = await running(book)
        for container in left_behind(job):
            docker_images.engine().remove_container(container, force=True)
        result = await task
        assert "removed from outside" in result.error


async def test_a_kernel_without_network_starts_no_job_that_has_one(notebook_dir: Path, write: Write) -> None:
    write("a.py", "print('ran')\n")
    environment("sealed", image=docker_images.base_image(), network="none")
    async with notebook("sealed", notebook_dir) as book:
        assert "rule: network" in (await book.run("%dlrun a.py --network bridge")).error
        assert (await book.run("%dlrun a.py --plain")).text == "ran\n"


@pytest.mark.parametrize(
    "option", ["--rdma", "--mount nfs://nas/export:/data", "--nodes 2 --node-rank 0 --master a:29500"]
)
async def test_nothing_leads_out_of_a_kernel_without_network(notebook_dir: Path, write: Write, option: str) -> None:
    environment("lonely", image=docker_images.base_image(), network="none")
    write("a.py", "print(1)\n")
    async with notebook("lonely", notebook_dir) as book:
        result = await book.run(f"%dlrun a.py {option}")
        assert "rule: network" in result.error, result
