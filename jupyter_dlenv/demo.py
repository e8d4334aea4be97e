"""``jupyter dlenv demo``: the quickstart notebook, run on this host with its kernel in a container."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from .errors import DLEnvError, EngineUnavailable
from .i18n import _
from .images.recipe import load_recipe, tool_failed
from .kernels.environments import Environment, EnvironmentManager

ENVIRONMENT = "quickstart"
_FILES = ("quickstart.ipynb", "train_digits.py")
_LEAST_ACCURACY = 95.0
_CELL_TIMEOUT_S = 900
_NOTEBOOKS: Any = nbformat  # its types leave half of it out
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def main(argv: Sequence[str] = ()) -> int:
    """Make the environment ``quickstart``, run the notebook in it and return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        environment = _environment(arguments.engine, arguments.image)
        EnvironmentManager().put(environment)
        _say(_("The environment {name} is ready: {title}").format(name=ENVIRONMENT, title=environment.title()))
        return 0 if arguments.prepare else _show(_run(arguments.folder))
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("jupyter dlenv demo", description=_("Run the quickstart notebook on this host."))
    parser.add_argument("--engine", choices=("docker", "process"), help=_("default: docker where it answers"))
    parser.add_argument("--image", help=_("image to pull instead of the starter image"))
    parser.add_argument("--folder", type=Path, default=Path(ENVIRONMENT), help=_("where the notebook is put"))
    parser.add_argument("--prepare", action="store_true", help=_("make the environment, run nothing"))
    return parser


def _say(text: str) -> None:
    print(text, flush=True)


def _environment(engine: str | None, image: str | None) -> Environment:
    """Return the quickstart's environment, its image or packages fetched.

    Raises:
        DLEnvError: They cannot be had, or Docker was asked for and does not answer.
    """
    if engine != "process":
        try:
            return Environment(ENVIRONMENT, image=_starter(image))
        except EngineUnavailable as error:
            if engine == "docker":
                raise
            _say(str(error))
            _say(_("Going on without containers: the kernel and its jobs run as plain processes of this host."))
    _require_packages(load_recipe().python)
    return Environment(ENVIRONMENT, engine="process")


def _starter(image: str | None) -> str:
    from .engines.docker.images import DockerImages
    from .images.bootstrap import starter

    return starter(DockerImages.connect(), progress=_say, reference=image)


def _require_packages(requirements: Sequence[str]) -> None:
    """Install what the training imports into this Python, unless it is there."""
    if all(importlib.util.find_spec(module) for module in ("torch", "sklearn", "tqdm")):
        return
    _say(_("Installing {what} for the plain processes.").format(what=", ".join(requirements)))
    argv = [sys.executable, "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise tool_failed("pip install", done.returncode, done.stdout + done.stderr, " ".join(argv))


def examples() -> Path:
    """Return the folder of the examples: in the package, beside it, or in the checkout that one stands in.

    Raises:
        DLEnvError: There is neither.
    """
    here = Path(__file__).parent
    for folder in (here / "examples", here.parent / "examples", Path("examples")):
        if (folder / _FILES[0]).is_file():
            return folder
    raise DLEnvError(_("This installation of jupyter-dlenv has no examples."), hint="pip install jupyter-dlenv")


def _run(folder: Path) -> Path:
    """Run a copy of the notebook in a folder and return it, with whatever its cells put out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copy(examples() / name, folder / name)
    path = folder / _FILES[0]
    notebook = _read(path)
    try:
        _Client(notebook, resources={"metadata": {"path": str(folder.resolve())}}, timeout=_CELL_TIMEOUT_S).execute()
    except CellExecutionError:
        pass  # the failed cell shows it
    except DeadKernelError as error:
        raise DLEnvError(_("The kernel died: {error}").format(error=error), hint="jupyter dlenv doctor") from error
    finally:
        path.write_text(_NOTEBOOKS.writes(notebook), encoding="utf-8")
    return path


def _read(path: Path) -> Any:
    return _NOTEBOOKS.reads(path.read_text(encoding="utf-8"), as_version=4)


class _Client(NotebookClient):
    """Says what a notebook's cells do while they do it."""

    async def async_execute_cell(self, cell: Any, *args: Any, **more: Any) -> Any:
        """Run one cell between its source and its output on the terminal."""
        if cell.cell_type == "code":
            _say("\n" + "\n".join("> " + line for line in cell.source.splitlines()))
        try:
            return await super().async_execute_cell(cell, *args, **more)
        finally:
            if text := text_of(cell.get("outputs", ())):
                _say(text)


def text_of(outputs: Iterable[Any]) -> str:
    """Return what a terminal can show of a cell's outputs."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream":
            parts.append(output["text"])
        elif output["output_type"] == "error":
            parts.append("\n".join(output["traceback"]))
        else:
            parts.append(output["data"].get("text/plain", ""))
    return _ANSI.sub("", "\n".join(part.rstrip() for part in parts if part))


def accuracy_of(notebook: Any) -> float | None:
    """Return the last test accuracy in percent that a run notebook shows, None when it shows none."""
    text = "\n".join(text_of(cell.get("outputs", ())) for cell in notebook.cells)
    found = re.findall(r"test accuracy (\d+(?:\.\d+)?) %", text)
    return float(found[-1]) if found else None


def _show(path: Path) -> int:
    notebook = _read(path)
    accuracy = accuracy_of(notebook)
    failed = any(output["output_type"] == "error" for cell in notebook.cells for output in cell.get("outputs", ()))
    if failed or accuracy is None:
        _say(_("The quickstart failed; {path} shows where.").format(path=path))
        return 1
    if accuracy < _LEAST_ACCURACY:
        text = _("The network reached {accuracy:.1f} % only; {least:.0f} % were expected.")
        _say(text.format(accuracy=accuracy, least=_LEAST_ACCURACY))
        return 1
    _say(_("Trained to {accuracy:.1f} % test accuracy. The notebook: {path}").format(accuracy=accuracy, path=path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
