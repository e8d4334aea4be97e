"""Launchers: what a framework needs on one node to turn a script into its ranks. Pure, each in a module of its own."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from ..errors import InvalidRequest, UnknownOption
from ..i18n import _
from . import python as _python
from . import torchrun
from .choice import needs_torchrun
from .launch import Launch, Program

__all__ = ["NAMES", "Launch", "choose", "command"]

_LAUNCHERS = {"python": _python.command, "torchrun": torchrun.command}

NAMES = tuple(_LAUNCHERS)
"""Every launcher that ``--launcher`` takes."""


def choose(script_text: str) -> str:
    """Return the name of the launcher that a script is written for."""
    return "torchrun" if needs_torchrun(script_text) else "python"


def command(
    launcher: str,
    *,
    python: str,
    script: str = "",
    module: str = "",
    args: Sequence[str] = (),
    nproc: int = 1,
    run_dir: str,
    env: Mapping[str, str] | None = None,
) -> Launch:
    """Return how a launcher runs a script, or a module, on one node.

    Args:
        launcher: One of :data:`NAMES`.
        python: The interpreter where it will run.
        script, module: What to run, one of them.
        args: Its arguments.
        nproc: Number of processes.
        run_dir: The run folder where it will run.
        env: Variables that are set already; they are not set again.

    Raises:
        InvalidRequest: The launcher cannot run that.
        UnknownOption: There is no such launcher.
    """
    if launcher not in _LAUNCHERS:
        raise _unknown(launcher)
    if bool(script) == bool(module):
        raise InvalidRequest(_("A launcher runs either a script or a module."), hint="%dlrun train.py")
    if nproc < 1:
        raise InvalidRequest(_("--nproc takes a number above zero, not {nproc}.").format(nproc=nproc))
    program = ("-m", module) if module else (script,)
    return _LAUNCHERS[launcher](Program(python, (*program, *args), nproc, run_dir, dict(env or {})))


def _unknown(launcher: str) -> UnknownOption:
    nearest = difflib.get_close_matches(launcher, NAMES, n=1, cutoff=0)[0]
    return UnknownOption(
        _("There is no launcher {launcher!r}; the nearest is {nearest}.").format(launcher=launcher, nearest=nearest),
        hint=f"--launcher {nearest}",
    )
