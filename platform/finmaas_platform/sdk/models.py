"""Models: importing folders as immutable versions, and looking at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finmaas_platform.sdk.hub_import import HubImport, HubSource, import_from_hub
from finmaas_platform.sdk.model_life import ModelLife, version_path
from finmaas_platform.sdk.model_papers import ModelPapers
from finmaas_platform.sdk.model_trust import ModelTrust
from finmaas_platform.sdk.objects import Model, ModelVersion
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transfer import OnStage, find_damaged, pull_files, push_files
from finmaas_platform.sdk.transport import Transport
from finmaas_registry.manifest import SIGNATURE_FILE
from finmaas_registry.model_folder import scan_model_folder, tell_kind


class Models:
    """`client.models`. References may leave out the project (`default/default`) and the version (the newest)."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport
        self.life = ModelLife(transport)
        self.trust = ModelTrust(transport)
        self.papers = ModelPapers(transport)

    def list(self, project: str | None = None) -> Iterator[Model]:
        """The models of a project, or all in the caller's sight."""
        return self._http.pages(Model, "/models", project=project)

    def get(self, name: str, project: str = DEFAULT_PROJECT) -> Model:
        """One model; NotFound."""
        return Model.model_validate(self._http.get(f"/models/{parse_ref(name, project).path}"))

    def versions(self, name: str, project: str = DEFAULT_PROJECT) -> Iterator[ModelVersion]:
        """The versions of a model."""
        return self._http.pages(ModelVersion, f"/models/{parse_ref(name, project).path}/versions")

    def version(self, ref: str, project: str = DEFAULT_PROJECT) -> ModelVersion:
        """One version; without a number the newest."""
        return ModelVersion.model_validate(self._http.get(self._version_path(ref, project)))

    def download(
        self,
        ref: str,
        folder: str | os.PathLike[str],
        project: str = DEFAULT_PROJECT,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> ModelVersion:
        """Fetches the files of a version into a folder, checked; those that are there already stay.

        A signed version brings its signature, `model.sig`. Where a trust root is set, one that bears none that holds is
        refused before a byte is fetched: BadSignature.
        """
        version = self.version(ref, project)
        self.trust.check(version)
        pull_files(self._http, version.files, Path(folder), on_progress)
        if version.state == "approved" and (bundle := self.trust.signature(version.ref)):
            (Path(folder) / SIGNATURE_FILE).write_text(bundle, encoding="utf-8")
        return version

    def find_damaged(
        self,
        ref: str,
        folder: str | os.PathLike[str],
        project: str = DEFAULT_PROJECT,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Sequence[str]:
        """The paths of a version's files that a folder lacks or holds with other bytes; none: it is the version."""
        return find_damaged(self.version(ref, project).files, Path(folder), on_progress)

    def import_folder(
        self,
        folder: str | os.PathLike[str],
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        kind: str | None = None,
        base: str | None = None,
        description: str | None = None,
        parents: Sequence[str] = (),
        on_progress: OnStage | None = None,
    ) -> ModelVersion:
        """Imports a Hugging Face folder. Files that the store has already are not sent again.

        `kind` is full, adapter or merged, told by the folder when absent; an adapter names its `base`, a merged one its
        `parents`. InvalidInput for one
        that holds no model, or holds code or pickles: that is found before anything is sent.
        """
        files = scan_model_folder(Path(folder))
        entries = push_files(self._http, files, on_progress)
        body = {
            "kind": kind or tell_kind(file.path for file in files),
            "files": [entry.to_json() for entry in entries],
            "base": base,
            "description": description,
            "parents": list(parents),
        }
        target = parse_ref(name, project)
        return ModelVersion.model_validate(self._http.write("POST", f"/models/{target.path}/versions", body))

    def import_from_hub(
        self,
        source: HubSource,
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        base: str | None = None,
        description: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> HubImport:
        """Imports a repository of a Hub or a mirror of it (`sdk/hub_import.py`)."""
        return import_from_hub(
            self._http, source, name, project, base=base, description=description, on_progress=on_progress
        )

    def _version_path(self, text: str, project: str) -> str:
        return version_path(self._http, text, project)
