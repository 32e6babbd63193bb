"""Projects: use cases inside a tenant, owners of datasets, models, jobs and endpoints."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Project
from finmaas_platform.sdk.transport import Transport


class Projects:
    """`client.projects`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, tenant: str | None = None) -> Iterator[Project]:
        """The projects in the caller's sight."""
        return self._http.pages(Project, "/projects", tenant=tenant)

    def create(self, tenant: str, name: str, display_name: str = "") -> Project:
        """Makes a project; AlreadyExists when the name is taken."""
        body = {"tenant": tenant, "name": name, "display_name": display_name or name}
        return Project.model_validate(self._http.write("POST", "/projects", body))

    def get(self, ref: str) -> Project:
        """One project by `tenant/project`; NotFound."""
        return Project.model_validate(self._http.get(f"/projects/{ref}"))

    def update(self, ref: str, *, cost_centre: str, if_match: int | None = None) -> Project:
        """Sets the cost centre that usage is booked to; empty: the tenant's."""
        change = {"cost_centre": cost_centre}
        return Project.model_validate(self._http.write("PATCH", f"/projects/{ref}", change, if_match=if_match))
