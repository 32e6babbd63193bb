"""Routes for gateways: the snapshot they live from, and the usage they deliver. Only a gateway's token opens them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from finmaas_core.errors import NotFound
from finmaas_platform.api.dependencies import DepsDep, GatewayCallerDep, SessionDep
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.base import read_unit
from finmaas_platform.deps import Deps
from finmaas_platform.services.archive import read_archive_key, store_kept
from finmaas_platform.services.gateways import store_report
from finmaas_platform.services.provenance import store_claims
from finmaas_platform.services.snapshots import build_snapshot, find_snapshot_number
from finmaas_platform.services.usage import store_usage
from finmaas_serving.replica_door import derive_replica_secret

router = APIRouter(prefix="/gateway", tags=["gateway"])

POLL_S = 0.1
MAX_RECORDS = 5000
MOST = 2**53  # what JSON numbers and both databases hold exactly
Count = Annotated[int, Field(ge=0, le=MOST)]


class UsageRecord(RequestBody):
    """What one request used; `seq` counts per gateway."""

    # A newer gateway may say more than this control plane stores; its records are taken all the same.
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    seq: int = Field(ge=1, le=MOST)
    request_id: str
    at: datetime
    key_id: str
    project_id: str
    tenant_id: str
    endpoint_id: str
    model_version_id: str | None = None
    path: str
    status: int = Field(ge=0, le=999)
    stream: bool
    prompt_tokens: int = Field(ge=0, le=MOST)
    completion_tokens: int = Field(ge=0, le=MOST)
    cached_tokens: int = Field(0, ge=0, le=MOST)
    ttft_ms: float | None = None
    duration_ms: float
    replica: str | None = None
    finish: str
    counted_by: str
    reasoning_tokens: int = Field(0, ge=0, le=MOST)
    cost_nano: int | None = Field(None, ge=0, le=MOST)
    currency: str | None = None
    epoch: int = Field(0, ge=0, le=MOST)
    charges: list[tuple[Count, Count]] = Field([], max_length=64)
    target_id: str | None = None
    failed_target_id: str | None = None
    traffic: str = ""
    attempts: int = Field(1, ge=0, le=MOST)
    claims: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field([], max_length=8)


class UsageDelivery(RequestBody):
    """Records of one gateway; a delivery may be repeated."""

    gateway_id: str = Field(min_length=1, max_length=200)
    records: list[UsageRecord] = Field(max_length=MAX_RECORDS)


class ReportDelivery(RequestBody):
    """How a gateway fares; the report's fields are those of `GET /gateways`."""

    gateway_id: str = Field(min_length=1, max_length=200)
    report: dict[str, Any]


class KeptRecord(RequestBody):
    """A request or answer kept for auditors, sealed to their key (base64)."""

    kept_id: str = Field(max_length=200)
    part: str
    request_id: str
    tenant_id: str
    project_id: str
    key_id: str
    endpoint_id: str
    at: float = Field(ge=0, le=253_402_300_799)  # up to the year 9999
    days: int = Field(ge=1, le=3660)
    sealed: Base64Bytes


class ArchiveDelivery(RequestBody):
    """Kept records; a delivery may be repeated."""

    records: list[KeptRecord] = Field(max_length=MAX_RECORDS)


class Delivered(BaseModel):
    """Everything up to this number is stored, so the gateway may drop it."""

    accepted_through: int


@router.get(
    "/snapshot",
    response_model=dict[str, Any],
    responses={304: {"description": "Nothing newer than `after` within `wait_s`."}},
    summary="Keys, routes and grants, when newer",
)
async def get_snapshot(
    request: Request,
    caller: GatewayCallerDep,
    deps: DepsDep,
    after: Annotated[int, Query(description="The number of the snapshot that the gateway holds.")] = -1,
    wait_s: Annotated[float, Query(ge=0, le=60, description="How long to wait for a newer one.")] = 0,
) -> Response:
    """Answers at once when there is a newer one, else as soon as there is, or 304 after `wait_s` seconds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while await run_in_threadpool(_read_number, deps) <= after:
        if loop.time() >= deadline or await request.is_disconnected():
            return Response(status_code=304)
        # Another control plane may have made the change, so the database is asked, not this process alone.
        await asyncio.sleep(min(POLL_S, max(0.0, deadline - loop.time())))
    return JSONResponse(await run_in_threadpool(_read_snapshot, deps))


@router.get("/identity-provider", response_model=dict[str, Any], summary="The identity provider's keys")
def get_identity_provider(
    caller: GatewayCallerDep,
    deps: DepsDep,
    missing: Annotated[str, Query(max_length=200, description="A key that a token named and the gateway lacks.")] = "",
) -> dict[str, Any]:
    """404 where none is configured; 503 while it is away and its keys were never had."""
    if deps.oidc is None:
        raise NotFound("no identity provider is configured here (FINMAAS_OIDC_ISSUER)")
    oidc = deps.oidc
    return {
        "issuer": oidc.issuer,
        "client_id": oidc.client_id,
        "audiences": sorted(oidc.audiences),
        "jwks": oidc.publish(missing),
    }


@router.post("/usage", summary="Deliver usage records")
def deliver_usage(body: UsageDelivery, caller: GatewayCallerDep, session: SessionDep) -> Delivered:
    """Each record counts once, however often it is delivered."""
    records = [record.model_dump() for record in body.records]
    store_claims(session, records)
    for record in records:
        del record["claims"]
    return Delivered(accepted_through=store_usage(session, body.gateway_id, records))


@router.post("/reports", status_code=204, summary="Tell how a gateway fares")
def take_report(body: ReportDelivery, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep) -> None:
    """The newest replaces the one before."""
    store_report(session, deps.clock.now(), body.gateway_id, body.report)


@router.post("/archive", status_code=204, summary="Deliver what was kept for auditors")
def take_kept(body: ArchiveDelivery, caller: GatewayCallerDep, session: SessionDep) -> None:
    """Each record is stored once, however often it is delivered."""
    store_kept(session, [{**record.model_dump(), "sealed": record.sealed} for record in body.records])


def _read_number(deps: Deps) -> int:
    with read_unit(deps.sessions) as session:
        return find_snapshot_number(session)


def _read_snapshot(deps: Deps) -> dict[str, Any]:
    settings = deps.settings
    gateways = settings.gateways_in_all or settings.gateway_processes
    with read_unit(deps.sessions) as session:
        return {
            **build_snapshot(session, deps.clock.now(), derive_replica_secret(deps.secrets.cluster_token), gateways),
            "archive_key": read_archive_key(deps.settings.paths).public_key().public_bytes_raw().hex(),
        }
