"""Who may ask: no page of another site, and nobody without the token where there is one.

A browser on this machine would let any site's script send requests to 127.0.0.1, and a site may
give its own name this address (DNS rebinding). So a request is answered only if its ``Host`` is one
of ours, and if its ``Origin``, which browsers send and scripts cannot forge, is one of ours too.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs

__all__ = ["Guard"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_PROTECTED = "/api/"


class Guard:
    """ASGI middleware in front of ``app``.

    ``hosts``: values of ``Host`` that are ours, with the port; None for any, which needs a token.
    ``token``: what ``Authorization: Bearer`` must say for anything below ``/api/``; a web socket,
    for which browsers let nobody set that, may say it as the query's ``token``.
    """

    def __init__(self, app: Asgi, *, hosts: Collection[str] | None, token: str | None) -> None:
        if hosts is None and not token:
            raise ValueError("Any host needs a token")
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or refuses with 403 or 401."""
        if scope["type"] in ("http", "websocket"):
            refused = self._refusal(scope)
            if refused is not None:
                await _refuse(scope, receive, send, *refused)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "").lower()
        if self._hosts is not None and host not in self._hosts:
            return 403, f"Host {host[:80]!r} is not this server; --allow-host allows a name"
        origin = headers.get(b"origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            return 403, f"Origin {origin[:80]!r} is another site"
        if self._token and scope["path"].startswith(_PROTECTED):
            given = headers.get(b"authorization", "").removeprefix("Bearer ")
            if not given and scope["type"] == "websocket":
                given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + status, "reason": why[:100]})
        return
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
