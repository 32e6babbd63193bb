"""Usage: what requests through the gateway used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finmaas_platform.sdk.objects import UsageLine, UsageRecord, UsageTotal
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

    def export(
        self,
        since: str,
        until: str,
        by: Sequence[str],
        tenant: str | None = None,
        project: str | None = None,
    ) -> list[UsageLine]:
        """Sums by key, project, tenant, model, cost_centre or day, of whole days (`2026-01-31`), both included."""
        params = {"since": since, "until": until, "by": list(by), "tenant": tenant, "project": project}
        return [UsageLine.model_validate(line) for line in self._http.get("/usage/export", **params)["lines"]]

    def export_csv(
        self,
        since: str,
        until: str,
        by: Sequence[str],
        tenant: str | None = None,
        project: str | None = None,
    ) -> str:
        """The same as CSV."""
        params = {"since": since, "until": until, "by": list(by), "tenant": tenant, "project": project, "csv": "true"}
        return self._http.request("GET", "/usage/export", params=params).text
