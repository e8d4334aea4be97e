"""``jupyter dlenv``: the same managers as the server, on the command line."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import DLEnvError
from ..i18n import _
from .arguments import parser
from .host import run_demo
from .jobs import run_job
from .output import FAILED, disconnect, let_go, print_anything

__all__ = ["main", "parser"]

_UNREAD = 141  # as a shell tells of what a closed pipe ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: Its words. Without them this whole process is the command: it dies of the signal that interrupted it, so
            that a shell's loop or a ``make`` ends with it.
    """
    if argv is None:
        return _be_the_command(sys.argv[1:])
    try:
        return _tell(list(argv))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _tell(words: list[str]) -> int:
    """Run one command, tell what went wrong and return the exit status; an interrupt is told and passed on."""
    print_anything()
    try:
        status = _run(words)
        print(end="", flush=True)
        return status
    except DLEnvError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    except KeyboardInterrupt as error:
        sys.stderr.write((str(error) or _("Interrupted.")) + "\n")
        raise
    except BrokenPipeError:
        let_go()
        return _UNREAD


def _run(words: list[str]) -> int:
    if words[:1] in (["run"], ["demo"]):  # have parsers of their own
        return run_job(words[1:]) if words[0] == "run" else run_demo(words[1:])
    arguments = parser().parse_args(words)
    return int(arguments.function(arguments) or 0)


def _be_the_command(words: list[str]) -> int:
    signals = _Signals()
    try:
        return _tell(words)
    except KeyboardInterrupt:
        return signals.die_at_exit()
    finally:
        signals.hear_no_more()
        disconnect()
        logging.disable()  # what other threads are about to do breaks off with the interpreter, which is no news


class _Signals:
    """What ends this process from outside: an interrupt, and a polite kill, which is heard as one."""

    def __init__(self) -> None:
        self._deadly = signal.SIGINT
        self._hears = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        self._dies = False
        atexit.register(self._die)  # the first to be registered is the last to be called
        if self._hears:
            signal.signal(signal.SIGTERM, self._terminated)

    def _terminated(self, _signum: int, _frame: Any) -> None:
        if self._deadly != signal.SIGTERM:  # once: ``timeout`` sends it twice, and the second interrupt of a job kills
            self._deadly = signal.SIGTERM
            raise KeyboardInterrupt

    def hear_no_more(self) -> None:
        """Let a kill end this process at once from now on."""
        if self._hears:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def die_at_exit(self) -> int:
        """Return the status that a shell gives to what dies of the signal, as this process does in the end."""
        self._dies = True
        return 128 + self._deadly

    def _die(self) -> None:
        if self._dies:
            let_go()
            signal.signal(self._deadly, signal.SIG_DFL)
            os.kill(os.getpid(), self._deadly)
