"""Launchers: what a framework needs on one node to turn a script into its ranks. Pure, each in a module of its own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from ..errors import InvalidRequest, UnknownOption
from ..i18n import _
from . import (
    accelerate,
    deepspeed,
    horovod,
    jax,
    mpi,
    mxnet,
    own,
    paddle,
    paddle_ps,
    tensorflow,
    tensorflow_ps,
    torchrun,
)
from . import python as _python
from .choice import fitting
from .launch import Launch, Process, Program

__all__ = ["NAMES", "OWN", "Launch", "Process", "Program", "choose", "command"]

OWN = "own"
"""The launcher of a run without a script, which nobody has to name."""

_LAUNCHERS: Mapping[str, Callable[[Program], Launch]] = {
    "torchrun": torchrun.command,
    "accelerate": accelerate.command,
    "deepspeed": deepspeed.command,
    "horovod": horovod.command,
    "mpi": mpi.command,
    "jax": jax.command,
    "python": _python.command,
    "tensorflow": tensorflow.command,
    "tensorflow-ps": tensorflow_ps.command,
    "paddle": paddle.command,
    "paddle-ps": paddle_ps.command,
    "mxnet": mxnet.command,
}

NAMES = tuple(_LAUNCHERS)
"""Every launcher that ``--launcher`` takes."""


def choose(script_text: str, nproc: int = 1, nnodes: int = 1) -> str:
    """Return the name of the launcher that a script is written for.

    Args:
        script_text: The script, empty where it cannot be read.
        nproc: Processes on each node; several need a launcher that starts them.
        nnodes: Number of nodes.
    """
    return fitting(script_text, several=nproc > 1 or nnodes > 1)


def command(launcher: str, program: Program) -> Launch:
    """Return how a launcher runs a program on one node.

    Args:
        launcher: One of :data:`NAMES`, or :data:`OWN`.

    Raises:
        InvalidRequest: The launcher cannot run that.
        UnknownOption: There is no such launcher.
    """
    run = own.command if launcher == OWN else _LAUNCHERS.get(launcher)
    if run is None:
        raise _unknown(launcher)
    if program.nproc < 1:
        raise InvalidRequest(_("--nproc takes a number above zero, not {nproc}.").format(nproc=program.nproc))
    return run(program)


def _unknown(launcher: str) -> UnknownOption:
    nearest = difflib.get_close_matches(launcher, NAMES, n=1, cutoff=0)[0]
    return UnknownOption(
        _("There is no launcher {launcher!r}; the nearest is {nearest}.").format(launcher=launcher, nearest=nearest),
        hint=f"--launcher {nearest}",
    )
