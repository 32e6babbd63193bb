"""Routes of the ledger for gateways: opening an epoch, asking for slices, hearing what is called back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import DepsDep, GatewayCallerDep, SessionDep
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.services import ledger
from finmaas_platform.services.ledger_calls import in_transaction, run_call, wait_for_recalls

router = APIRouter(prefix="/gateway/ledger", tags=["gateway"])
MOST = 2**62


class Opening(RequestBody):
    """A gateway (its id and its spool's) whose process has begun."""

    gateway: str = Field(min_length=1, max_length=200)


class Opened(BaseModel):
    """The process's number, and the ledger's time in epoch seconds."""

    epoch: int
    now: float


class Closing(Opening):
    """What was held before this epoch is settled by the records that were delivered."""

    epoch: int = Field(ge=0, le=MOST)


class RecallQuestion(Closing):
    """Waits for recalls, `wait_s` seconds at most."""

    wait_s: float = Field(0, ge=0, le=60)


class ToldSlice(RequestBody):
    """A slice as its holder sees it. `reserved`: near the end with what is kept for calls that wait."""

    slice: int = Field(ge=1, le=MOST)
    granted: int = Field(ge=0, le=MOST)
    returned: int = Field(ge=0, le=MOST)
    reserved: int
    round: int = Field(ge=0, le=MOST)


class WantedSlice(RequestBody):
    """More of a window."""

    allowance_id: str = Field(max_length=100)
    starts_at: int = Field(ge=0, le=10**11)
    at: float
    granted: int = Field(ge=0, le=MOST)
    need: int = Field(ge=0, le=MOST)
    least: int = Field(0, ge=0, le=MOST)


class LedgerCall(Closing):
    """What a gateway tells and wants."""

    told: list[ToldSlice] = Field([], max_length=10_000)
    wants: list[WantedSlice] = Field([], max_length=1_000)


class LedgerAnswer(BaseModel):
    """What it gets."""

    now: float
    grants: list[dict[str, Any]]


class Recalls(BaseModel):
    """Slices of which the idle part is wanted back."""

    recalls: list[dict[str, int]]


@router.post("/open", summary="Begin an epoch")
def open_epoch(body: Opening, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep) -> Opened:
    """What an earlier process of this gateway holds counts as spent until it is closed."""
    now = deps.clock.now()
    return Opened(epoch=ledger.open_epoch(session, body.gateway, now), now=now.timestamp())


@router.post("/close", status_code=204, summary="Close what earlier epochs hold")
async def close_epochs(body: Closing, caller: GatewayCallerDep, deps: DepsDep) -> None:
    """Once all records of earlier processes are delivered."""
    now = deps.clock.now()
    await in_transaction(deps, lambda session: ledger.close_epochs(session, body.gateway, body.epoch, now))
    deps.ledger_hub.stir()


@router.post("/calls", summary="Ask for slices, give back")
async def call(body: LedgerCall, caller: GatewayCallerDep, deps: DepsDep) -> LedgerAnswer:
    """Answers once it is sure: with what is wanted, or when all others have given back what they do not need."""
    told = [ledger.Told(**one.model_dump()) for one in body.told]
    wants = [ledger.Want(**one.model_dump()) for one in body.wants]
    grants = await run_call(deps, body.gateway, body.epoch, told, wants)
    return LedgerAnswer(now=deps.clock.now().timestamp(), grants=grants)


@router.post("/recalls", summary="What is called back")
async def recalls(body: RecallQuestion, caller: GatewayCallerDep, deps: DepsDep) -> Recalls:
    """As soon as there is any, else after `wait_s` seconds."""
    return Recalls(recalls=await wait_for_recalls(deps, body.gateway, body.epoch, body.wait_s))
