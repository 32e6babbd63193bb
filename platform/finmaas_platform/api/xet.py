"""Reading by Xet, which Hub clients prefer for large files: several ranges at once, in native code.

A client hears of it with the file's address (`announce`), fetches a token, asks how the file is put together, and
fetches its parts from signed addresses. Writing stays with LFS (ADR 12). `finmaas_registry.xorbs` has the format.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from finmaas_platform.api.blob_stream import BYTES, Span, choose_span
from finmaas_platform.api.dependencies import CallerDep, DepsDep
from finmaas_platform.api.hub_route import HubRoute
from finmaas_platform.db.base import read_unit
from finmaas_platform.deps import Deps
from finmaas_platform.domain.hub import RepoKind
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.authentication import authenticate_signed
from finmaas_platform.services.blobs import find_size, get_size
from finmaas_platform.services.hub import get_repo
from finmaas_platform.services.hub_addresses import AddressSigner, Grant, valid_until
from finmaas_registry.manifest import FileEntry
from finmaas_registry.xorbs import frame, framed_size, plain_start, plan_reconstruction

router = APIRouter(route_class=HubRoute, include_in_schema=False)
MIN_BYTES = 8 << 20
"""Smaller files are quicker in one request."""
RangeHeader = Annotated[str | None, Header(alias="Range")]


def announce(deps: Deps, caller: Caller, file: FileEntry, token_url: str) -> dict[str, str]:
    """Headers that tell a client to fetch a file by Xet; none for a small one, or one that its tenant does not hold."""
    if file.size < MIN_BYTES:
        return {}
    with read_unit(deps.sessions) as session:
        if find_size(session, caller, file.sha256) is None:
            return {}
    return {"X-Xet-Hash": file.sha256, "X-Xet-Refresh-Route": token_url}


@router.get("/api/{kind}s/{tenant}/{repo}/xet-read-token/{revision:path}")
def give_token(
    kind: RepoKind, tenant: str, repo: str, revision: str, request: Request, caller: CallerDep, deps: DepsDep
) -> Response:
    """Where to ask for files, and the caller's own token to ask with."""
    with read_unit(deps.sessions) as session:
        get_repo(session, caller, kind, tenant, repo)
    token = request.headers["authorization"].partition(" ")[2]
    url, until = f"{str(request.base_url).rstrip('/')}/xet", valid_until(deps.clock.now())
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
    return JSONResponse({"casUrl": url, "accessToken": token, "exp": until}, headers=headers)


@router.get("/xet/v1/reconstructions/{digest}")
def reconstruct(digest: str, request: Request, caller: CallerDep, deps: DepsDep, asked: RangeHeader = None) -> Response:
    """How a file, or a range of it, is put together."""
    with read_unit(deps.sessions) as session:
        size = get_size(session, caller, digest)
    span = choose_span(asked, size)
    if span is None:
        return Response(status_code=416)
    until = valid_until(deps.clock.now())
    grant = AddressSigner(deps.secrets.pepper, "read").sign(Grant(caller.id, digest, size, until))
    url = f"{str(request.base_url).rstrip('/')}/xet/files/{digest}?grant={grant}"
    return JSONResponse(plan_reconstruction(digest, size, span.start, span.end, url))


@router.get("/xet/files/{digest}")
def get_framed(digest: str, grant: str, deps: DepsDep, asked: RangeHeader = None) -> Response:
    """A range of a file in the framed form. The address says who reads; whether they still may is asked each time."""
    granted = AddressSigner(deps.secrets.pepper, "read").read(grant, digest, deps.clock.now())
    with read_unit(deps.sessions) as session:
        size = get_size(session, authenticate_signed(session, granted.principal_id), digest)
    whole = framed_size(size)
    span = choose_span(asked, whole)
    if span is None:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{whole}"})
    return _stream(deps, digest, size, span)


def _stream(deps: Deps, digest: str, size: int, span: Span) -> Response:
    headers = {"Content-Length": str(span.end - span.start)}
    if span.is_part:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{framed_size(size)}"
    plain = deps.store.open(digest, plain_start(span.start))
    return StreamingResponse(frame(plain, size, span.start, span.end), 206 if span.is_part else 200, headers, BYTES)
