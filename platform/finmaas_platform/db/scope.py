"""The one helper that keeps a query within the caller's tenant; an AST check in the tests finds queries round it."""

from __future__ import annotations

from typing import Any, TypeVar

from sqlalchemy import Select, false

from finmaas_platform.domain.principals import Caller

Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")


def scoped(query: Q, caller: Caller) -> Q:
    """Narrows a select of a tenant-owned row to what the caller may see.

    Platform-wide callers see everything, others their own tenant, callers without a tenant (nodes, gateways)
    nothing. The first selected entity decides; its class tells the column by `__tenant_key__` ("tenant_id" if unset).
    """
    if caller.is_platform_wide:
        return query
    entity = query.column_descriptions[0]["entity"]
    column = getattr(entity, getattr(entity, "__tenant_key__", "tenant_id"))
    if caller.tenant_id is None:
        return query.where(false())
    return query.where(column == caller.tenant_id)
