"""The Hugging Face Hub protocol, writing: repositories and commits of `huggingface_hub`.

Commits gather in a draft; `finmaas model release` makes the version. Large files come by LFS (clients need
`HF_HUB_DISABLE_XET=1` for that), small ones inside the commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from finmaas_core.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from finmaas_platform.api.dependencies import CallerDep, DepsDep, ReaderDep
from finmaas_platform.api.hub_lfs import hold
from finmaas_platform.api.hub_route import HubRoute
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.domain import drafts as plans
from finmaas_platform.domain.drafts import Header, InlineFile, LfsFile, Operation
from finmaas_platform.domain.hub import DRAFT, Missing, RepoKind, make_repo_id, plain_branch
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import drafts
from finmaas_platform.services.hub import find_repo, get_repo
from finmaas_platform.services.tenants import list_own_tenants
from finmaas_registry.manifest import MAX_FILES, FileEntry, check_path
from finmaas_registry.model_folder import check_one_file, refuse_by_name

router = APIRouter(route_class=HubRoute, include_in_schema=False)
MAX_COMMIT_BYTES = 4 << 30
_uploads = Uploads()
# Clients show this; of the refusal of Xet itself they show the status alone.
_LFS_NOTE = "lfs; large files are uploaded by LFS here: if this upload fails, set HF_HUB_DISABLE_XET=1 and repeat it"


class RepoCreate(BaseModel):
    """A repository to make; what else a client says about it is passed over."""

    name: str
    organization: str | None = None
    type: RepoKind = RepoKind.MODEL
    private: bool | None = None
    visibility: Literal["public", "private", "protected"] | None = None


class PreuploadFile(BaseModel):
    """A file that a client wants to upload."""

    path: str
    size: int = Field(ge=0)


class Preupload(BaseModel):
    """The files of a commit to come."""

    files: list[PreuploadFile] = Field(max_length=10_000)


class Card(BaseModel):
    """A README.md whose metadata a client wants checked."""

    content: str


@router.post("/api/repos/create")
def create_repo(body: RepoCreate, request: Request, caller: CallerDep, deps: DepsDep) -> dict[str, str]:
    """Opens an empty draft under a new name."""
    if body.private is False or body.visibility == "public":
        raise InvalidInput("no repository here is public; leave `private` out, or pass private=True")
    with unit_of_work(deps.sessions) as session:
        tenant = body.organization or _own_tenant(session, caller, body.name)
        if found := find_repo(session, caller, body.type, tenant, body.name):
            raise AlreadyExists(f"{found.id} exists already", url=_repo_url(request, body.type, found.id))
        row = drafts.create_repo(session, caller, deps.clock.now(), body.type, tenant, body.name)
        repo_id = make_repo_id(row.project.tenant.name, row.project.name, row.name)
    return {"url": _repo_url(request, body.type, repo_id), "name": repo_id, "id": row.id}


@router.delete("/api/repos/delete")
def delete_repo(body: RepoCreate, request: Request, caller: CallerDep, deps: DepsDep) -> dict[str, str]:
    """Discards the draft of a name that has no version; versions stay."""
    with unit_of_work(deps.sessions) as session:
        tenant = body.organization or _own_tenant(session, caller, body.name)
        repo = get_repo(session, caller, body.type, tenant, body.name)
        if repo.row is not None or repo.draft is None:
            raise Conflict(f"{repo.id} has versions, which never change; retire them instead of deleting them")
        drafts.discard(session, caller, deps.clock.now(), repo.draft)
    return {}


@router.put("/api/{kind}s/{tenant}/{repo}/settings")
def change_settings(
    kind: RepoKind, tenant: str, repo: str, body: dict[str, Any], caller: CallerDep, deps: DepsDep
) -> dict[str, Any]:
    """Repositories are private, and stay so."""
    with read_unit(deps.sessions) as session:
        get_repo(session, caller, kind, tenant, repo)
    if body.get("private") is False or body.get("visibility") in ("public", "protected") or body.get("gated"):
        raise InvalidInput("no repository here is public or gated; a project's roles and grants say who reads it")
    return {"private": True}


@router.post("/api/{kind}s/{tenant}/{repo}/branch/{branch:path}")
def create_branch(
    kind: RepoKind, tenant: str, repo: str, branch: str, caller: CallerDep, deps: DepsDep
) -> dict[str, str]:
    """Opens a draft, the one branch that can be made."""
    with unit_of_work(deps.sessions) as session:
        found = get_repo(session, caller, kind, tenant, repo)
        if plain_branch(branch) == "main":
            raise AlreadyExists("main is always there")
        if plain_branch(branch) != DRAFT:
            raise InvalidInput(f"{branch[:100]} cannot be made: commits gather in `draft`, and aliases name versions")
        return {"commitOid": drafts.open_draft(session, caller, deps.clock.now(), found).revision}


@router.delete("/api/{kind}s/{tenant}/{repo}/branch/{branch:path}")
def delete_branch(
    kind: RepoKind, tenant: str, repo: str, branch: str, caller: CallerDep, deps: DepsDep
) -> dict[str, str]:
    """Discards the draft."""
    with unit_of_work(deps.sessions) as session:
        found = get_repo(session, caller, kind, tenant, repo)
        if plain_branch(branch) != DRAFT or found.draft is None:
            raise NotFound(f"{found.id} has no branch {branch[:100]} to delete", missing=Missing.REVISION)
        drafts.discard(session, caller, deps.clock.now(), found.draft)
    return {}


@router.post("/api/{kind}s/{tenant}/{repo}/tag/{revision:path}")
def create_tag(kind: RepoKind, tenant: str, repo: str, revision: str, caller: CallerDep, deps: DepsDep) -> Response:
    """Tags are the versions; `finmaas model release` makes one."""
    with read_unit(deps.sessions) as session:
        get_repo(session, caller, kind, tenant, repo)
    raise InvalidInput(f"tags are versions: `finmaas {kind} release {tenant}/…` makes the next; aliases have names")


@router.post("/api/{kind}s/{tenant}/{repo}/preupload/{revision:path}")
def preupload(
    kind: RepoKind, tenant: str, repo: str, revision: str, body: Preupload, caller: CallerDep, deps: DepsDep
) -> Response:
    """Says how each file is to be sent. What may not be in a version is refused here, before a byte is sent."""
    plans.check_branch(revision)
    drafts.check_may_write(caller)
    with read_unit(deps.sessions) as session:
        found = get_repo(session, caller, kind, tenant, repo)
    known = {file["path"]: file["sha256"] for file in (found.draft.files if found.draft else ())}
    answers = []
    for file in body.files:
        refuse_by_name(check_path(file.path))
        mode = plans.choose_mode(file.path, file.size)
        oid = {"oid": known[file.path]} if mode == "lfs" and file.path in known else {}
        answers.append({"path": file.path, "uploadMode": mode, "shouldIgnore": False, **oid})
    by_lfs = any(answer["uploadMode"] == "lfs" for answer in answers)
    return JSONResponse({"files": answers}, headers={"X-HF-Warning": _LFS_NOTE} if by_lfs else {})


@router.get("/api/{kind}s/{tenant}/{repo}/xet-write-token/{revision:path}")
def refuse_xet(kind: RepoKind, tenant: str, repo: str, revision: str, caller: CallerDep) -> Response:
    """Clients ask for this unless they are told not to."""
    raise InvalidInput("files of this size are uploaded by LFS here: set HF_HUB_DISABLE_XET=1 and upload again")


@router.post("/api/{kind}s/{tenant}/{repo}/commit/{revision:path}")
async def commit(
    kind: RepoKind,
    tenant: str,
    repo: str,
    revision: str,
    request: Request,
    caller: CallerDep,
    deps: DepsDep,
    create_pr: bool = False,
) -> dict[str, Any]:
    """Adds and deletes files of the draft."""
    plans.check_branch(revision)
    drafts.check_may_write(caller)
    if create_pr:
        raise InvalidInput("there are no pull requests here; commit to main, which gathers a draft")

    def take(chunks: Iterator[bytes]) -> dict[str, Any]:
        with read_unit(deps.sessions) as session:
            get_repo(session, caller, kind, tenant, repo)  # before a body is read for it
        change = _read_commit(deps, caller, chunks)
        for operation in change.operations:
            if isinstance(operation, FileEntry):
                check_one_file(operation, deps.store.open)
        with unit_of_work(deps.sessions) as session:
            found = get_repo(session, caller, kind, tenant, repo)
            oid = drafts.commit(session, caller, deps.clock.now(), found, change)
        url = f"{_repo_url(request, kind, found.id)}/commit/{oid}"
        return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

    return await _uploads.run(request, MAX_COMMIT_BYTES, take)


@router.post("/api/validate-yaml")
def validate_card(body: Card, caller: ReaderDep) -> Response:
    """Whether the metadata at the head of a card can be read."""
    head, _, rest = body.content.partition("---\n")
    block, closed, _ = rest.partition("\n---")
    if head.strip() or not closed:
        return JSONResponse({"errors": [], "warnings": []})
    import yaml  # type: ignore[import-untyped]  # only here, so that the control plane starts without it

    try:
        yaml.safe_load(block)
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)[:1000]}], "warnings": []}, 400)
    return JSONResponse({"errors": [], "warnings": []})


def _read_commit(deps: Deps, caller: Caller, chunks: Iterator[bytes]) -> drafts.Commit:
    """Reads a commit line by line; the bytes of small files go to the store as they come."""
    header = Header("", None)
    operations: list[Operation | LfsFile] = []
    for line in _split_lines(chunks):
        item = plans.read_line(line)
        if isinstance(item, Header):
            header = item
        elif isinstance(item, InlineFile):
            operations.append(_store_inline(deps, caller, item))
        else:
            operations.append(item)
        if len(operations) > MAX_FILES:
            raise InvalidInput(f"a commit may change {MAX_FILES:,} files at most; split it")
    with read_unit(deps.sessions) as session:
        sent = drafts.resolve_lfs(session, caller, [one for one in operations if isinstance(one, LfsFile)])
    following = iter(sent)
    known = tuple(next(following) if isinstance(one, LfsFile) else one for one in operations)
    return drafts.Commit(known, header.summary, header.parent)


def _store_inline(deps: Deps, caller: Caller, file: InlineFile) -> FileEntry:
    if len(file.content) > plans.INLINE_BYTES:
        raise InvalidInput(f"{file.path[:200]} is too large to stand in a commit; upload it by LFS")
    refuse_by_name(file.path)
    stored = deps.store.put([file.content])
    hold(deps, caller, stored)
    return FileEntry(file.path, stored.digest, stored.size)


def _split_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            yield from (line for line in lines if line.strip())
            rest = bytearray(last)
        if len(rest) > plans.LINE_BYTES:
            raise InvalidInput(f"a line of the commit is longer than {plans.LINE_BYTES:,} bytes; upload by LFS")
    if rest.strip():
        yield bytes(rest)


def _own_tenant(session: Session, caller: Caller, name: str) -> str:
    """The tenant of an id of one part: the caller's own, as the Hub has it."""
    tenants = list_own_tenants(session, caller) if caller.tenant_id else []
    if not tenants:
        raise InvalidInput(f"{name[:100]} has no tenant in it; write tenant/project.name")
    return tenants[0].name


def _repo_url(request: Request, kind: RepoKind, repo_id: str) -> str:
    prefix = "datasets/" if kind is RepoKind.DATASET else ""
    return f"{str(request.base_url).rstrip('/')}/{prefix}{repo_id}"
