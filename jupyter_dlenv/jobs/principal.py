"""Who asks: fixed when a socket or a session is made, never read from a request."""

from __future__ import annotations

from dataclasses import dataclass

from ..kernels.environments import Environment


@dataclass(frozen=True)
class Principal:
    """The caller of the job API.

    Attributes:
        owner: Whose jobs these are.
        kernel: The kernel that asks, empty for a person at a server or a command line.
        environment: What a kernel runs in; its jobs run there too unless told otherwise.
        root: The folder that a kernel sees; empty to find it from the working folder of each request.
    """

    owner: str
    kernel: str = ""
    environment: Environment | None = None
    root: str = ""
