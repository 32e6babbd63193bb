"""Gateways as they report themselves: kept for an hour after the last word, shown to each caller with its own lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput
from finmaas_platform.db.gateway_reports import GatewayReportRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.domain.principals import Caller
from finmaas_serving.gateway.schemas import Report

FORGET_AFTER = timedelta(hours=1)
SILENT_AFTER_S = 10.0
"""A gateway that has not reported for so long counts as away; it may serve all the same."""


@dataclass(frozen=True)
class GatewayState:
    """One gateway process: its last report, and how long ago that was in seconds."""

    gateway_id: str
    seen_at: datetime
    age_s: float
    report: Report

    @property
    def state(self) -> str:
        if self.age_s > SILENT_AFTER_S:
            return "silent"
        return "draining" if self.report.draining else "ready" if self.report.snapshot is not None else "starting"


def store_report(session: Session, now: datetime, gateway_id: str, report: Mapping[str, Any]) -> None:
    """Keeps the newest report of a gateway. InvalidInput when it cannot be read."""
    try:
        plain = msgspec.to_builtins(msgspec.convert(report, Report, strict=False), str_keys=True)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the report of gateway {gateway_id} cannot be read: {error}") from None
    row = session.get(GatewayReportRow, gateway_id)
    if row is None:
        session.add(GatewayReportRow(gateway_id=gateway_id, seen_at=now, report=plain))
        session.execute(delete(GatewayReportRow).where(GatewayReportRow.seen_at < now - FORGET_AFTER))
        return
    row.seen_at, row.report = now, plain


def list_gateways(session: Session, caller: Caller, now: datetime) -> list[GatewayState]:
    """Every gateway that reported lately, with the lines of projects in the caller's sight.

    What is not a project's (refusals, connections) is for platform-wide callers.
    """
    rows = session.scalars(select(GatewayReportRow).order_by(GatewayReportRow.gateway_id))  # unscoped: narrowed below
    projects = None if caller.is_platform_wide else _projects_of(session, caller)
    return [_show(row, now, projects) for row in rows]


def _projects_of(session: Session, caller: Caller) -> set[str]:
    return {project.ref for project in session.scalars(scoped(select(ProjectRow), caller))}


def _show(row: GatewayReportRow, now: datetime, projects: set[str] | None) -> GatewayState:
    report = msgspec.convert(row.report, Report, strict=False)
    if projects is not None:
        report.lines = [line for line in report.lines if line.project in projects]
        report.refused, report.running, report.connections, report.usage_waiting = {}, 0, 0, 0
    return GatewayState(row.gateway_id, row.seen_at, max(0.0, (now - row.seen_at).total_seconds()), report)
