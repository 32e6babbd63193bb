"""Routes of API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.api_keys import ApiKeyRow
from finmaas_platform.domain.credentials import ANY_METHOD, ANY_MODEL, MAX_LIFETIME_S
from finmaas_platform.services import api_keys

router = APIRouter(prefix="/api-keys", tags=["API keys"])


class ApiKeyCreate(RequestBody):
    """A key to make; give one of the two ways to expire, or none."""

    project: str = Field(examples=["default/default"])
    name: str = Field(min_length=1, max_length=200, examples=["mobile-app"])
    models: list[str] = Field(
        default_factory=lambda: [ANY_MODEL], max_length=1000, description='Endpoint names, or `["*"]` for all.'
    )
    methods: list[str] = Field(
        default_factory=lambda: [ANY_METHOD], max_length=100, description='What it may ask for, or `["*"]` for all.'
    )
    networks: list[str] = Field(
        default_factory=list, max_length=100, description="CIDR blocks it may come from; none: from anywhere."
    )
    priority: Literal["interactive", "batch"] = Field(
        "interactive", description="Requests of a `batch` key wait for all others where replicas are busy."
    )
    expires_in_s: int | None = Field(None, gt=0, le=MAX_LIFETIME_S)
    expires_at: datetime | None = None


class KeyRotation(RequestBody):
    """How long the old key goes on."""

    overlap_s: int = Field(86_400, ge=0, le=MAX_LIFETIME_S)


class BulkRevocation(RequestBody):
    """Which keys to end: of a project, of an age, or both."""

    project: str | None = None
    older_than_s: int | None = Field(None, ge=0)
    dry_run: bool = Field(False, description="Only tell which keys would end.")


class ApiKeyView(BaseModel):
    """A project's gateway credential, without its text."""

    id: str
    project: str
    name: str
    models: list[str]
    methods: list[str]
    networks: list[str]
    priority: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None


class NewApiKey(ApiKeyView):
    """The answer that shows the key; a replay of the request shows null."""

    key: str | None


def show_api_key(row: ApiKeyRow) -> ApiKeyView:
    """The row as the API shows it."""
    return ApiKeyView(
        id=row.id,
        project=row.project.ref,
        name=row.name,
        models=row.models,
        methods=row.methods,
        networks=row.networks,
        priority=row.priority,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


@router.get("", summary="List API keys")
def list_api_keys(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only of this project, `tenant/project`.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[ApiKeyView]:
    """For admins, app-developers and auditors of the tenant. Never their text."""
    query = api_keys.select_api_keys(session, caller, project)
    return paginate(session, query, ApiKeyRow.id, limit, cursor).view(show_api_key)


@router.post("", status_code=201, response_model=NewApiKey, summary="Make an API key")
def create_api_key(
    body: ApiKeyCreate, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep
) -> NewApiKey | JSONResponse:
    """For admins and app-developers of the tenant. The key is shown in this answer only."""

    def make() -> NewApiKey:
        row, key = api_keys.create_api_key(
            session,
            caller,
            deps.clock.now(),
            deps.secrets.pepper,
            body.project,
            body.name,
            body.models,
            body.expires_in_s,
            body.expires_at,
            body.methods,
            body.networks,
            body.priority,
        )
        return NewApiKey(**show_api_key(row).model_dump(), key=key)

    return once.run(session, make, secrets=frozenset({"key"}))


@router.post("/revoke", summary="Revoke many API keys")
def revoke_api_keys(body: BulkRevocation, caller: CallerDep, session: SessionDep, deps: DepsDep) -> list[ApiKeyView]:
    """All in one transaction; answers with the keys that end, or with `dry_run` would."""
    rows = api_keys.revoke_api_keys(
        session, caller, deps.clock.now(), body.project, body.older_than_s, dry_run=body.dry_run
    )
    return [show_api_key(row) for row in rows]


@router.post("/{key_id}/rotate", status_code=201, response_model=NewApiKey, summary="Rotate an API key")
def rotate_api_key(
    key_id: str, body: KeyRotation, caller: CallerDep, session: SessionDep, deps: DepsDep, once: OnceDep
) -> NewApiKey | JSONResponse:
    """A new key of the same scope; both work until the overlap is over."""

    def make() -> NewApiKey:
        now = deps.clock.now()
        row, key = api_keys.rotate_api_key(session, caller, now, deps.secrets.pepper, key_id, body.overlap_s)
        return NewApiKey(**show_api_key(row).model_dump(), key=key)

    return once.run(session, make, secrets=frozenset({"key"}))


@router.post("/{key_id}/revoke", summary="Revoke an API key")
def revoke_api_key(key_id: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> ApiKeyView:
    """Gateways refuse it as soon as they have the next snapshot, usually within a second."""
    return show_api_key(api_keys.revoke_api_key(session, caller, deps.clock.now(), key_id))
