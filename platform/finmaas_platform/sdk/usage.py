"""Usage: what requests through the gateway used."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import UsageRecord, UsageTotal
from finmaas_platform.sdk.transport import Transport


class Usage:
    """`client.usage`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def records(
        self, project: str | None = None, endpoint: str | None = None, limit: int | None = None
    ) -> Iterator[UsageRecord]:
        """One record a request."""
        return self._http.pages(UsageRecord, "/usage", limit=limit, project=project, endpoint=endpoint)

    def summary(self, project: str | None = None) -> list[UsageTotal]:
        """Totals by endpoint."""
        return [UsageTotal.model_validate(item) for item in self._http.get("/usage/summary", project=project)["items"]]
