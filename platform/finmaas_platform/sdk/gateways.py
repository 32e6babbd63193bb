"""Gateways: what each process does."""

from __future__ import annotations

from finmaas_platform.sdk.objects import Gateway
from finmaas_platform.sdk.transport import Transport


class Gateways:
    """`client.gateways`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> list[Gateway]:
        """Every gateway that reported within the last hour."""
        return [Gateway.model_validate(item) for item in self._http.get("/gateways")["items"]]
