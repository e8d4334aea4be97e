"""Pages and WebSockets of kernels and jobs, by jupyter-server-proxy's own handler over a tunnel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

from jupyter_core.utils import ensure_async
from jupyter_server_proxy.handlers import LocalProxyHandler
from tornado.httputil import HTTPHeaders
from tornado.web import HTTPError, authenticated

from ..i18n import _
from ..jobs.principal import Principal
from .open import OPENINGS, PATH

AUTH_RESOURCE = "jupyter_dlenv:open"
_HTTP = "80"
_OURS = ("username-", "_xsrf", "jupyterhub-", "jupyter-")
_CREDENTIALS = ("Authorization", "X-XSRFToken", "Sec-WebSocket-Protocol")  # the last is written anew for the tool
_TOKEN_PROTOCOL = "v1.token.websocket.jupyter.org"


def without_credentials(cookie: str, own: str) -> str:
    """Return a Cookie header without the cookies by which Jupyter knows who asks: a container is not to have them.

    Args:
        own: Name of the server's own cookie.
    """
    parts = [(part.partition("=")[0].strip(), part.strip()) for part in cookie.split(";")]
    return "; ".join(part for name, part in parts if part and name != own and not name.startswith(_OURS))


def without_token(query: str, token: str) -> str:
    """Return an address's query without the server's token, however it is escaped.

    Args:
        token: The server's own, empty where it has none.
    """

    def tells(part: str) -> bool:
        return any(name == "token" and token in value for name, value in parse_qsl(part, keep_blank_values=True))

    return "&".join(part for part in query.split("&") if not (token and tells(part)))


class OpenHandler(LocalProxyHandler):  # type: ignore[misc]  # has no types
    """``dlenv/open/TOKEN/…``: who may use the server is known to Jupyter, what is open to us."""

    auth_resource = AUTH_RESOURCE

    def initialize(self, principal: Principal) -> None:
        """Take whose server it is."""
        self._principal = principal

    # Nobody comes as far as these who has not passed `prepare`; the decorators are for Jupyter, which looks for them.
    get = authenticated(LocalProxyHandler.get)
    head = authenticated(LocalProxyHandler.head)
    post = authenticated(LocalProxyHandler.post)
    put = authenticated(LocalProxyHandler.put)
    patch = authenticated(LocalProxyHandler.patch)
    delete = authenticated(LocalProxyHandler.delete)
    options = authenticated(LocalProxyHandler.options)

    async def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Ask who it is and whether they may, before any method; then find what is open."""
        await super().prepare(*args, **kwargs)
        if self._finished:  # sent to the login page
            return
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, "execute", AUTH_RESOURCE)):
            raise HTTPError(403)
        token, path = map(str, self.path_args)  # type: ignore[has-type]
        opening = OPENINGS.find(token, self._principal.owner)
        if opening is None or not opening.tunnel.live:
            raise HTTPError(404, _("This is not open any more."))
        self._port_inside = opening.port
        self.unix_socket = opening.tunnel.path
        self.proxy_base = f"{PATH}/{token}"
        self.path_args = [_HTTP, path]

    async def proxy(self, port: str, proxied_path: str) -> None:
        """Ask the tool, and say in words that it does not answer."""
        try:
            await ensure_async(super().proxy(port, proxied_path))
        except HTTPError as error:
            if error.status_code not in (500, 599):
                raise
            raise HTTPError(502, _("Nothing answers at port {port} there.").format(port=self._port_inside)) from error

    def proxy_request_headers(self) -> HTTPHeaders:
        """Return the headers for the tool."""
        headers: HTTPHeaders = super().proxy_request_headers()
        for name in _CREDENTIALS:
            headers.pop(name, None)
        cookies = without_credentials(headers.pop("Cookie", ""), self.identity_provider.get_cookie_name(self))
        if cookies:
            headers["Cookie"] = cookies
        if "Referer" in headers:  # of the page that was opened with the token
            headers["Referer"] = headers["Referer"].partition("?")[0]
        return headers

    def select_subprotocol(self, subprotocols: Sequence[str]) -> str | None:
        """Choose among those that the tool may know; one of Jupyter's own carries the server's token."""
        handed_on = [name for name in subprotocols if not name.startswith(_TOKEN_PROTOCOL)]
        chosen: str | None = super().select_subprotocol(handed_on)
        return chosen

    def get_client_uri(self, protocol: str, host: str, port: str, proxied_path: str) -> str:
        """Return the address inside, without the server's token."""
        address, _mark, query = str(super().get_client_uri(protocol, host, port, proxied_path)).partition("?")
        kept = without_token(query, getattr(self.identity_provider, "token", ""))
        return address + f"?{kept}" * bool(kept)
