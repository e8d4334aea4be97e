"""Ports of this host that nobody listens on."""

from __future__ import annotations

import random
import socket

from .nodes import PORTS

_FIRST, _LAST = 20000, 32000  # below what Linux gives to clients
_TRIES = 50


def free_ports() -> int:
    """Return the first of as many ports in a row as a job may use, none of which anybody listens on now."""
    for _try in range(_TRIES):
        first = random.randrange(_FIRST, _LAST, PORTS)
        if all(map(_is_free, range(first, first + PORTS))):
            return first
    return _FIRST


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
