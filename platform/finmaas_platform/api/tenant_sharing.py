"""Routes of what holds for a tenant at the gateways."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.services import tenant_sharing
from finmaas_platform.services.tenants import get_tenant

router = APIRouter(prefix="/tenants", tags=["tenants"])
LEAST_STALENESS_S = 60  # a connected gateway hears from the control plane every 20 seconds when nothing changes


class SharingChange(RequestBody):
    """What to change; fields left out stay, and a null `max_staleness_s` takes the bound away."""

    weight: float | None = Field(None, gt=0, le=1000)
    max_staleness_s: int | None = Field(None, ge=LEAST_STALENESS_S, le=30 * 86_400)


class SharingView(BaseModel):
    """`weight` counts where tenants wait; a gateway cut off for longer than `max_staleness_s` refuses the tenant."""

    tenant: str
    weight: float
    max_staleness_s: int | None


def show_sharing(row: TenantRow) -> SharingView:
    """The row as the API shows it."""
    return SharingView(tenant=row.name, weight=row.weight, max_staleness_s=row.max_staleness_s)


@router.get("/{tenant}/sharing", summary="Show what holds for a tenant at the gateways")
def get_sharing(tenant: str, caller: CallerDep, session: SessionDep) -> SharingView:
    """Its weight, and its bound on stale snapshots."""
    return show_sharing(get_tenant(session, caller, tenant))


@router.patch("/{tenant}/sharing", summary="Change what holds for a tenant at the gateways")
def change_sharing(
    tenant: str, body: SharingChange, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> SharingView:
    """The weight is for platform-admins, the bound for the tenant's admins too."""
    row = get_tenant(session, caller, tenant)
    now = deps.clock.now()
    if body.weight is not None:
        tenant_sharing.set_weight(session, caller, now, row, body.weight)
    if "max_staleness_s" in body.model_fields_set:
        tenant_sharing.set_max_staleness(session, caller, now, row, body.max_staleness_s)
    return show_sharing(row)
