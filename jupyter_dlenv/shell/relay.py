"""This process's terminal, or its plain input and output, connected to a command in a container."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_STDIN = 0
_CHUNK = 1 << 16
_ENDS = (signal.SIGHUP, signal.SIGTERM)


class Remote(Protocol):
    """The command's side."""

    def fileno(self) -> int:
        """Return what select can wait for."""

    def early(self) -> list[tuple[int, bytes]]:
        """Return what the command wrote before :meth:`fileno` could tell."""

    def receive(self) -> list[tuple[int, bytes]] | None:
        """Return what it wrote, None at its end."""

    def send(self, data: bytes) -> int:
        """Type, and return how many bytes were taken."""

    def end_input(self) -> None:
        """Close the command's input."""

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal's size."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn a closed terminal and a polite kill into an exception, so that the block's own end is reached.

    While that end runs, no further signal cuts it short.
    """

    def end(signum: int, _frame: Any) -> None:
        for each in (*_ENDS, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        sys.exit(128 + signum)

    saved = {signum: signal.signal(signum, end) for signum in _ENDS}
    saved[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for signum, handler in saved.items():
            signal.signal(signum, handler)


@contextmanager
def _raw() -> Iterator[None]:
    """Let every key through: the other side's terminal gives them their meaning."""
    saved = termios.tcgetattr(_STDIN)
    tty.setraw(_STDIN)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(_STDIN, termios.TCSANOW, saved)


@contextmanager
def _size_changes() -> Iterator[int]:
    """Yield a descriptor that can be read after the window's size has changed."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    handler = signal.signal(signal.SIGWINCH, lambda signum, frame: None)  # else the signal is not delivered at all
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGWINCH, handler)
        os.close(reader)
        os.close(writer)


def relay(remote: Remote, *, terminal: bool) -> None:
    """Pass bytes both ways until the command closes its output, or this terminal is closed.

    Args:
        terminal: Whether both sides have a terminal; without one, the command's input ends with ours.
    """
    with _raw() if terminal else contextlib.nullcontext(), _size_changes() as changed:
        if terminal:
            _tell_size(remote)
        _write(remote.early())
        _pump(remote, changed, terminal)


def _pump(remote: Remote, changed: int, terminal: bool) -> None:
    typed, reading = b"", True
    while True:
        wanted: list[Any] = [remote, changed, *([_STDIN] if reading and not typed else [])]
        readable, writable, _none = select.select(wanted, [remote] if typed else [], [])
        if changed in readable:
            os.read(changed, _CHUNK)
            if terminal:
                _tell_size(remote)
        if _STDIN in readable:
            typed = _read()
            reading = bool(typed)
            if not reading and terminal:
                return
            if not reading:
                remote.end_input()
        if writable:
            typed = typed[remote.send(typed) :]
        if remote in readable:
            pieces = remote.receive()
            if pieces is None:
                return
            _write(pieces)


def _read() -> bytes:
    try:
        return os.read(_STDIN, _CHUNK)
    except OSError:  # a terminal that was closed
        return b""


def _write(pieces: list[tuple[int, bytes]]) -> None:
    for channel, data in pieces:
        while data:
            data = data[os.write(channel, data) :]


def _tell_size(remote: Remote) -> None:
    size = os.get_terminal_size(_STDIN)
    if size.lines and size.columns:
        remote.resize(size.lines, size.columns)
