"""Audit events: who did what to which."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import AuditEvent
from finmaas_platform.sdk.transport import Transport


class AuditEvents:
    """`client.audit`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(
        self, target: str | None = None, action: str | None = None, limit: int | None = None
    ) -> Iterator[AuditEvent]:
        """Events in the caller's sight."""
        return self._http.pages(AuditEvent, "/audit-events", limit=limit, target=target, action=action)
