"""What a job runs, as its replicas see it: a script, a module, a cell, or the image's own command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import InvalidRequest
from ..i18n import _
from ..options import RunRequest
from ..resources import Mount
from ..workspace import inside, leaving_link, link_hint

CELL = "cell.py"
CODE = "code"
_MODULE = "module.py"
_HERE = "here"
_LEVELS = 3
_SCRIPT_LIMIT = 1 << 20
_RUN_MODULE = """import runpy
import sys

sys.path[0] = {code!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Target:
    """What to run.

    Attributes:
        words: What follows the interpreter: a script, or ``-m`` and a module.
        text: The script's text, empty where it cannot be read.
        workdir: The working folder.
        import_path: A folder that goes to the front of PYTHONPATH, empty for none.
        files: Texts that lie in the run folder, by name.
        links: Links that lie in the run folder, by name.
    """

    words: tuple[str, ...]
    text: str
    workdir: str
    import_path: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def command_text(request: RunRequest) -> str:
    """Return what the user asked to run, as one line."""
    what = ["-m", request.module] if request.module else [request.script or CELL] if runs_python(request) else []
    return shlex.join([*what, *request.args])


def runs_python(request: RunRequest) -> bool:
    """Return whether something is named that Python runs; without it the image's own command is meant."""
    return bool(request.script or request.module or request.cell)


def default_name(request: RunRequest, image: str) -> str:
    """Return what a job is called that was given no name."""
    return request.module or Path(request.script or (CELL if request.cell else image)).name


def code_folder(request: RunRequest, cwd: Path) -> Path:
    """Return the folder whose code a job runs: the script's, or the working folder of a module or cell."""
    return cwd if request.module or request.cell else script_path(request, cwd).parent


def place_of(folder: Path, mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return the last names of a folder's path, as far as a replica sees what lies above it."""
    roots = [mount.source for mount in mounts if inside(str(folder), mount.source)]
    return folder.relative_to(roots[0] if roots else "/").parts[-_LEVELS:]


def script_path(request: RunRequest, cwd: Path) -> Path:
    """Return where the script lies on the host."""
    return Path(os.path.normpath(cwd / request.script))


def target_of(
    request: RunRequest, cwd: Path, mounts: tuple[Mount, ...], run_dir: str, kept: Path | None = None
) -> Target:
    """Return what a request runs.

    Args:
        run_dir: The run folder as the replicas see it.
        kept: The code that it was submitted with, which will lie in the run folder's ``code``; None for what is there.

    Raises:
        InvalidRequest: There is no such script, or no mount shows it.
    """
    workdir = seen_in_container(cwd, mounts, _("The working folder"))
    code = "/".join([run_dir, CODE, *place_of(code_folder(request, cwd), mounts)])
    if request.cell:
        path, links = _import_path(code if kept else workdir, run_dir)
        return Target((f"{run_dir}/{CELL}",), request.cell, workdir, path, {CELL: request.cell}, links)
    if request.module:
        text = _module_text(request.module, kept or cwd)
        if not kept:
            return Target(("-m", request.module), text, workdir)
        wrapper = _RUN_MODULE.format(code=code, module=request.module)
        return Target((f"{run_dir}/{_MODULE}",), text, workdir, "", {_MODULE: wrapper})
    script = script_path(request, cwd)
    if kept:
        return Target((f"{code}/{script.name}",), _text(kept / script.name), workdir)
    seen = seen_in_container(script, mounts, _("The script"))
    if script.is_dir():
        raise InvalidRequest(_("{path} is a folder, not a script.").format(path=script), hint=f"ls '{script}'")
    if not script.is_file():
        raise InvalidRequest(_("There is no script {path}.").format(path=script), hint=f"ls '{script.parent}'")
    return Target((seen,), _text(script), workdir)


def _import_path(workdir: str, run_dir: str) -> tuple[str, dict[str, str]]:
    """Return the working folder as PYTHONPATH can name it: by a link of ours where its own name holds a colon."""
    return (f"{run_dir}/{_HERE}", {_HERE: workdir}) if ":" in workdir else (workdir, {})


def on_host(path: Path, mounts: Sequence[Mount]) -> Path:
    """Return where a path that a kernel in a container names lies on the host; the deepest mount decides."""
    over = [mount for mount in mounts if inside(str(path), mount.target)]
    deepest = max(over, key=lambda mount: len(mount.target), default=None)
    return Path(deepest.source, os.path.relpath(path, deepest.target)) if deepest else path


def as_on_host(request: RunRequest, cwd: Path, mounts: Sequence[Mount]) -> tuple[Path, RunRequest]:
    """Return working folder and request with the paths of a kernel in a container turned into the host's."""
    script = on_host(script_path(request, cwd), mounts) if request.script else ""
    return on_host(cwd, mounts), replace(request, script=str(script))


def seen_in_container(path: Path, mounts: tuple[Mount, ...], what: str) -> str:
    """Return where a host path lies in the container.

    Raises:
        InvalidRequest: No mount shows it, or a link on the way leaves them all.
    """
    link = leaving_link(str(path), mounts)
    if link:
        raise InvalidRequest(
            _("{link} is a link to {end}, which no mount shows.").format(link=link[0], end=link[1]),
            hint=link_hint(link[1]),
        )
    for mount in mounts:
        if inside(str(path), mount.source):
            return os.path.normpath(os.path.join(mount.target, os.path.relpath(path, mount.source)))
    shown = ", ".join(mount.target for mount in mounts)
    message = _("{what} {path} lies outside what the container sees ({shown}).")
    raise InvalidRequest(message.format(what=what, path=path, shown=shown), hint=link_hint(str(path)))


def _text(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read(_SCRIPT_LIMIT)


def _module_text(module: str, cwd: Path) -> str:
    base = cwd / Path(*module.split("."))
    found = [path for path in (base.with_suffix(".py"), base / "__main__.py") if path.is_file()]
    return _text(found[0]) if found else ""
