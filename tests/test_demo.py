"""The newcomer's path: the demo's own parts, the example script, and Binder's steps as far as they can be run here."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
from docker_images import engine

from jupyter_dlenv.demo import accuracy_of, examples, text_of
from jupyter_dlenv.engines.docker.images import DockerImages
from jupyter_dlenv.images.bootstrap import starter

CHECKOUT = Path(__file__).parents[1]


def test_what_a_terminal_shows_of_outputs() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": "one\n"},
        {"output_type": "display_data", "data": {"text/plain": "two", "text/html": "<b>two</b>"}},
        {"output_type": "execute_result", "data": {"image/png": "…"}},
        {"output_type": "error", "traceback": ["\x1b[0;31mValueError\x1b[0m: three"]},
    ]
    assert text_of(outputs) == "one\ntwo\nValueError: three"


def test_the_last_accuracy_counts() -> None:
    def shown(*lines: str) -> nbformat.NotebookNode:
        outputs = [{"output_type": "stream", "text": line} for line in lines]
        return nbformat.from_dict({"cells": [{"cell_type": "code", "outputs": outputs}, {"cell_type": "markdown"}]})

    assert accuracy_of(shown("test accuracy 12.0 %", "so: test accuracy 98.6 %")) == 98.6
    assert accuracy_of(shown("train accuracy: high")) is None


@pytest.mark.parametrize("name", ["quickstart.ipynb", "quickstart.zh-CN.ipynb"])
def test_the_notebooks_are_valid_and_hold_no_outputs(name: str) -> None:
    notebook = nbformat.read(CHECKOUT / "examples" / name, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "quickstart"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_both_notebooks_run_the_same() -> None:
    sources = [
        [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for path in sorted((CHECKOUT / "examples").glob("quickstart*.ipynb"))
    ]
    assert len(sources) == 2
    assert sources[0] == sources[1]


def test_the_examples_are_found() -> None:
    assert (examples() / "train_digits.py").is_file()


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize("launcher", [["python3"], ["torchrun", "--standalone", "--nproc-per-node", "2"]])
def test_the_example_learns_the_digits(launcher: list[str]) -> None:
    engine()
    ref = starter(DockerImages.connect(), progress=print)
    host = engine().create_host_config(
        binds={str(CHECKOUT / "examples"): {"bind": "/examples", "mode": "ro"}},
        network_mode="none",
        extra_hosts={"trainer": "127.0.0.1"},
    )
    argv = [*launcher, "/examples/train_digits.py", "--save", "/tmp/digits.pt"]
    container = engine().create_container(ref, argv, user="12345:12345", hostname="trainer", host_config=host)
    try:
        engine().start(container)
        status = engine().wait(container)["StatusCode"]
        log = engine().logs(container).decode()
    finally:
        engine().remove_container(container, force=True)
    assert status == 0, log
    found = re.search(r"test accuracy (\d+\.\d) %", log)
    assert found, log
    assert float(found[1]) > 95


# Binder ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def binder_checkout(tmp_path: Path) -> Path:
    """A copy of the checkout with the lab extension built, because Binder's node is not here."""
    folder = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(".venv", ".git", "build", "node_modules", "__pycache__", ".*_cache", "lib")
    shutil.copytree(CHECKOUT, folder, ignore=left_out)
    return folder


@pytest.mark.slow
@pytest.mark.server
def test_binder_installs_the_package_and_opens_the_quickstart(binder_checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    environment = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}"}
    environment |= {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("DATA", "CONFIG", "RUNTIME")}
    installed = subprocess.run(
        ["binder/postBuild"], cwd=binder_checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, (installed.stdout + installed.stderr)[-3000:]
    listed = subprocess.run(
        ["jupyter", "kernelspec", "list", "--json"], env=environment, capture_output=True, text=True, check=True
    )
    spec = json.loads(listed.stdout)["kernelspecs"]["quickstart"]["spec"]
    assert spec["metadata"]["kernel_provisioner"]["config"]["environment"]["engine"] == "process"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    server = subprocess.Popen(
        ["binder/start", "jupyter", "lab", *options], cwd=binder_checkout, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        assert _opened(f"http://127.0.0.1:{port}/").endswith("/lab/tree/examples/quickstart.ipynb")
    finally:
        server.terminate()
        server.wait(30)


def _opened(url: str) -> str:
    """Return where a server leads a browser that opens its address; waits until it listens."""
    for _attempt in range(240):
        try:
            with urllib.request.urlopen(url) as answer:
                return str(answer.geturl())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.25)
    pytest.fail(f"no server at {url}")


def test_binder_start_runs_other_commands_as_they_are() -> None:
    done = subprocess.run([CHECKOUT / "binder/start", "echo", "hello"], capture_output=True, text=True, check=True)
    assert done.stdout == "hello\n"
