"""What was kept for auditors."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import KeptRecord
from finmaas_platform.sdk.transport import Transport


class Archive:
    """`client.archive`; for auditors."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(
        self, project: str | None = None, request_id: str | None = None, limit: int | None = None
    ) -> Iterator[KeptRecord]:
        """What is kept, newest first; the texts stay sealed."""
        return self._http.pages(KeptRecord, "/archive", limit=limit, project=project, request_id=request_id)

    def read(self, kept_id: str, reason: str) -> str:
        """Opens one record; the audit notes who did, and why."""
        return str(self._http.write("POST", f"/archive/{kept_id}/readings", {"reason": reason})["text"])
