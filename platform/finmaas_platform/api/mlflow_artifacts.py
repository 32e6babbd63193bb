"""The registry as an artifact repository of MLflow's client: versions are read, drafts are written.

The address is `<control plane>/mlflow-artifacts/artifacts/models/tenant/project.name/<revision>`; ids and revisions are
those of the Hub protocol, and MLFLOW_TRACKING_TOKEN holds an access token. Runs, parameters and metrics stay with the
MLflow server that a user has; see docs/adr/0013-mlflow-artifacts.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_platform.api.blob_stream import blob_response
from finmaas_platform.api.dependencies import CallerDep, DepsDep
from finmaas_platform.api.hub_lfs import hold
from finmaas_platform.api.uploads import Uploads
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.deps import Deps
from finmaas_platform.domain import hub
from finmaas_platform.domain.drafts import check_branch
from finmaas_platform.domain.hub import RepoKind
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import drafts
from finmaas_platform.services.hub import find_repo, get_repo, get_snapshot
from finmaas_registry.manifest import FileEntry, check_path
from finmaas_registry.model_folder import check_one_file, refuse_by_name

router = APIRouter(prefix="/mlflow-artifacts/artifacts", include_in_schema=False)
_uploads = Uploads()


class Place(NamedTuple):
    """An artifact path taken apart; `path` is empty for the root of the version."""

    kind: RepoKind
    tenant: str
    repo: str
    revision: str
    path: str


def read_place(path: str) -> Place:
    """`models/tenant/project.name/v3/a/b.json`. InvalidInput for anything else."""
    parts = path.strip("/").split("/", 4)
    kinds = {f"{kind}s": kind for kind in RepoKind}
    if len(parts) < 4 or parts[0] not in kinds:
        raise InvalidInput(f"{path[:200]!r} names no version; write models/tenant/project.name/v3, then a path in it")
    kind, tenant, repo, revision = parts[:4]
    return Place(kinds[kind], tenant, repo, revision, parts[4] if len(parts) == 5 else "")


@router.get("")
def list_artifacts(caller: CallerDep, deps: DepsDep, path: Annotated[str, Query()]) -> dict[str, Any]:
    """The files and folders below a path, by their last part."""
    place = read_place(path)
    with read_unit(deps.sessions) as session:
        repo = get_repo(session, caller, place.kind, place.tenant, place.repo)
        files = get_snapshot(session, caller, repo, place.revision).files
    entries = hub.show_tree(files, place.path, recursive=False)
    if not entries and place.path:
        entries = [hub.show_file(file) for file in files if file.path == place.path]
    return {"files": [_show(entry) for entry in entries]}


@router.api_route("/{path:path}", methods=["GET", "HEAD"])
def get_artifact(path: str, request: Request, caller: CallerDep, deps: DepsDep) -> Response:
    """A file of a version."""
    place = read_place(path)
    with read_unit(deps.sessions) as session:
        repo = get_repo(session, caller, place.kind, place.tenant, place.repo)
        file = get_snapshot(session, caller, repo, place.revision).find(place.path)
    if file is None:
        raise NotFound(f"there is no {place.path[:200]} in {place.tenant}/{place.repo} at {place.revision[:100]}")
    return blob_response(deps.store, file.sha256, file.size, request)


@router.put("/{path:path}")
async def put_artifact(path: str, request: Request, caller: CallerDep, deps: DepsDep) -> dict[str, Any]:
    """Adds a file to the draft; a name that is new gets one. `finmaas model release` makes the version."""
    place = read_place(path)
    check_branch(place.revision)
    drafts.check_may_write(caller)
    refuse_by_name(check_path(place.path))
    await anyio.to_thread.run_sync(partial(_ensure_repo, deps, caller, place))

    def take(chunks: Iterator[bytes]) -> dict[str, Any]:
        stored = deps.store.put(chunks)
        hold(deps, caller, stored)
        entry = FileEntry(place.path, stored.digest, stored.size)
        check_one_file(entry, deps.store.open)
        with unit_of_work(deps.sessions) as session:
            repo = get_repo(session, caller, place.kind, place.tenant, place.repo)
            change = drafts.Commit((entry,), "Logged by MLflow's client", None)
            drafts.commit(session, caller, deps.clock.now(), repo, change)
        return {}

    return await _uploads.run(request, deps.settings.max_blob_bytes, take)


def _ensure_repo(deps: Deps, caller: Caller, place: Place) -> None:
    with unit_of_work(deps.sessions) as session:
        if find_repo(session, caller, place.kind, place.tenant, place.repo) is None:
            drafts.create_repo(session, caller, deps.clock.now(), place.kind, place.tenant, place.repo)


def _show(entry: dict[str, Any]) -> dict[str, Any]:
    name = str(entry["path"]).rsplit("/", 1)[-1]
    is_dir = entry["type"] == "directory"
    return {"path": name, "is_dir": is_dir} | ({} if is_dir else {"file_size": entry["size"]})
