"""Other real clients: papermill, the console, and nbclient when a kernel dies under it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import docker_images
import nbformat
import pytest
from clients import environment
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from jupyter_dlenv.paths import kernels_dir

pytestmark = [pytest.mark.docker]

# ZeroMQ sends from a thread of its own, which SIGKILL takes along: give it the time that a real death leaves.
DYING = "import os, time\nprint('last words', flush=True)\ntime.sleep(0.5)\nos.kill(os.getpid(), 9)"


@pytest.fixture
def bare() -> str:
    """The environment of a bare image."""
    environment("bare", image=docker_images.base_image())
    return "bare"


def book_of(*sources: str) -> Any:
    """Return a notebook with these cells."""
    about = {"kernelspec": {"name": "bare", "display_name": "bare", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata=about)


def run(*words: str, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module of Jupyter's as a person does."""
    argv = [sys.executable, "-m", *words]
    return subprocess.run(argv, cwd=cwd, input=text, capture_output=True, text=True, timeout=180, check=False)


def left_behind() -> list[str]:
    """Return the folders of kernels."""
    folder = kernels_dir()
    return [path.name for path in folder.iterdir() if len(path.name) == 32] if folder.is_dir() else []


def test_papermill_runs_a_notebook_with_parameters(bare: str, notebook_dir: Path) -> None:
    book = book_of("x = 1", "import os\nprint(x * 2, os.getcwd())")
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, notebook_dir / "in.ipynb")
    before = left_behind()
    done = run("papermill", "in.ipynb", "out.ipynb", "-k", bare, "-p", "x", "21", cwd=notebook_dir)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(notebook_dir / "out.ipynb", as_version=4).cells
    assert cells[-1].outputs[0].text == f"42 {notebook_dir}\n"
    assert left_behind() == before


def test_papermill_saves_why_a_kernel_died(bare: str, notebook_dir: Path) -> None:
    nbformat.write(book_of("print(1)", DYING), notebook_dir / "in.ipynb")
    done = run("papermill", "in.ipynb", "out.ipynb", "-k", bare, cwd=notebook_dir)
    assert done.returncode != 0
    assert "Killed from outside (SIGKILL)" in (notebook_dir / "out.ipynb").read_text()
    assert done.stderr.count("The kernel of bare ended.") == 1


async def test_nbclient_s_notebook_tells_why_its_kernel_died(bare: str, notebook_dir: Path) -> None:
    book = book_of(DYING)
    client = NotebookClient(book, kernel_name=bare, resources={"metadata": {"path": str(notebook_dir)}}, timeout=60)
    with pytest.raises(DeadKernelError):
        await client.async_execute()
    stream, error = book.cells[0].outputs
    assert stream.text == "last words\n"
    assert error.ename == "KernelDied"
    assert "SIGKILL" in error.evalue


def test_the_console_talks_to_a_container(bare: str, notebook_dir: Path) -> None:
    text = "import os\nprint('answer', 6 * 7, os.path.exists('/.dockerenv'))\nexit\n"
    done = run("jupyter", "console", "--kernel", bare, "--simple-prompt", cwd=notebook_dir, text=text)
    assert "answer 42 True" in done.stdout, done
