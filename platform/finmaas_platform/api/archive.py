"""Routes of what was kept for auditors: finding it, and opening one record on record."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.archive import ArchiveRecordRow
from finmaas_platform.services import archive

router = APIRouter(prefix="/archive", tags=["archive"])


class KeptView(BaseModel):
    """A kept request or answer, still sealed."""

    id: str
    part: str
    request_id: str
    project_id: str
    key_id: str
    endpoint_id: str
    at: datetime
    expires_at: datetime


class ReadingRequest(RequestBody):
    """Why a record is opened; the audit keeps it."""

    reason: str = Field(min_length=3, max_length=500, examples=["complaint 2026-118"])


class ReadingView(BaseModel):
    """What was kept: the JSON that went to the engine, or what the client got."""

    id: str
    text: str


def show_kept(row: ArchiveRecordRow) -> KeptView:
    """The row as the API shows it."""
    return KeptView.model_validate(row, from_attributes=True)


@router.get("", summary="List what was kept")
def list_kept(
    caller: CallerDep,
    session: SessionDep,
    project: Annotated[str | None, Query(description="Only of this project, `tenant/project`.")] = None,
    request_id: Annotated[str | None, Query(description="Only of this request.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[KeptView]:
    """For auditors, newest first. The texts stay sealed."""
    query = archive.select_kept(session, caller, project, request_id)
    return paginate(session, query, ArchiveRecordRow.id, limit, cursor).view(show_kept)


@router.post("/{kept_id}/readings", summary="Open one kept record")
def read_kept(kept_id: str, body: ReadingRequest, caller: CallerDep, session: SessionDep, deps: DepsDep) -> ReadingView:
    """For auditors. Leaves an audit event that says who read what, and why."""
    key = archive.read_archive_key(deps.settings.paths)
    text = archive.open_kept(session, caller, key, deps.clock.now(), kept_id, body.reason)
    return ReadingView(id=kept_id, text=text.decode(errors="replace"))
