"""``jupyter dlenv``: the same managers as the server, on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import DLEnvError
from ..i18n import _
from .arguments import parser
from .host import run_demo
from .jobs import run_job
from .output import FAILED

__all__ = ["main", "parser"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] in (["run"], ["demo"]):  # have parsers of their own
            return run_job(words[1:]) if words[0] == "run" else run_demo(words[1:])
        arguments = parser().parse_args(words)
        return int(arguments.function(arguments) or 0)
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt as error:
        sys.stderr.write((str(error) or _("Interrupted.")) + "\n")
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
