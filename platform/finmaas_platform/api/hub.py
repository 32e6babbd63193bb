"""The Hugging Face Hub protocol, reading: what `huggingface_hub`, `transformers`, `datasets` and vLLM ask.

Set `HF_ENDPOINT` to the control plane and `HF_TOKEN` to an access token. Nothing is public: a repository of another
tenant is one that does not exist. Files are fetched over plain HTTP, whole or by range; large ones by Xet (`xet.py`),
where the client can.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Query, Request, Response
from starlette.responses import JSONResponse

from finmaas_core.errors import NotFound
from finmaas_platform.api.blob_stream import blob_response
from finmaas_platform.api.dependencies import CallerDep, DepsDep, ReaderDep
from finmaas_platform.api.hub_route import HubRoute
from finmaas_platform.api.paging import paginate
from finmaas_platform.api.xet import announce
from finmaas_platform.db.base import read_unit
from finmaas_platform.deps import Deps
from finmaas_platform.domain import hub
from finmaas_platform.domain.hub import Missing, RepoKind, Snapshot
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import hub as repos
from finmaas_platform.services.hub import Repo
from finmaas_platform.services.tenants import list_own_tenants

router = APIRouter(route_class=HubRoute, include_in_schema=False)
TREE_PAGE = 5_000
LIST_PAGE = 500
# A browser that is shown a file of a model must not run it.
_INERT = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}


@router.get("/api/whoami-v2")
def whoami(caller: CallerDep, deps: DepsDep) -> dict[str, Any]:
    """Who the token belongs to; tenants stand as organisations."""
    with read_unit(deps.sessions) as session:
        tenants = list_own_tenants(session, caller)
    return {
        "type": "user",
        "id": caller.id,
        "name": caller.name,
        "fullname": caller.name,
        "orgs": [{"type": "org", "id": row.id, "name": row.name, "fullname": row.display_name} for row in tenants],
        "auth": {"type": "access_token", "accessToken": {"displayName": caller.role, "role": "fineGrained"}},
    }


@router.get("/api/{kind}s")
def list_repos(
    kind: RepoKind,
    request: Request,
    caller: CallerDep,
    deps: DepsDep,
    author: str | None = None,
    search: str | None = None,
    limit: Annotated[int, Query(ge=1)] = LIST_PAGE,
    cursor: str | None = None,
) -> Response:
    """The models or datasets in the caller's sight, newest first."""
    with read_unit(deps.sessions) as session:
        query = repos.select_repos(caller, kind, author, search)
        page = paginate(session, query, repos.id_column(kind), min(limit, LIST_PAGE), cursor)
        shown = [_describe(Repo(kind, row.project, row.name, row)) for row in page.rows]
    return _page(request, shown, page.next_cursor)


@router.get("/api/{kind}s/{tenant}/{repo}")
def get_info(
    kind: RepoKind, tenant: str, repo: str, caller: CallerDep, deps: DepsDep, blobs: bool = False
) -> dict[str, Any]:
    """What `main` holds."""
    return get_info_at(kind, tenant, repo, hub.MAIN, caller, deps, blobs)


@router.get("/api/{kind}s/{tenant}/{repo}/revision/{revision:path}")
def get_info_at(
    kind: RepoKind, tenant: str, repo: str, revision: str, caller: CallerDep, deps: DepsDep, blobs: bool = False
) -> dict[str, Any]:
    """What a revision holds."""
    found, snapshot = _open(deps, caller, kind, tenant, repo, revision)
    siblings = [hub.show_sibling(file, blobs) for file in snapshot.files]
    modified = _stamp(snapshot.created_at)
    return {**_describe(found), "sha": snapshot.commit, "lastModified": modified, "siblings": siblings}


@router.get("/api/{kind}s/{tenant}/{repo}/refs")
def list_refs(kind: RepoKind, tenant: str, repo: str, caller: CallerDep, deps: DepsDep) -> dict[str, Any]:
    """Branches and tags."""
    with read_unit(deps.sessions) as session:
        found = repos.get_repo(session, caller, kind, tenant, repo)
        branches = repos.list_branches(session, caller, found)
        tags = {f"v{row.number}": hub.make_revision(row.digest) for row in repos.list_versions(session, caller, found)}
    return {
        "branches": [_show_ref(name, "heads", commit) for name, commit in branches.items()],
        "converts": [],
        "tags": [_show_ref(name, "tags", commit) for name, commit in tags.items()],
        "pullRequests": [],
    }


@router.get("/api/{kind}s/{tenant}/{repo}/commits/{revision:path}")
def list_commits(
    kind: RepoKind, tenant: str, repo: str, revision: str, caller: CallerDep, deps: DepsDep
) -> list[dict[str, Any]]:
    """The versions up to a revision, newest first."""
    with read_unit(deps.sessions) as session:
        found = repos.get_repo(session, caller, kind, tenant, repo)
        head = repos.get_snapshot(session, caller, found, revision)
        versions = [repos.show_version(row) for row in repos.list_versions(session, caller, found)]
    older = [one for one in versions if head.number is None or (one.number or 0) < head.number]
    return [_show_commit(one) for one in (head, *older)]


@router.get("/api/{kind}s/{tenant}/{repo}/tree/{revision}")
@router.get("/api/{kind}s/{tenant}/{repo}/tree/{revision}/{path:path}")
def list_tree(
    kind: RepoKind,
    tenant: str,
    repo: str,
    revision: str,
    request: Request,
    caller: CallerDep,
    deps: DepsDep,
    path: str = "",
    recursive: bool = False,
    cursor: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """The files and folders of a folder, page by page."""
    _, snapshot = _open(deps, caller, kind, tenant, repo, revision)
    folder = path.strip("/")
    entries = hub.show_tree(snapshot.files, folder, recursive)
    if folder and not entries:
        raise _no_entry(snapshot, folder)
    end = cursor + TREE_PAGE
    return _page(request, entries[cursor:end], str(end) if end < len(entries) else None)


@router.post("/api/{kind}s/{tenant}/{repo}/paths-info/{revision:path}")
def get_paths_info(
    kind: RepoKind,
    tenant: str,
    repo: str,
    revision: str,
    caller: ReaderDep,
    deps: DepsDep,
    paths: Annotated[list[str], Form(max_length=10_000)],
) -> list[dict[str, Any]]:
    """The entries of those paths that exist."""
    _, snapshot = _open(deps, caller, kind, tenant, repo, revision)
    return hub.show_paths(snapshot.files, paths)


@router.get("/api/{kind}s/{tenant}/{repo}/auth-check")
def check_access(kind: RepoKind, tenant: str, repo: str, caller: CallerDep, deps: DepsDep) -> dict[str, Any]:
    """200 when the caller may read it."""
    _open(deps, caller, kind, tenant, repo, hub.MAIN)
    return {}


@router.api_route("/{tenant}/{repo}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def resolve_model_file(
    tenant: str, repo: str, revision: str, path: str, request: Request, caller: CallerDep, deps: DepsDep
) -> Response:
    """A file of a model."""
    return _resolve(deps, caller, RepoKind.MODEL, tenant, repo, revision, path, request)


@router.api_route("/datasets/{tenant}/{repo}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def resolve_dataset_file(
    tenant: str, repo: str, revision: str, path: str, request: Request, caller: CallerDep, deps: DepsDep
) -> Response:
    """A file of a dataset."""
    return _resolve(deps, caller, RepoKind.DATASET, tenant, repo, revision, path, request)


@router.api_route("/api/{kind}s/{repo}", methods=["GET", "POST"])
@router.api_route("/api/{kind}s/{repo}/revision/{revision:path}", methods=["GET"])
@router.api_route("/{repo}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
def refuse_short_id(repo: str, caller: CallerDep) -> Response:
    """Ids of the public Hub may have one part (`gpt2`); ours say whose they are."""
    raise NotFound(f"{repo[:100]} has no tenant in it; write tenant/project.name", missing=Missing.REPO)


def _resolve(
    deps: Deps, caller: Caller, kind: RepoKind, tenant: str, repo: str, revision: str, path: str, request: Request
) -> Response:
    _, snapshot = _open(deps, caller, kind, tenant, repo, revision)
    file = snapshot.find(path)
    if file is None:
        raise _no_entry(snapshot, path)
    token_url = f"{request.base_url}api/{kind}s/{tenant}/{repo}/xet-read-token/{snapshot.commit}"
    name = quote(file.path.rsplit("/", 1)[-1])
    headers = {
        "X-Repo-Commit": snapshot.commit,
        "X-Linked-Etag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "Content-Disposition": f"inline; filename*=UTF-8''{name}",
        "Cache-Control": "private, no-cache",
        **_INERT,
        **announce(deps, caller, file, token_url),
    }
    return blob_response(deps.store, file.sha256, file.size, request, headers)


def _open(deps: Deps, caller: Caller, kind: RepoKind, tenant: str, repo: str, revision: str) -> tuple[Repo, Snapshot]:
    with read_unit(deps.sessions) as session:
        found = repos.get_repo(session, caller, kind, tenant, repo)
        return found, repos.get_snapshot(session, caller, found, revision)


def _no_entry(snapshot: Snapshot, path: str) -> NotFound:
    return NotFound(
        f"there is no {path[:200]} at revision {snapshot.commit}", missing=Missing.ENTRY, commit=snapshot.commit
    )


def _describe(repo: Repo) -> dict[str, Any]:
    return {
        "_id": repo.key,
        "id": repo.id,
        "author": repo.project.tenant.name,
        "private": True,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": ["safetensors"] if repo.kind is RepoKind.MODEL else [],
        "createdAt": _stamp(repo.created_at),
        **({"modelId": repo.id, "library_name": "transformers"} if repo.kind is RepoKind.MODEL else {}),
    }


def _show_ref(name: str, kind: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}


def _show_commit(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "id": snapshot.commit,
        "title": snapshot.title,
        "message": "",
        "authors": [{"user": snapshot.author}],
        "date": _stamp(snapshot.created_at),
    }


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def _page(request: Request, items: list[dict[str, Any]], cursor: str | None) -> Response:
    """A page; the next one's address is in the `Link` header, where clients look for it."""
    headers = {"Link": f'<{request.url.include_query_params(cursor=cursor)}>; rel="next"'} if cursor else {}
    return JSONResponse(items, headers=headers)
