"""Usage records: taken from gateways, each counted once, and shown to those who pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from finmaas_core.errors import Conflict
from finmaas_core.ids import new_id
from finmaas_platform.db.base import insert_missing
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.ledger import LedgerGatewayRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.batches import charge_once
from finmaas_platform.services.ledger import settle
from finmaas_platform.services.projects import get_project


@dataclass(frozen=True)
class UsageTotal:
    """Sums over the requests to one endpoint; `endpoint` is its full name, None once nothing of it is left."""

    endpoint_id: str
    endpoint: str | None
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def store_usage(session: Session, gateway_id: str, records: Sequence[Mapping[str, Any]]) -> int:
    """Stores a delivery and returns the highest number taken; what was delivered before is left as it is.

    Conflict when a number comes back with another request: then the gateway began to count anew and would lose records.
    """
    if not records:
        return _find_last(session, gateway_id)
    records = charge_once(session, records)
    # Deliveries of one gateway come one after the other, so that none is settled twice.
    session.get(LedgerGatewayRow, gateway_id, with_for_update=True)
    known = _check_repeats(session, gateway_id, {record["seq"]: record["request_id"] for record in records})
    settle(session, gateway_id, (record for record in records if record["seq"] not in known))
    centres = _cost_centres(session, {record["project_id"] for record in records})
    values = [
        {name: value for name, value in record.items() if name not in ("charges", "epoch")}
        | {"id": new_id("usage_record"), "gateway_id": gateway_id, "cost_centre": centres.get(record["project_id"], "")}
        for record in records
        if record["seq"] not in known
    ]
    insert_missing(session, UsageRecordRow, values)
    return max(int(record["seq"]) for record in records)


def select_usage(
    session: Session, caller: Caller, project: str | None = None, endpoint: str | None = None
) -> Select[UsageRecordRow]:
    """The records of the caller's tenant; `endpoint` is an id or a full name."""
    query = scoped(select(UsageRecordRow), caller)
    if project is not None:
        query = query.where(UsageRecordRow.project_id == get_project(session, caller, project).id)
    if endpoint is not None:
        query = query.where(UsageRecordRow.endpoint_id.in_(_endpoint_ids(endpoint)))
    return query


def sum_usage(session: Session, caller: Caller, project: str | None = None) -> list[UsageTotal]:
    """Totals by endpoint, of the caller's tenant or one of its projects."""
    # Copies for a shadow are metered, but nobody asked for them and nobody pays.
    chosen = select_usage(session, caller, project).where(UsageRecordRow.traffic != "shadow").subquery()
    columns = (chosen.c.prompt_tokens, chosen.c.completion_tokens, chosen.c.cached_tokens)
    sums = [func.coalesce(func.sum(column), 0) for column in columns]
    query = select(chosen.c.endpoint_id, func.count(), *sums).group_by(chosen.c.endpoint_id)
    totals = session.execute(query.order_by(chosen.c.endpoint_id)).all()
    names = _endpoint_names(session, [total[0] for total in totals])
    return [UsageTotal(total[0], names.get(total[0]), *(int(value) for value in total[1:])) for total in totals]


def _find_last(session: Session, gateway_id: str) -> int:
    last = select(func.max(UsageRecordRow.seq)).where(UsageRecordRow.gateway_id == gateway_id)  # unscoped: as below
    return session.scalar(last) or 0


def _check_repeats(session: Session, gateway_id: str, requests: Mapping[int, str]) -> set[int]:
    """The numbers that were delivered before."""
    seen: set[int] = set()
    known = session.execute(
        select(UsageRecordRow.seq, UsageRecordRow.request_id).where(  # unscoped: gateways report for all tenants
            UsageRecordRow.gateway_id == gateway_id, UsageRecordRow.seq.in_(requests)
        )
    )
    for seq, request_id in known:
        seen.add(seq)
        if requests[seq] != request_id:
            raise Conflict(
                f"record {seq} of gateway {gateway_id} is already another request's; a gateway whose spool was lost "
                "needs a new gateway_id"
            )
    return seen


def _cost_centres(session: Session, project_ids: set[str]) -> dict[str, str]:
    """The cost centre of each project now, or else its tenant's: a record keeps it, whatever is renamed later."""
    rows = session.scalars(select(ProjectRow).where(ProjectRow.id.in_(project_ids)))  # unscoped: as above
    return {row.id: row.cost_centre or row.tenant.cost_centre for row in rows}


def _endpoint_ids(endpoint: str) -> Select[str]:
    """Ids that a filter means: the id itself, or every endpoint (stopped ones too) that bears the full name."""
    tenant, _, rest = endpoint.partition("/")
    project, _, name = rest.partition("/")
    if not name:
        return select(EndpointRow.id).where(EndpointRow.id == endpoint)  # unscoped: narrows a scoped query
    return (
        select(EndpointRow.id)  # unscoped: narrows a scoped query
        .join(ProjectRow, EndpointRow.project_id == ProjectRow.id)
        .join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
        .where(TenantRow.name == tenant, ProjectRow.name == project, EndpointRow.name == name)
    )


def _endpoint_names(session: Session, endpoint_ids: Sequence[str]) -> dict[str, str]:
    rows = session.scalars(
        select(EndpointRow).where(EndpointRow.id.in_(endpoint_ids))  # unscoped: a granted endpoint is another tenant's
    )
    return {row.id: row.full_name for row in rows}
