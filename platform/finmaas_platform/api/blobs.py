"""Routes of blobs: bytes by their digest, visible to who has put them or owns a version that names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel
from starlette.responses import StreamingResponse

from finmaas_core.errors import NotFound
from finmaas_core.quantities import check_digest
from finmaas_platform.api.dependencies import AnyCallerDep, DepsDep
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import check_may_put, check_may_read, record_put

router = APIRouter(prefix="/blobs", tags=["blobs"])
BYTES = "application/octet-stream"
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")
_uploads = Uploads()


class BlobView(BaseModel):
    """A blob that lies in the store."""

    digest: str
    size: int


@router.put("/{digest}", status_code=201, summary="Put a blob")
async def put_blob(digest: str, request: Request, caller: AnyCallerDep, deps: DepsDep) -> BlobView:
    """Streams the body into the store; refused when its SHA-256 is not the one in the path. Safe to repeat."""
    check_may_put(caller)
    check_digest(digest)

    def take(chunks: Iterator[bytes]) -> BlobView:
        stored = deps.store.put_expected(digest, chunks)
        with unit_of_work(deps.sessions) as session:
            record_put(session, caller, deps.clock.now(), stored)
        return BlobView(digest=stored.digest, size=stored.size)

    return await _uploads.run(request, deps.settings.max_blob_bytes, take)


@router.head("/{digest}", summary="Ask for a blob")
def head_blob(digest: str, caller: AnyCallerDep, deps: DepsDep) -> Response:
    """200 with its length, or 404 when it is not in the caller's sight."""
    size = _find_size(deps, caller, digest)
    return Response(headers={"Content-Length": str(size), "Accept-Ranges": "bytes"}, media_type=BYTES)


@router.get("/{digest}", summary="Get a blob", response_class=StreamingResponse)
def get_blob(
    digest: str,
    caller: AnyCallerDep,
    deps: DepsDep,
    byte_range: Annotated[str | None, Header(alias="Range", description="`bytes=1000-` goes on from there.")] = None,
) -> Response:
    """The bytes as a stream. One range is understood; others are answered with the whole."""
    size = _find_size(deps, caller, digest)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{digest}"'}
    start, end, status = 0, size, 200
    if byte_range and (found := _RANGE.match(byte_range)):
        start, status = int(found.group(1)), 206
        end = min(size, int(found.group(2)) + 1) if found.group(2) else size
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    chunks = _take(deps.store.open(digest, start), end - start)
    return StreamingResponse(chunks, status, headers, BYTES)


def _find_size(deps: Deps, caller: Caller, digest: str) -> int:
    with read_unit(deps.sessions) as session:
        check_may_read(session, caller, digest)
    size = deps.store.stat(digest)
    if size is None:
        raise NotFound(f"the bytes of blob {digest} are gone from the store; restore them from a backup")
    return size


def _take(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The first so many bytes."""
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk)
        if count <= 0:
            return
