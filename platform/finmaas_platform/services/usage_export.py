"""Exports of what was used and what it cost, summed by key, project, tenant, model, cost centre or day."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from finmaas_core.errors import InvalidInput
from finmaas_core.prices import show_money
from finmaas_core.windows import WindowKind, find_window, get_zone, local_date
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.tenants import get_tenant

LONGEST_DAYS = 400


class Group(StrEnum):
    """What an export can be summed by."""

    KEY = "key"
    PROJECT = "project"
    TENANT = "tenant"
    MODEL = "model"
    COST_CENTRE = "cost_centre"
    DAY = "day"


@dataclass(frozen=True)
class ExportSpec:
    """Days are whole days of each tenant's own time zone, both included."""

    since: date
    until: date
    by: tuple[Group, ...]
    tenant: str | None = None
    project: str | None = None


_COLUMNS: dict[Group, InstrumentedAttribute[str]] = {
    Group.KEY: UsageRecordRow.key_id,
    Group.PROJECT: UsageRecordRow.project_id,
    Group.TENANT: UsageRecordRow.tenant_id,
    Group.MODEL: UsageRecordRow.endpoint_id,
    Group.COST_CENTRE: UsageRecordRow.cost_centre,
}
_SUMS = ("requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "cost_nano")


def sum_lines(session: Session, caller: Caller, spec: ExportSpec) -> list[dict[str, Any]]:
    """One line for each group and currency, in the order of their names. InvalidInput for days that make no period."""
    _check_period(spec)
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for tenant in _tenants(session, caller, spec):
        for start, end in _periods(tenant, spec):
            day = local_date(start, tenant.time_zone).isoformat()
            for row in session.execute(_query(session, caller, spec, tenant, start, end)):
                _add(lines, spec, day, row)
    names = _names(session, lines.values())
    shown = [_show(line, names) for line in lines.values()]
    return sorted(shown, key=lambda line: (tuple(line["group"].values()), line["currency"] or ""))


def write_csv(lines: Sequence[dict[str, Any]], by: Sequence[Group]) -> str:
    """The lines as CSV; cells that a spreadsheet would run as a formula are quoted as text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    groups = list(dict.fromkeys(by))
    writer.writerow([*groups, "currency", *_SUMS, "cost"])
    for line in lines:
        names = [_as_text(line["group"][group]) for group in groups]
        values = ["" if line[name] is None else line[name] for name in _SUMS]
        writer.writerow([*names, line["currency"] or "", *values, line["cost"] or ""])
    return out.getvalue()


def _query(session: Session, caller: Caller, spec: ExportSpec, tenant: TenantRow, start: int, end: int) -> Select[Any]:
    groups = [_COLUMNS[group] for group in spec.by if group is not Group.DAY]
    sums = [
        func.count(UsageRecordRow.id),
        *(
            func.sum(column)
            for column in (
                UsageRecordRow.prompt_tokens,
                UsageRecordRow.cached_tokens,
                UsageRecordRow.completion_tokens,
                UsageRecordRow.reasoning_tokens,
                UsageRecordRow.cost_nano,
            )
        ),
    ]
    query = scoped(select(UsageRecordRow.currency, *groups, *sums), caller).where(
        UsageRecordRow.tenant_id == tenant.id,
        UsageRecordRow.at >= datetime.fromtimestamp(start, UTC),
        UsageRecordRow.at < datetime.fromtimestamp(end, UTC),
    )
    if spec.project is not None:
        query = query.where(UsageRecordRow.project_id == get_project(session, caller, spec.project).id)
    return query.group_by(UsageRecordRow.currency, *groups)


def _add(lines: dict[tuple[Any, ...], dict[str, Any]], spec: ExportSpec, day: str, row: Any) -> None:
    currency, values = row[0], iter(row[1:])
    group = {one: day if one is Group.DAY else next(values) for one in spec.by}
    line = lines.setdefault((currency, *group.values()), {"group": group, "currency": currency})
    for name, value in zip(_SUMS, values, strict=True):
        if value is not None:
            line[name] = line.get(name, 0) + int(value)


def _show(line: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    cost = line.get("cost_nano")
    group = {one.value: names.get(value, value) for one, value in line["group"].items()}
    sums = {name: line.get(name, None if name == "cost_nano" else 0) for name in _SUMS}
    return {
        **sums,
        "group": group,
        "currency": line["currency"],
        "cost": None if cost is None else show_money(cost),
    }


def _tenants(session: Session, caller: Caller, spec: ExportSpec) -> list[TenantRow]:
    if spec.project is not None:
        return [get_project(session, caller, spec.project).tenant]
    if spec.tenant is not None:
        return [get_tenant(session, caller, spec.tenant)]
    return list(session.scalars(scoped(select(TenantRow), caller).order_by(TenantRow.name)))


def _periods(tenant: TenantRow, spec: ExportSpec) -> list[tuple[int, int]]:
    """Start and end of each day, or of all in one where days do not matter."""
    zone = get_zone(tenant.time_zone)
    noons = [
        datetime(day.year, day.month, day.day, 12, tzinfo=zone).timestamp()
        for day in (spec.since + timedelta(days=n) for n in range((spec.until - spec.since).days + 1))
    ]
    days = [find_window(WindowKind.DAY, noon, tenant.time_zone) for noon in noons]
    return days if Group.DAY in spec.by else [(days[0][0], days[-1][1])]


def _names(session: Session, lines: Any) -> dict[str, str]:
    """Names of the things whose ids stand in the groups."""
    ids = {value for line in lines for group, value in line["group"].items() if group in _COLUMNS}
    names: dict[str, str] = {}
    keys = select(ApiKeyRow).where(ApiKeyRow.id.in_(ids))  # unscoped: of records in sight
    names |= {row.id: f"{row.name} ({row.id})" for row in session.scalars(keys)}
    projects = select(ProjectRow).where(ProjectRow.id.in_(ids))  # unscoped: as above
    names |= {row.id: row.ref for row in session.scalars(projects)}
    tenants = select(TenantRow).where(TenantRow.id.in_(ids))  # unscoped: as above
    names |= {row.id: row.name for row in session.scalars(tenants)}
    endpoints = select(EndpointRow).where(EndpointRow.id.in_(ids))  # unscoped: a granted endpoint is another tenant's
    names |= {row.id: row.full_name for row in session.scalars(endpoints)}
    return names


def _check_period(spec: ExportSpec) -> None:
    days = (spec.until - spec.since).days + 1
    if not 0 < days <= LONGEST_DAYS:
        raise InvalidInput(f"{spec.since} to {spec.until} is no period of 1 to {LONGEST_DAYS} days")


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
