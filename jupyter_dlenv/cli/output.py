"""What commands share: how they print, and whom they ask."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

FAILED = 1
"""The exit status of a command that could not do it."""

_AT_END = ExitStack()


def show(arguments: argparse.Namespace, data: Any, text: Callable[[], str]) -> int:
    """Print data as JSON where ``--json`` was said, else as text."""
    print(json_text(data) if arguments.json else text())
    return 0


def json_text(data: Any) -> str:
    """Return data as JSON; escaped as JSON does it where standard output may lack a character."""
    everything = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(data, indent=1, ensure_ascii=not everything)


def connect() -> Any:
    """Return a client of a job service in this process."""
    from ..jobs.agent import leave_waiting
    from ..notebook.client import Client
    from ..notebook.embedded import serve

    _AT_END.callback(leave_waiting)
    return Client(serve())


def disconnect() -> None:
    """Leave waiting jobs to others, before the end of the interpreter takes the threads away that start them."""
    _AT_END.close()


def lines(talk: Callable[[str], Any] = lambda text: None) -> Any:
    """Return what prints a log: its bytes as they are, and where there is a terminal the progress bars."""
    from ..notebook.follow import lines_on, terminal_columns

    return lines_on(sys.stdout, terminal_columns(sys.stdout), talk)


def print_anything() -> None:
    """Let no text of ours fail for a character that the encoding of standard output lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def let_go() -> None:
    """Give up what a closed pipe did not take, or the interpreter would stumble over it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def say(text: str) -> None:
    """Print a line beside the output proper."""
    print(text, file=sys.stderr, flush=True)
