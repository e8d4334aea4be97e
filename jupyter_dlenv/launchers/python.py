"""One plain Python process."""

from __future__ import annotations

from ..errors import InvalidRequest
from ..i18n import _
from .launch import Launch, Program


def command(program: Program) -> Launch:
    """Return the interpreter's command line.

    Raises:
        InvalidRequest: More than one process is wanted.
    """
    if program.nproc != 1:
        raise InvalidRequest(
            _("The launcher python starts one process, not {nproc}.").format(nproc=program.nproc),
            hint="--launcher torchrun",
        )
    return Launch((program.python, *program.argv), {"PYTHONUNBUFFERED": "1"})
