"""Routes of access tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.access_tokens import AccessTokenRow
from finmaas_platform.domain.credentials import MAX_LIFETIME_S
from finmaas_platform.services import access_tokens

router = APIRouter(prefix="/access-tokens", tags=["access tokens"])


class AccessTokenCreate(RequestBody):
    """A token to make."""

    principal_id: str
    expires_in_s: int | None = Field(None, gt=0, le=MAX_LIFETIME_S, description="Seconds; left out: it never expires.")


class AccessTokenView(BaseModel):
    """A principal's credential, without its text."""

    id: str
    principal_id: str
    principal: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class NewAccessToken(AccessTokenView):
    """The answer that shows the token; a replay of the request shows null."""

    token: str | None


def show_access_token(row: AccessTokenRow) -> AccessTokenView:
    """The row as the API shows it."""
    return AccessTokenView(
        id=row.id,
        principal_id=row.principal_id,
        principal=row.principal.name,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


@router.get("", summary="List access tokens")
def list_access_tokens(
    caller: CallerDep,
    session: SessionDep,
    principal_id: Annotated[str | None, Query(description="Only of this principal.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[AccessTokenView]:
    """Admins and auditors see those of their tenant, everybody else sees its own. Never their text."""
    query = access_tokens.select_access_tokens(caller, principal_id)
    return paginate(session, query, AccessTokenRow.id, limit, cursor).view(show_access_token)


@router.post("", status_code=201, response_model=NewAccessToken, summary="Make an access token")
def create_access_token(
    body: AccessTokenCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep
) -> NewAccessToken | JSONResponse:
    """For oneself, or by an admin for others. The token is shown in this answer only."""

    def make() -> NewAccessToken:
        row, token = access_tokens.create_access_token(
            session, caller, deps.clock.now(), deps.secrets.pepper, body.principal_id, body.expires_in_s
        )
        return NewAccessToken(**show_access_token(row).model_dump(), token=token)

    return once.run(session, make, secrets=frozenset({"token"}))


@router.post("/{token_id}/revoke", summary="Revoke an access token")
def revoke_access_token(token_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> AccessTokenView:
    """It stops working at once."""
    return show_access_token(access_tokens.revoke_access_token(session, caller, deps.clock.now(), token_id))
