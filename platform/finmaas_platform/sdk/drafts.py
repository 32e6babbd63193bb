"""Drafts: what Hub clients have uploaded and is not a version yet."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import DatasetVersion, Draft, ModelVersion
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import Transport


class Drafts:
    """`client.drafts`. `kind` is model or dataset."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, kind: str | None = None, project: str | None = None) -> Iterator[Draft]:
        """The open drafts of a project, or all in the caller's sight."""
        return self._http.pages(Draft, "/drafts", kind=kind, project=project)

    def get(self, kind: str, name: str, project: str = DEFAULT_PROJECT) -> Draft:
        """One draft; NotFound."""
        return Draft.model_validate(self._http.get(f"/drafts/{kind}/{parse_ref(name, project).path}"))

    def discard(self, kind: str, name: str, project: str = DEFAULT_PROJECT) -> None:
        """Drops a draft."""
        self._http.write("DELETE", f"/drafts/{kind}/{parse_ref(name, project).path}")

    def release_model(
        self, name: str, project: str = DEFAULT_PROJECT, *, base: str | None = None, description: str | None = None
    ) -> ModelVersion:
        """The version that a draft of a model becomes. InvalidInput when it holds no servable model."""
        body = {"base": base, "description": description}
        path = f"/drafts/model/{parse_ref(name, project).path}/release"
        return ModelVersion.model_validate(self._http.write("POST", path, body))

    def release_dataset(
        self,
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        shape: str | None = None,
        text: str | None = None,
        label: str | None = None,
        group: str | None = None,
        splits: str | None = None,
    ) -> DatasetVersion:
        """The version that the rows of a draft become, split anew; BadRow names the first bad row."""
        body = {"shape": shape, "text": text, "label": label, "group": group, "splits": splits}
        path = f"/drafts/dataset/{parse_ref(name, project).path}/release"
        return DatasetVersion.model_validate(self._http.write("POST", path, body))
