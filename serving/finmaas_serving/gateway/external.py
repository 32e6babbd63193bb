"""Providers outside: how a request reaches one, and what it must not take with it.

Only a project that was approved for a provider gets here, and only with its personal data masked: the strict policy
is laid over whatever the project's own one did. The provider's secret is opened in memory alone.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from finmaas_core.errors import Corrupt
from finmaas_core.sealing import open_secret
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.snapshot import Provider, Route
from finmaas_serving.gateway.upstream import Replica
from finmaas_serving.guard.policy import Guard, strict_policy
from finmaas_serving.guard.request import screen_request

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.shapes import Shape

log = get_logger()
PURPOSE = "external provider"
OURS = frozenset(("cache_salt", "priority", "continuous_usage_stats"))  # engine fields that others refuse


@dataclass(frozen=True, slots=True)
class Outside:
    """A provider ready to be called: its connections, the path that stands before `/chat/completions`, its door."""

    replica: Replica
    path: str
    door: bytes


class OutsideBook:
    """Providers by what the snapshot says of them; connections are kept while that stays the same."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper
        self._open: dict[Provider, Outside | None] = {}
        self._guard: Guard | None = None

    def find(self, provider: Provider) -> Outside | None:
        """The provider, its secret opened; None when that cannot be."""
        if provider not in self._open:
            try:
                self._open[provider] = self._make(provider)
            except Corrupt as error:
                log.error("provider.sealed", provider=provider.name, error=error.message)
                self._open[provider] = None
        return self._open[provider]

    def keep_only(self, providers: set[Provider]) -> None:
        """Closes what the newest snapshot does not name."""
        for gone in self._open.keys() - providers:
            if (outside := self._open.pop(gone)) is not None:
                outside.replica.gone = True
                outside.replica.close_idle()

    def body_for(self, shape: Shape, body: CallBody, model: str) -> bytes:
        """The request's body for a provider: masked, under the provider's name of the model, without our own fields.

        Raises BlockedByPolicy or InvalidInput for what may not leave at all.
        """
        fields: dict[str, Any] = {name: raw for name, raw in body.fields.items() if name not in OURS}
        if self._guard is None:
            self._guard = Guard(strict_policy())
        raw = msgspec.json.encode(fields)
        screened, _ = screen_request(self._guard, shape.path, raw, fields)
        if screened is not None:
            fields = dict(msgspec.json.decode(screened, type=dict[str, msgspec.Raw]))
        fields["model"] = model
        if body.stream and shape.path.endswith("completions"):
            fields["stream_options"] = {"include_usage": True}
        return msgspec.json.encode(fields)

    def _make(self, provider: Provider) -> Outside:
        parts = urlsplit(provider.base_url)
        secure = parts.scheme == "https"
        address = (parts.hostname or "", parts.port or (443 if secure else 80))
        replica = Replica(provider.provider_id, address, ssl.create_default_context() if secure else None)
        replica.name = f"external:{provider.name}"
        replica.host_header = parts.netloc.rpartition("@")[2].encode()
        secret = open_secret(self._pepper, PURPOSE, provider.sealed)
        return Outside(replica, parts.path.rstrip("/"), f"authorization: Bearer {secret}\r\n".encode())


def route_of(provider: Provider, model: str) -> Route:
    """A provider's model as a target."""
    name = f"external:{provider.name}"
    return Route(provider.provider_id, name, name, "", provider.provider_id, model, "ready", model_version=model)
