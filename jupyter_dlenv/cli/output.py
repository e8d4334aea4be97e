"""What commands share: how they print, and whom they ask."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

FAILED = 1
"""The exit status of a command that could not do it."""


def show(arguments: argparse.Namespace, data: Any, text: Callable[[], str]) -> int:
    """Print data as JSON where ``--json`` was said, else as text."""
    print(json.dumps(data, indent=1, ensure_ascii=False) if arguments.json else text())
    return 0


def connect() -> Any:
    """Return a client of a job service in this process."""
    from ..notebook.client import Client
    from ..notebook.embedded import serve

    return Client(serve())


def write(text: str) -> None:
    """Print text at once, with no line end added."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line beside the output proper."""
    print(text, file=sys.stderr, flush=True)
