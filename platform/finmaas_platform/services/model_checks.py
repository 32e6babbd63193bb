"""Whether files make a servable model: looked at in the store before the transaction that registers them.

A store that answers slowly, or not at all, then holds no transaction open. Blobs never change, so what was found holds
still when the version is registered; that they are there, and the caller's, is asked once more in the transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from finmaas_platform.db.base import read_unit
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blobs import check_files_are_put
from finmaas_platform.services.projects import get_project
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest
from finmaas_registry.model_folder import check_model_files


@dataclass(frozen=True)
class CheckedModel:
    """Files of which `check_model` found that they make a model of this kind; made by nothing else."""

    kind: str
    manifest: Manifest


def check_model(
    deps: Deps, caller: Caller, kind: str, files: Iterable[FileEntry], project: str | None = None
) -> CheckedModel:
    """Raises InvalidInput for files that are no servable model (see `check_model_files`) or were not put by the caller.

    NotFound for a project that is not in the caller's sight. Opens a short session of its own, before it reads.
    """
    manifest = make_manifest(files)
    with read_unit(deps.sessions) as session:
        if project is not None:
            get_project(session, caller, project)
        check_files_are_put(session, caller, manifest.files)
    # What was merged is whole weights to whoever loads it.
    check_model_files("full" if kind == "merged" else kind, manifest.files, deps.store.open)
    return CheckedModel(kind, manifest)
