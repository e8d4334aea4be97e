"""Real Jupyter clients around a kernel, and what tests ask them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager

from jupyter_dlenv.kernels.environments import Environment, EnvironmentManager

PATIENCE_S = 120


@dataclass
class Result:
    """What one cell did.

    Attributes:
        displays: Bundles in order, replaced ones included.
    """

    status: str = ""
    text: str = ""
    error: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The text of the last display."""
        return str(self.displays[-1]["text/plain"]) if self.displays else ""


class Notebook:
    """A kernel with a client."""

    def __init__(self, manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
        self.manager, self.client = manager, client

    async def run(self, code: str, *, answer: str | None = None) -> Result:
        """Run a cell to its end, answering its ``input()``."""
        result = Result()

        def output(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                result.text += content["text"]
            elif message["msg_type"] in ("display_data", "update_display_data", "execute_result"):
                result.displays.append(content["data"])
            elif message["msg_type"] == "error":
                result.error = "\n".join(content["traceback"])

        def stdin(_message: dict[str, Any]) -> None:
            self.client.input(answer)

        reply = await self.client.execute_interactive(
            code, timeout=PATIENCE_S, output_hook=output, stdin_hook=stdin, allow_stdin=answer is not None
        )
        result.status = reply["content"]["status"]
        return result


def environment(name: str, **options: Any) -> Environment:
    """Write an environment and return it."""
    made = Environment(name, **options)
    EnvironmentManager().put(made)
    return made


@asynccontextmanager
async def notebook(name: str, cwd: Path) -> AsyncIterator[Notebook]:
    """Start a kernel of an environment and shut it down afterwards."""
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel(cwd=str(cwd))
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=PATIENCE_S)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()
