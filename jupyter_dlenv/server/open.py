"""HTTP tools of kernels and jobs, shown below the Jupyter server's own address.

What is open is known to this whole process, because kernels ask on their own sockets and browsers come to Jupyter.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Conflict, Unsupported
from ..i18n import _
from ..jobs.principal import Principal
from ..shell.opening import OpenRequest, open_for
from ..shell.tunnel import Tunnel

PACKAGE = "jupyter_server_proxy"
PATH = "dlenv/open"
_MOST = 64


@dataclass(frozen=True)
class Opening:
    """One thing that is open.

    Attributes:
        token: What its address is known by.
        target: The kernel's or job's id, empty for the host.
        port: The port inside.
    """

    token: str
    owner: str
    target: str
    port: int
    tunnel: Tunnel


class Openings:
    """What is open in this process."""

    def __init__(self) -> None:
        self._open: dict[str, Opening] = {}
        self._asked: dict[tuple[str, str, OpenRequest], str] = {}
        self._base_url: str | None = None
        self._address: Callable[[], str] = str

    def serve(self, base_url: str, address: Callable[[], str]) -> None:
        """Note where the Jupyter server of this process is reached.

        Args:
            base_url: The path that all of its addresses begin with.
            address: Returns the whole of it as a person at this host writes it.
        """
        self._base_url, self._address = base_url, address

    async def open(self, principal: Principal, request: OpenRequest) -> dict[str, Any]:
        """Open something, or find it open, and return where.

        Raises:
            Unsupported: There is no Jupyter server here, or it has no proxy.
            DLEnvError: It cannot be opened.
        """
        if self._base_url is None:
            raise Unsupported(_("Only a Jupyter server can show this, and here is none."), hint="jupyter lab")
        if importlib.util.find_spec(PACKAGE) is None:
            raise Unsupported(
                _("The Jupyter server shows pages of containers through jupyter-server-proxy, which it lacks."),
                hint="pip install jupyter-server-proxy",
            )
        opening = await self._again(principal, request) or await self._anew(principal, request)
        path = f"{PATH}/{opening.token}/"
        return {
            "target": opening.target,
            "port": opening.port,
            "path": self._base_url.rstrip("/") + "/" + path,
            "url": self._address().rstrip("/") + "/" + path,
        }

    async def _again(self, principal: Principal, request: OpenRequest) -> Opening | None:
        found = self._open.get(self._asked.get(_key(principal, request), ""))
        return found if found is not None and await found.tunnel.check() else None

    async def _anew(self, principal: Principal, request: OpenRequest) -> Opening:
        await self._forget_ended()
        await self._make_room()
        tunnel, target = await open_for(principal, request)
        token = secrets.token_urlsafe(18)
        opening = Opening(token, principal.owner, target, request.port or tunnel.tool_port, tunnel)
        self._open[token] = opening
        self._asked[_key(principal, request)] = token
        return opening

    async def _forget_ended(self) -> None:
        every = list(self._open.values())
        running = await asyncio.gather(*(opening.tunnel.runs() for opening in every))
        await self._forget([opening for opening, runs in zip(every, running, strict=True) if not runs])

    async def _make_room(self) -> None:
        """Close what has been idle for longest where too much is open."""
        while len(self._open) >= _MOST:
            known = [(opening.tunnel.idle_since, opening) for opening in self._open.values()]
            idle = [(since, opening) for since, opening in known if since is not None]
            if not idle:
                raise Conflict(
                    _("{count} pages of kernels and jobs are open already.").format(count=len(self._open)),
                    hint=_("Close those that nobody needs in the browser."),
                )
            await self._forget([min(idle, key=lambda each: each[0])[1]])

    async def _forget(self, openings: Sequence[Opening]) -> None:
        gone = [opening for opening in openings if self._open.pop(opening.token, None)]
        self._asked = {key: token for key, token in self._asked.items() if token in self._open}
        for opening in gone:
            await opening.tunnel.close()

    def find(self, token: str, owner: str) -> Opening | None:
        """Return what is open under a token, None where nothing of this owner is."""
        opening = self._open.get(token)
        return opening if opening is not None and opening.owner == owner else None

    async def close(self) -> None:
        """Close everything; the server goes."""
        self._base_url = None
        every, self._open = list(self._open.values()), {}
        self._asked.clear()
        for opening in every:
            await opening.tunnel.close()


def _key(principal: Principal, request: OpenRequest) -> tuple[str, str, OpenRequest]:
    return principal.owner, principal.kernel, request


OPENINGS = Openings()


def proxy_handlers(principal: Principal) -> Sequence[tuple[str, type[Any], dict[str, Any]]]:
    """Return the handlers of what is open; none where jupyter-server-proxy is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        return []
    from jupyter_server_proxy.handlers import AddSlashHandler

    from .proxy import OpenHandler

    return [
        (rf"/{PATH}/([^/]+)", AddSlashHandler, {}),
        (rf"/{PATH}/([^/]+)(/.*)", OpenHandler, {"principal": principal}),
    ]
