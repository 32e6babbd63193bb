"""Routes of blobs: bytes by their digest, visible to who has put them or owns a version that names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import StreamingResponse

from finmaas_core.errors import NotFound
from finmaas_core.quantities import check_digest
from finmaas_platform.api.blob_stream import BYTES, blob_response, gather
from finmaas_platform.api.dependencies import AnyCallerDep, DepsDep
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import blob_parts
from finmaas_platform.services.blobs import check_may_put, check_may_read, record_put
from finmaas_registry.blocks import MAX_BLOCKS, Block

router = APIRouter(prefix="/blobs", tags=["blobs"])
_uploads = Uploads()


MAX_DIGESTS = 10_000
_PACK = {"requestBody": {"required": True, "content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}}
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class BlobView(BaseModel):
    """A blob that lies in the store."""

    digest: str
    size: int


class BlobQuery(RequestBody):
    """Blobs to ask for."""

    digests: list[Digest] = Field(max_length=MAX_DIGESTS)


class MissingView(BaseModel):
    """Blobs that the caller must still send."""

    missing: list[str]


class PackView(BaseModel):
    """How many blobs a pack has brought."""

    blobs: int


class BlockBody(RequestBody):
    """A block that was put."""

    digest: Digest
    size: int = Field(ge=1, le=2**62)


class ComposeBody(RequestBody):
    """The blocks of a file, in order."""

    blocks: list[BlockBody] = Field(min_length=1, max_length=MAX_BLOCKS)


@router.post("/missing", summary="Ask for many blobs")
def find_missing_blobs(body: BlobQuery, caller: AnyCallerDep, deps: DepsDep) -> MissingView:
    """Which of these the caller must still send. The others are kept from garbage collection for the grace period."""
    return MissingView(missing=blob_parts.find_missing(deps, caller, body.digests))


@router.post("/pack", status_code=201, summary="Put many small blobs", openapi_extra=_PACK)
async def put_small_blobs(request: Request, caller: AnyCallerDep, deps: DepsDep) -> PackView:
    """The body is a pack: SHA-256 (32 bytes), size (4 bytes, little-endian), bytes; again and again. Safe to repeat."""
    body = await request.body()
    return PackView(blobs=await anyio.to_thread.run_sync(blob_parts.put_pack, deps, caller, body))


@router.post("/unpack", summary="Get many small blobs", response_class=StreamingResponse)
def get_small_blobs(body: BlobQuery, caller: AnyCallerDep, deps: DepsDep) -> Response:
    """A pack of them, in the order asked for."""
    return StreamingResponse(gather(blob_parts.read_small(deps, caller, body.digests)), media_type=BYTES)


@router.post("/{digest}/compose", status_code=201, summary="Make a file of blocks")
def compose_blob(digest: str, body: ComposeBody, caller: AnyCallerDep, deps: DepsDep) -> BlobView:
    """From blocks that the caller has put; refused when the SHA-256 of all their bytes is not the one in the path."""
    stored = blob_parts.compose(deps, caller, digest, [Block(block.digest, block.size) for block in body.blocks])
    return BlobView(digest=stored.digest, size=stored.size)


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
def head_blob(digest: str, request: Request, caller: AnyCallerDep, deps: DepsDep) -> Response:
    """200 with its length, or 404 when it is not in the caller's sight."""
    size = _find_size(deps, caller, digest)
    blob_parts.keep_asked(deps, [digest])
    return blob_response(deps.store, digest, size, request)


@router.get("/{digest}", summary="Get a blob", response_class=StreamingResponse)
def get_blob(
    digest: str,
    request: Request,
    caller: AnyCallerDep,
    deps: DepsDep,
    _range: Annotated[str | None, Header(alias="Range", description="`bytes=1000-` goes on from there.")] = None,
) -> Response:
    """The bytes as a stream. One range is understood; others are answered with the whole."""
    return blob_response(deps.store, digest, _find_size(deps, caller, digest), request)


def _find_size(deps: Deps, caller: Caller, digest: str) -> int:
    with read_unit(deps.sessions) as session:
        check_may_read(session, caller, digest)
    size = deps.store.stat(digest)
    if size is None:
        raise NotFound(f"the bytes of blob {digest} are gone from the store; restore them from a backup")
    return size
