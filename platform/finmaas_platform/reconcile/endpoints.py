"""Moves endpoints: one lease and one plan for the whole cluster, because Serve's PUT drops what it does not name.

What to do is decided in `domain/endpoints.py`. A document that was put but not noted is put again, which changes
nothing; an endpoint that a request changed meanwhile keeps that change (`WHERE version`) and is planned anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from finmaas_core.errors import FinmaasError, InvalidInput, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_platform.cluster.port import ObservedApplication
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.endpoints import EndpointRow, to_endpoint
from finmaas_platform.db.leases import (
    SharedWorkRow,
    claim,
    ensure_shared_work,
    is_only_control_plane,
    release_all,
    update_leased,
)
from finmaas_platform.deps import Deps
from finmaas_platform.domain.endpoints import (
    IDLE_POLL_S,
    Endpoint,
    EndpointPlan,
    EndpointState,
    LastPut,
    ServePlan,
    digest_of,
    plan_serve,
)
from finmaas_platform.services.audit import SYSTEM, record_audit
from finmaas_platform.services.snapshots import bump_snapshot

SERVE = "serve"

log = get_logger()


@dataclass(frozen=True)
class ClaimedServe:
    """The lease on Serve's document, and all endpoints that are to be in it, as they were when it was taken."""

    lock: SharedWorkRow
    token: str
    rows: Mapping[str, EndpointRow]
    last_put: LastPut | None

    @property
    def endpoints(self) -> list[Endpoint]:
        return [to_endpoint(row) for row in self.rows.values()]


class EndpointReconciler:
    """The reconciler of endpoints; see `reconcile/loop.py` for how it is run."""

    name = "endpoints"

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def prepare(self) -> None:
        """Makes the row under which Serve's document is written; frees the lease of a killed predecessor."""
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            ensure_shared_work(session, SERVE, now)
            if is_only_control_plane(self._deps.sessions):
                release_all(session, SharedWorkRow, now)

    def run_once(self) -> float:
        """One step for all endpoints; returns the seconds until the next look."""
        claimed = self._claim()
        if claimed is None:
            return IDLE_POLL_S
        observed = self._observe()
        plan = plan_serve(claimed.endpoints, observed, claimed.last_put, self._deps.clock.now())
        plan, put = self._act(claimed, plan)
        self._apply(claimed, plan, put)
        return plan.next_look_s

    def _claim(self) -> ClaimedServe | None:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            locks = claim(session, SharedWorkRow, now, SharedWorkRow.id == SERVE)
            if not locks:
                return None
            live = select(EndpointRow).where(EndpointRow.state != EndpointState.STOPPED).order_by(EndpointRow.id)
            rows = {row.id: row for row in session.scalars(live)}
            return ClaimedServe(locks[0], locks[0].lease_token or "", rows, _read_last_put(locks[0].note))

    def _observe(self) -> Mapping[str, ObservedApplication] | None:
        try:
            return self._deps.cluster.observe_applications()
        except Unavailable as error:
            log.info("cluster.away", error=error.message)
            return None

    def _act(self, claimed: ClaimedServe, plan: ServePlan) -> tuple[ServePlan, LastPut | None]:
        """Puts the document, if the plan has one; returns the plan as things then stand, and what was put last."""
        if plan.document is None:
            return plan, claimed.last_put
        now = self._deps.clock.now()
        try:
            self._deps.cluster.put_applications(plan.document)
        except Unavailable as error:
            log.info("cluster.away", error=error.message)
            return plan_serve(claimed.endpoints, None, claimed.last_put, now), claimed.last_put
        except InvalidInput as error:
            log.warning("serve.refused", error=error.message)
            return _plan_refused(claimed.endpoints, plan, error), LastPut(digest_of(plan.document), now)
        log.info("serve.put", applications=[application.name for application in plan.document])
        return plan, LastPut(digest_of(plan.document), now)

    def _apply(self, claimed: ClaimedServe, plan: ServePlan, put: LastPut | None) -> None:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            # Due at once: how often to look is this process's own matter, and a woken one must not wait.
            if not update_leased(session, claimed.lock, claimed.token, {"due_at": now, "note": _write_last_put(put)}):
                log.info("serve.plan_dropped")
                return
            for change in plan.endpoints:
                _apply_endpoint(session, claimed.rows[change.endpoint_id], change, now)


def _plan_refused(endpoints: list[Endpoint], plan: ServePlan, error: FinmaasError) -> ServePlan:
    """Serve will not have the document: those that do not serve yet show why, the others go on."""
    ready = {endpoint.id for endpoint in endpoints if endpoint.state is EndpointState.READY}
    reason = f"the cluster refuses the deployment: {error.message[:300]}"
    states = tuple(
        change
        if change.endpoint_id in ready or change.state is EndpointState.FAILED
        else EndpointPlan(change.endpoint_id, EndpointState.STARTING, reason, 0)
        for change in plan.endpoints
    )
    return ServePlan(None, states, plan.next_look_s)


def _apply_endpoint(session: Session, row: EndpointRow, change: EndpointPlan, now: datetime) -> None:
    after = (change.state.value, change.reason, change.ready_replicas)
    if after == (row.state, row.reason, row.ready_replicas):
        return
    result = session.execute(
        update(EndpointRow)
        .where(EndpointRow.id == row.id, EndpointRow.version == row.version)
        .values(
            state=change.state.value,
            reason=change.reason,
            ready_replicas=change.ready_replicas,
            version=EndpointRow.version + 1,
        )
        .execution_options(synchronize_session=False)
    )
    assert isinstance(result, CursorResult)
    if result.rowcount == 0:
        log.info("endpoint.plan_dropped", endpoint=row.id)
        return
    if change.state != row.state:
        _announce(session, row, change, now)


def _announce(session: Session, row: EndpointRow, change: EndpointPlan, now: datetime) -> None:
    """A changed state is told to the gateways and to the audit."""
    log.info("endpoint.state", endpoint=row.id, before=row.state, after=change.state, reason=change.reason)
    bump_snapshot(session)
    record_audit(
        session,
        SYSTEM,
        now,
        "endpoint.state",
        row.id,
        {"state": row.state},
        {"state": change.state.value, "reason": change.reason},
        tenant_id=row.tenant_id,
    )


def _read_last_put(note: Mapping[str, Any]) -> LastPut | None:
    if "digest" not in note:
        return None
    return LastPut(note["digest"], datetime.fromisoformat(note["at"]))


def _write_last_put(put: LastPut | None) -> dict[str, Any]:
    return {} if put is None else {"digest": put.digest, "at": put.at.isoformat()}
