"""Batches of requests that applications run through a gateway."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Batch
from finmaas_platform.sdk.transport import Transport


class Batches:
    """`client.batches`. To make one, use OpenAI's client with an API key."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Batch]:
        """The batches in the caller's sight."""
        return self._http.pages(Batch, "/batches", project=project)

    def get(self, batch_id: str) -> Batch:
        """One batch; NotFound when it is not in the caller's sight."""
        return Batch.model_validate(self._http.get(f"/batches/{batch_id}"))

    def cancel(self, batch_id: str) -> Batch:
        """Asks for its end; what was answered stays."""
        return Batch.model_validate(self._http.write("POST", f"/batches/{batch_id}/cancel"))
