"""Tenants: business units."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import Tenant
from finmaas_platform.sdk.transport import Transport


class Tenants:
    """`client.tenants`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Iterator[Tenant]:
        """The tenants in the caller's sight."""
        return self._http.pages(Tenant, "/tenants")

    def create(self, name: str, display_name: str = "") -> Tenant:
        """Makes a tenant; AlreadyExists when the name is taken."""
        return Tenant.model_validate(
            self._http.write("POST", "/tenants", {"name": name, "display_name": display_name or name})
        )

    def get(self, name: str) -> Tenant:
        """One tenant; NotFound."""
        return Tenant.model_validate(self._http.get(f"/tenants/{name}"))

    def update(
        self,
        name: str,
        *,
        state: str | None = None,
        display_name: str | None = None,
        time_zone: str | None = None,
        fiscal_day: int | None = None,
        currency: str | None = None,
        cost_centre: str | None = None,
        if_match: int | None = None,
    ) -> Tenant:
        """Changes what is given; `state` is active, frozen or closed, `fiscal_day` the day on which months begin."""
        given = {
            "state": state, "display_name": display_name, "time_zone": time_zone, "fiscal_day": fiscal_day,
            "currency": currency, "cost_centre": cost_centre,
        }  # fmt: skip
        change = {key: value for key, value in given.items() if value is not None}
        return Tenant.model_validate(self._http.write("PATCH", f"/tenants/{name}", change, if_match=if_match))
