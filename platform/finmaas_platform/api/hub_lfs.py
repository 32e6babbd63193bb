"""Uploads of large files as Hub clients do them: the LFS batch API, in one go or in parts.

Clients send no token to the addresses that they are given; `services/hub_addresses.py` says what stands in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from finmaas_core.errors import InvalidInput
from finmaas_platform.api.dependencies import CallerDep, DepsDep
from finmaas_platform.api.hub_route import HubRoute
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.domain.hub import RepoKind
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import drafts
from finmaas_platform.services.blobs import find_size, record_put
from finmaas_platform.services.hub import get_repo
from finmaas_platform.services.hub_addresses import Grant, valid_until
from finmaas_platform.services.hub_uploads import (
    UploadSigner,
    check_grant,
    check_size,
    join_parts,
    plan_parts,
)
from finmaas_registry.store import Stored

router = APIRouter(route_class=HubRoute, include_in_schema=False)
MAX_BATCH = 1_000
_uploads = Uploads()


class LfsObject(BaseModel):
    """The bytes of a file."""

    oid: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class LfsBatch(BaseModel):
    """A request of the LFS batch API: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md"""

    operation: str
    objects: list[LfsObject] = Field(max_length=MAX_BATCH)
    transfers: list[str] = ["basic"]


class LfsPart(BaseModel):
    """A part that was sent, by the etag that it was answered with."""

    number: int = Field(alias="partNumber", ge=1)
    etag: str


class LfsParts(BaseModel):
    """All parts of a file."""

    parts: list[LfsPart] = Field(max_length=MAX_BATCH)


@router.post("/{tenant}/{repo}.git/info/lfs/objects/batch")
def start_model_upload(
    tenant: str, repo: str, body: LfsBatch, request: Request, caller: CallerDep, deps: DepsDep
) -> Response:
    """Where to send the large files of a model."""
    return _start_upload(RepoKind.MODEL, tenant, repo, body, request, caller, deps)


@router.post("/datasets/{tenant}/{repo}.git/info/lfs/objects/batch")
def start_dataset_upload(
    tenant: str, repo: str, body: LfsBatch, request: Request, caller: CallerDep, deps: DepsDep
) -> Response:
    """Where to send the large files of a dataset."""
    return _start_upload(RepoKind.DATASET, tenant, repo, body, request, caller, deps)


@router.put("/api/lfs/{digest}")
async def put_lfs(
    digest: str, request: Request, deps: DepsDep, grant: str, part: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """Takes a file, or a part of one. The address says who may; there is no token."""
    signer = UploadSigner(deps.secrets.pepper)
    granted = signer.read(grant, digest, deps.clock.now())

    def take(chunks: Iterator[bytes]) -> str:
        with read_unit(deps.sessions) as session:
            caller = check_grant(session, granted)
        if part is not None:
            return signer.sign_part(granted, part, deps.store.put(chunks))
        stored = deps.store.put_expected(digest, check_size(granted, chunks))
        hold(deps, caller, stored)
        return stored.digest

    limit = granted.size if part is None else plan_parts(granted.size)[0]
    etag = await _uploads.run(request, limit, take)
    return Response(headers={"ETag": f'"{etag}"'})


@router.post("/api/lfs/{digest}/complete")
def complete_lfs(digest: str, body: LfsParts, deps: DepsDep, grant: str) -> dict[str, Any]:
    """Joins the parts of a file and checks its digest."""
    signer = UploadSigner(deps.secrets.pepper)
    granted = signer.read(grant, digest, deps.clock.now())
    with read_unit(deps.sessions) as session:
        caller = check_grant(session, granted)
        if find_size(session, caller, digest) == granted.size:
            return {}
    parts = sorted(body.parts, key=lambda one: one.number)
    numbers = [one.number for one in parts]
    if numbers != list(range(1, plan_parts(granted.size)[1] + 1)):
        raise InvalidInput(f"parts 1 to {plan_parts(granted.size)[1]} are needed, {numbers[:20]} were named")
    stored = join_parts(deps.store, granted, [signer.read_part(granted, one.number, one.etag) for one in parts])
    hold(deps, caller, stored)
    return {}


def hold(deps: Deps, caller: Caller, stored: Stored) -> None:
    """Notes that the caller's tenant holds what was just stored."""
    with unit_of_work(deps.sessions) as session:
        record_put(session, caller, deps.clock.now(), stored)


def _start_upload(
    kind: RepoKind, tenant: str, repo: str, body: LfsBatch, request: Request, caller: Caller, deps: Deps
) -> Response:
    drafts.check_may_write(caller)
    if body.operation != "upload":
        raise InvalidInput("this is for uploads; files are read from /resolve/, by range if you like")
    with read_unit(deps.sessions) as session:
        get_repo(session, caller, kind, tenant, repo)
        held = {one.oid: find_size(session, caller, one.oid) for one in body.objects}
    multipart = "multipart" in body.transfers
    objects = [
        {"oid": one.oid, "size": one.size}
        if held[one.oid] == one.size
        else _plan_upload(deps, caller, request, one, multipart)
        for one in body.objects
    ]
    answer = {"transfer": "multipart" if multipart else "basic", "objects": objects, "hash_algo": "sha256"}
    return JSONResponse(answer, media_type="application/vnd.git-lfs+json")


def _plan_upload(deps: Deps, caller: Caller, request: Request, wanted: LfsObject, multipart: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"oid": wanted.oid, "size": wanted.size, "authenticated": True}
    if wanted.size > deps.settings.max_blob_bytes:
        message = f"{wanted.size:,} bytes are more than one file may have here ({deps.settings.max_blob_bytes:,})"
        return {**told, "error": {"code": 422, "message": message}}
    until = valid_until(deps.clock.now())
    grant = UploadSigner(deps.secrets.pepper).sign(Grant(caller.id, wanted.oid, wanted.size, until))
    address = f"{str(request.base_url).rstrip('/')}/api/lfs/{wanted.oid}"
    part, count = plan_parts(wanted.size)
    if count == 1 or not multipart:
        return {**told, "actions": {"upload": {"href": f"{address}?grant={grant}"}}}
    parts = {str(number): f"{address}?grant={grant}&part={number}" for number in range(1, count + 1)}
    upload = {"href": f"{address}/complete?grant={grant}", "header": {"chunk_size": str(part), **parts}}
    return {**told, "actions": {"upload": upload}}
