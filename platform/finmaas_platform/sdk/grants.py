"""Grants: a project may call another project's endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Grant
from finmaas_platform.sdk.transport import Transport


class Grants:
    """`client.grants`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Grant]:
        """The grants in the caller's sight."""
        return self._http.pages(Grant, "/grants", project=project)

    def create(self, endpoint: str, project: str) -> Grant:
        """Lets `project` call `endpoint` (`tenant/project/name`)."""
        return Grant.model_validate(self._http.write("POST", "/grants", {"endpoint": endpoint, "project": project}))

    def revoke(self, grant_id: str) -> Grant:
        """Takes a grant back."""
        return Grant.model_validate(self._http.write("POST", f"/grants/{grant_id}/revoke"))
