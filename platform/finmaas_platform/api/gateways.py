"""Routes of gateways as their operators see them, and of metrics for Prometheus."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from finmaas_core.errors import NotAuthenticated
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.domain.principals import Caller, CallerKind, Role
from finmaas_platform.services.gateways import GatewayState, list_gateways
from finmaas_serving.gateway.schemas import FIRST_TOKEN_BOUNDS_MS, WHOLE_BOUNDS_MS
from finmaas_serving.gateway.tally import derive_metrics_token

router = APIRouter(prefix="/gateways", tags=["gateway"])
metrics_router = APIRouter(tags=["gateway"])
_bearer = HTTPBearer(auto_error=False, description="The token in `secrets/metrics.token`")
PROMETHEUS = Caller(CallerKind.PRINCIPAL, "prometheus", "Prometheus", Role.AUDITOR)


class GatewayView(BaseModel):
    """One gateway process. `lines` count calls since `started_at`, one an endpoint and project that calls it."""

    gateway_id: str
    state: str
    seen_at: datetime
    age_s: float
    started_at: float
    snapshot: int | None
    snapshot_age_s: float | None
    replicas: int
    running: int
    connections: int
    usage_waiting: int
    refused: dict[str, int]
    lines: list[dict[str, Any]]


class GatewayList(BaseModel):
    """All gateways; the bounds of the lines' histograms, in milliseconds."""

    items: list[GatewayView]
    first_token_bounds_ms: list[float]
    whole_bounds_ms: list[float]


def show_gateway(state: GatewayState) -> GatewayView:
    """The report as the API shows it."""
    plain = msgspec.to_builtins(state.report, str_keys=True)
    plain.pop("draining")
    return GatewayView(
        gateway_id=state.gateway_id, state=state.state, seen_at=state.seen_at, age_s=round(state.age_s, 1), **plain
    )


@router.get("", summary="List gateways and what they do")
def get_gateways(caller: CallerDep, session: SessionDep, deps: DepsDep) -> GatewayList:
    """Counts of the caller's tenant; platform-wide callers see all tenants, refusals and connections."""
    found = list_gateways(session, caller, deps.clock.now())
    return GatewayList(
        items=[show_gateway(state) for state in found],
        first_token_bounds_ms=[*FIRST_TOKEN_BOUNDS_MS],
        whole_bounds_ms=[*WHOLE_BOUNDS_MS],
    )


@metrics_router.get("/metrics", response_class=Response, summary="Metrics of all gateways for Prometheus")
def get_metrics(
    session: SessionDep, deps: DepsDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Response:
    """Wants the metrics token, which opens nothing else."""
    from finmaas_serving.gateway.exposition import CONTENT_TYPE, expose  # seldom used, and slow to load

    wanted = derive_metrics_token(deps.secrets.gateway_token)
    if credentials is None or not hmac.compare_digest(credentials.credentials.encode(), wanted.encode()):
        raise NotAuthenticated("metrics want the token of secrets/metrics.token as their bearer")
    reports = {state.gateway_id: state.report for state in list_gateways(session, PROMETHEUS, deps.clock.now())}
    return Response(expose(reports), media_type=CONTENT_TYPE.decode())
