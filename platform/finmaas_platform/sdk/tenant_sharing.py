"""What holds for tenants at the gateways."""

from __future__ import annotations

from finmaas_platform.sdk.objects import TenantSharing
from finmaas_platform.sdk.transport import Transport


class TenantSharings:
    """`client.sharing`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def get(self, tenant: str) -> TenantSharing:
        """NotFound for a tenant that is not in sight."""
        return TenantSharing.model_validate(self._http.get(f"/tenants/{tenant}/sharing"))

    def set_weight(self, tenant: str, weight: float) -> TenantSharing:
        """Its weight among the tenants that wait; platform-admins only."""
        return TenantSharing.model_validate(self._http.write("PATCH", f"/tenants/{tenant}/sharing", {"weight": weight}))

    def set_max_staleness(self, tenant: str, seconds: int | None) -> TenantSharing:
        """A gateway cut off for longer refuses the tenant; None: none does."""
        body = {"max_staleness_s": seconds}
        return TenantSharing.model_validate(self._http.write("PATCH", f"/tenants/{tenant}/sharing", body))
