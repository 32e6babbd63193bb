"""The lock on a replica's port: who does not know its secret gets nothing, the engine's admin paths least of all.

The secret follows from the cluster token, which every serving node holds already; the control plane tells it to the
gateways with their snapshot. So keys, allowances, guardrails and metering cannot be walked around by going to the port.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_PURPOSE = b"finmaas replica v1"
_REFUSED = b'{"error":{"message":"this port takes requests from gateways only","type":"invalid_request_error"}}'


def derive_replica_secret(cluster_token: str) -> str:
    """What gateways send to replicas, as a bearer token."""
    return hmac.digest(cluster_token.encode(), _PURPOSE, "sha256").hex()


class ReplicaDoor:
    """ASGI middleware around the engine's application."""

    def __init__(self, app: App, secret: str) -> None:
        self._app = app
        self._wanted = f"Bearer {secret}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request in that bears the secret, and everything that is no request (the start and end of the app)."""
        if scope["type"] == "lifespan" or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket is not accepted
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_REFUSED))]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSED})

    def _is_known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._wanted)
