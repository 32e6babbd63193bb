"""Files and batches in OpenAI's shape, for gateways: they have checked the API key and name it in a header.

Only a gateway's token opens these routes. What a key may see is its project's; everything else is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy import Select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.responses import StreamingResponse

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_platform.api.dependencies import DepsDep, GatewayCallerDep, SessionDep
from finmaas_platform.api.uploads import check_length, open_form
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.services.batches import (
    cancel_batch,
    create_batch,
    get_batch,
    select_batches,
    show_batch,
)
from finmaas_platform.services.files import (
    check_purpose,
    choose_file_expiry,
    count_bytes,
    delete_file,
    find_key_caller,
    get_file,
    select_files,
    show_file,
    store_file,
)
from finmaas_registry.store import read_chunks

router = APIRouter(prefix="/gateway/openai", tags=["gateway"])

KeyId = Annotated[
    str, Header(alias="X-Finmaas-Key", max_length=100, description="The API key that the gateway checked.")
]
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(max_length=100)]
_FORM = frozenset(("file", "purpose", "expires_after[anchor]", "expires_after[seconds]"))
MULTIPART_BYTES = 64 * 1024
"""What the form around an upload may add to it."""
MAX_BATCH_BYTES = 256 * 1024


@router.post("/files", summary="Take a file of an API key")
async def upload_file(request: Request, key_id: KeyId, caller: GatewayCallerDep, deps: DepsDep) -> dict[str, Any]:
    """A form with `file` and `purpose`; the bytes go to a file on disk while they arrive."""
    await run_in_threadpool(_check_key, deps, key_id)
    async with open_form(request, deps.settings.max_file_bytes + MULTIPART_BYTES, max_fields=8) as form:
        return await run_in_threadpool(_take_form, deps, key_id, form)


def _check_key(deps: Deps, key_id: str) -> None:
    """Before a byte is read; looked at again once all are."""
    with unit_of_work(deps.sessions) as session:
        find_key_caller(session, key_id, deps.clock.now())


def _take_form(deps: Deps, key_id: str, form: FormData) -> dict[str, Any]:
    for name in form.keys() - _FORM:
        raise InvalidInput(f"`{name[:100]}` is no field of an upload", param=name[:100])
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidInput("`file` must hold the file, with its name", param="file")
    now = deps.clock.now()
    check_purpose(texts.get("purpose", ""))
    expires_at = choose_file_expiry(now, texts.get("expires_after[anchor]"), texts.get("expires_after[seconds]"))
    stored = deps.store.put(count_bytes(read_chunks(file.file), deps.settings.max_file_bytes))
    with unit_of_work(deps.sessions) as session:
        owner = find_key_caller(session, key_id, now)
        return show_file(store_file(session, owner, now, file.filename or "", texts["purpose"], stored, expires_at))


@router.get("/files", summary="List the files of an API key's project")
def list_key_files(
    key_id: KeyId,
    caller: GatewayCallerDep,
    session: SessionDep,
    deps: DepsDep,
    purpose: Annotated[str | None, Query(max_length=40)] = None,
    limit: Limit = 100,
    after: After = None,
    order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
) -> dict[str, Any]:
    """Newest first, unless `order` says otherwise."""
    now = deps.clock.now()
    query = select_files(find_key_caller(session, key_id, now), now, purpose)
    return _page(session, query, limit, after, order, show_file)


@router.get("/files/{file_id}", summary="Show a file")
def retrieve_file(
    file_id: str, key_id: KeyId, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """Its name, size and purpose."""
    now = deps.clock.now()
    return show_file(get_file(session, find_key_caller(session, key_id, now), now, file_id))


@router.delete("/files/{file_id}", summary="Delete a file")
def remove_file(
    file_id: str, key_id: KeyId, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """It is out of sight at once; refused while a batch still reads it."""
    now = deps.clock.now()
    row = delete_file(session, find_key_caller(session, key_id, now), now, file_id)
    return {"id": row.id, "object": "file", "deleted": True}


@router.get("/files/{file_id}/content", summary="The bytes of a file", response_class=StreamingResponse)
def read_file(file_id: str, key_id: KeyId, caller: GatewayCallerDep, deps: DepsDep) -> Response:
    """As a stream."""
    now = deps.clock.now()
    with unit_of_work(deps.sessions) as session:
        row = get_file(session, find_key_caller(session, key_id, now), now, file_id)
    headers = {"content-length": str(row.size_bytes)}
    return StreamingResponse(deps.store.open(row.digest), media_type="application/octet-stream", headers=headers)


@router.post("/batches", summary="Make a batch of requests")
async def make_batch(request: Request, key_id: KeyId, caller: GatewayCallerDep, deps: DepsDep) -> dict[str, Any]:
    """Over an uploaded file; its lines are checked next."""
    check_length(request, MAX_BATCH_BYTES)
    try:
        body = msgspec.json.decode(await request.body(), type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body must be a JSON object: {error}") from None

    def make() -> dict[str, Any]:
        now = deps.clock.now()
        with unit_of_work(deps.sessions) as session:
            return show_batch(create_batch(session, find_key_caller(session, key_id, now), now, body))

    return await run_in_threadpool(make)


@router.get("/batches", summary="List the batches of an API key's project")
def list_key_batches(
    key_id: KeyId, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep, limit: Limit = 20, after: After = None
) -> dict[str, Any]:
    """Newest first."""
    owner = find_key_caller(session, key_id, deps.clock.now())
    return _page(session, select_batches(owner), limit, after, "desc", show_batch)


@router.get("/batches/{batch_id}", summary="Show a batch")
def retrieve_batch(
    batch_id: str, key_id: KeyId, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """Its state, counts and files."""
    return show_batch(get_batch(session, find_key_caller(session, key_id, deps.clock.now()), batch_id))


@router.post("/batches/{batch_id}/cancel", summary="Cancel a batch")
def stop_batch(
    batch_id: str, key_id: KeyId, caller: GatewayCallerDep, session: SessionDep, deps: DepsDep
) -> dict[str, Any]:
    """What was answered before comes as a file."""
    now = deps.clock.now()
    owner = find_key_caller(session, key_id, now)
    return show_batch(cancel_batch(session, owner.caller, now, get_batch(session, owner, batch_id)))


def _page(
    session: Session,
    query: Select[Any],
    limit: int,
    after: str | None,
    order: str,
    show: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """One page in OpenAI's shape; ids sort by the time they were made."""
    column = query.column_descriptions[0]["entity"].id
    if after is not None:
        if session.scalar(query.where(column == after)) is None:
            raise NotFound(f"`after` names {after}, which is not there", param="after", openai_code="not_found")
        query = query.where(column > after if order == "asc" else column < after)
    rows = session.scalars(query.order_by(column if order == "asc" else column.desc()).limit(limit + 1)).all()
    data = [show(row) for row in rows[:limit]]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": len(rows) > limit}
