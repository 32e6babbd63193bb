"""Routes of allowances and prices: setting and showing what may be spent, and what tokens cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from finmaas_core.prices import EVERY_MODEL, Price, parse_money, show_money
from finmaas_core.windows import WindowKind
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.allowances import AllowanceRow, PriceRow
from finmaas_platform.domain.allowances import Scope, Unit
from finmaas_platform.services import allowances, ledger, prices

router = APIRouter(prefix="/allowances", tags=["allowances"])
prices_router = APIRouter(prefix="/prices", tags=["allowances"])
Amount = Annotated[str, Field(max_length=40, examples=["2.00"], description="Money for a million tokens.")]


class AllowanceSet(RequestBody):
    """What is to be allowed; the same scope, subject, model, unit and window again changes the limit."""

    scope: Scope
    subject: str = Field(max_length=300, description="Tenant, tenant/project, id of a key or a principal, or endpoint.")
    unit: Unit
    window: WindowKind
    limit: str = Field(max_length=40, description="A whole number, or an amount of money such as 12.50.")
    currency: str | None = Field(None, description="Of money; the tenant's own when left out.")
    model: str = Field("", max_length=300, description="Only at this endpoint (tenant/project/endpoint).")


class SpentView(BaseModel):
    """The present window, in the allowance's unit (nano-units for money).

    `settled` is spent; `held` lies with gateways (spent there and not yet delivered, reserved, or idle), `reserved` is
    the part of it that running calls may still use; `free` is with nobody.
    """

    starts_at: datetime | None
    ends_at: datetime | None
    settled: int
    held: int
    reserved: int
    free: int


class AllowanceView(BaseModel):
    """What may be spent in a window. `limit` counts nano-units for money; `limit_text` is for people."""

    id: str
    scope: Scope
    subject: str
    subject_id: str
    model: str
    unit: Unit
    window: WindowKind
    limit: int
    limit_text: str
    currency: str
    created_at: datetime
    version: int
    spent: SpentView


class HolderView(BaseModel):
    """A gateway, and how many slices it holds."""

    gateway: str
    seen_at: datetime
    slices: int


class WriteOff(RequestBody):
    """A gateway that is gone for good."""

    gateway: str = Field(max_length=200)


class WrittenOff(BaseModel):
    """How many slices were given back."""

    gateway: str
    slices: int


class PriceSet(RequestBody):
    """What a model's tokens cost from a day on, for a million of them."""

    model: str = Field(max_length=300, description="tenant/project/endpoint, or `*` for all without a price.")
    currency: str = Field(max_length=3, examples=["CNY"])
    valid_from: str = Field(examples=["2026-01-31"], description="A day, in the calling tenant's time zone.")
    input: Amount
    output: Amount
    cached_input: Amount | None = Field(None, description="As `input` when left out.")
    reasoning: Amount | None = Field(None, description="As `output` when left out.")


class PriceView(BaseModel):
    """A price for a million tokens."""

    id: str
    model: str
    currency: str
    valid_from: str
    input: str
    cached_input: str
    output: str
    reasoning: str
    created_at: datetime


def show_allowance(row: AllowanceRow, spent: allowances.Spent) -> AllowanceView:
    """The row and its present window, as the API shows them."""
    text = f"{show_money(row.amount)} {row.currency}" if row.unit == Unit.MONEY else str(row.amount)
    moments = [None if at is None else datetime.fromtimestamp(at, UTC) for at in (spent.starts_at, spent.ends_at)]
    return AllowanceView(
        id=row.id,
        scope=Scope(row.scope),
        subject=row.label,
        subject_id=row.scope_id,
        model=row.model,
        unit=Unit(row.unit),
        window=WindowKind(row.window_kind),
        limit=row.amount,
        limit_text=text,
        currency=row.currency,
        created_at=row.created_at,
        version=row.version,
        spent=SpentView(
            starts_at=moments[0],
            ends_at=moments[1],
            settled=spent.settled,
            held=spent.held,
            reserved=spent.reserved,
            free=max(0, row.amount - spent.settled - spent.held),
        ),
    )


def show_price(row: PriceRow) -> PriceView:
    """The row as the API shows it."""
    return PriceView(
        id=row.id,
        model=row.model,
        currency=row.currency,
        valid_from=row.valid_from,
        input=show_money(row.input_nano),
        cached_input=show_money(row.cached_nano),
        output=show_money(row.output_nano),
        reasoning=show_money(row.reasoning_nano),
        created_at=row.created_at,
    )


@router.get("", summary="List allowances")
def list_allowances(
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    project: Annotated[str | None, Query(description="Of this project and its keys, `tenant/project`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[AllowanceView]:
    """In the caller's sight, each with its present window."""
    query = allowances.select_allowances(session, caller, project)
    page = paginate(session, query, AllowanceRow.id, limit, cursor)
    spent = allowances.read_spent(session, page.rows, deps.clock.now())
    return page.view(lambda row: show_allowance(row, spent[row.id]))


@router.put("", summary="Set an allowance")
def set_allowance(body: AllowanceSet, caller: CallerDep, session: SessionDep, deps: DepsDep) -> AllowanceView:
    """What was spent of it stays spent. A tenant's own are for platform-admins, others for its admins too."""
    spec = allowances.AllowanceSpec(**body.model_dump())
    row = allowances.set_allowance(session, caller, deps.clock.now(), spec)
    session.flush()
    return show_allowance(row, allowances.read_spent(session, [row], deps.clock.now())[row.id])


@router.get("/gateways", summary="List gateways that hold slices")
def list_holders(caller: CallerDep, session: SessionDep) -> list[HolderView]:
    """For platform-admins."""
    found = ledger.list_holders(session, caller)
    return [HolderView(gateway=row.name, seen_at=row.seen_at, slices=count) for row, count in found]


@router.post("/write-offs", summary="Write off a gateway that is gone")
def write_off(body: WriteOff, caller: CallerDep, session: SessionDep, deps: DepsDep) -> WrittenOff:
    """What it held is free again; 409 while it is heard of. For platform-admins."""
    return WrittenOff(gateway=body.gateway, slices=ledger.write_off(session, caller, deps.clock.now(), body.gateway))


@router.get("/{allowance_id}", summary="Show an allowance")
def get_allowance(allowance_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> AllowanceView:
    """With its present window."""
    row = allowances.get_allowance(session, caller, allowance_id)
    return show_allowance(row, allowances.read_spent(session, [row], deps.clock.now())[row.id])


@router.delete("/{allowance_id}", status_code=204, summary="Delete an allowance")
def delete_allowance(allowance_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> None:
    """With what was counted of it; usage records stay."""
    row = allowances.get_allowance(session, caller, allowance_id)
    allowances.delete_allowance(session, caller, deps.clock.now(), row)


@prices_router.get("", summary="List prices")
def list_prices(
    caller: CallerDep,
    session: SessionDep,
    model: Annotated[str | None, Query(description="Only of this model.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[PriceView]:
    """Of the models that the caller's tenant owns or was granted, and of `*`."""
    return paginate(session, prices.select_prices(caller, model), PriceRow.id, limit, cursor).view(show_price)


@prices_router.put("", summary="Set a price")
def set_price(body: PriceSet, caller: CallerDep, session: SessionDep, deps: DepsDep) -> PriceView:
    """From a day on; what was charged before stays. For platform-admins."""
    price = Price(
        body.valid_from,
        parse_money(body.input),
        parse_money(body.cached_input if body.cached_input is not None else body.input),
        parse_money(body.output),
        parse_money(body.reasoning if body.reasoning is not None else body.output),
    )
    row = prices.set_price(session, caller, deps.clock.now(), body.model or EVERY_MODEL, body.currency, price)
    return show_price(row)
