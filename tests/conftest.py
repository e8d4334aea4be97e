"""What all tests share: a Jupyter world of their own, and a notebook folder with a difficult name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NOTEBOOK_FOLDER = "实验 1:a"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests come last: Playwright keeps an event loop in this thread, beside which no other can run."""
    items.sort(key=lambda item: "browser" in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def jupyter_world() -> Iterator[Path]:
    """Jupyter's folders, empty and short-pathed, for this session and every process that it starts."""
    world = Path(tempfile.mkdtemp(prefix="dlt-", dir="/tmp"))
    saved = dict(os.environ)
    for name in ("DATA", "CONFIG", "RUNTIME"):
        folder = world / name.lower()
        folder.mkdir(mode=0o700)
        os.environ[f"JUPYTER_{name}_DIR"] = str(folder)
    os.environ["IPYTHONDIR"] = str(world / "ipython")
    # Kernels' folders too: a server sweeps those that have no owner, and another run may use another engine beside it.
    os.environ["XDG_RUNTIME_DIR"] = str(world / "run")
    (world / "run").mkdir(mode=0o700)
    for name in ("LANGUAGE", "LC_ALL", "LANG", "DLENV_API", "JPY_PARENT_PID"):
        os.environ.pop(name, None)
    yield world
    os.environ.clear()
    os.environ.update(saved)
    shutil.rmtree(world, ignore_errors=True)


@pytest.fixture
def notebook_dir(tmp_path: Path) -> Path:
    """A notebook folder of the kind that people really have."""
    folder = tmp_path / NOTEBOOK_FOLDER
    folder.mkdir()
    (folder / ".dlenv").mkdir()
    return folder


@pytest.fixture
def write(notebook_dir: Path) -> Callable[[str, str], Path]:
    """Write a file into the notebook folder and return its path."""

    def write_file(name: str, text: str) -> Path:
        path = notebook_dir / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file
