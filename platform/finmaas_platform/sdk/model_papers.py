"""The papers of model versions: lineage, what made them, cards, and how two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finmaas_platform.sdk.model_life import version_path
from finmaas_platform.sdk.objects import Lineage, LineageGraph, ModelCard, ModelVersion
from finmaas_platform.sdk.refs import DEFAULT_PROJECT
from finmaas_platform.sdk.transport import Transport


class ModelPapers:
    """`client.models.papers`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def lineage(self, ref: str, project: str = DEFAULT_PROJECT, direction: str = "both") -> LineageGraph:
        """What a version came from (`up`), and what came of it (`down`)."""
        path = f"{version_path(self._http, ref, project)}/lineage"
        return LineageGraph.model_validate(self._http.get(path, direction=direction))

    def lineage_of(self, kind: str, node_id: str, direction: str = "both") -> LineageGraph:
        """The same of anything: dataset_version, job, evaluation, model_version, alias or endpoint, by id."""
        return LineageGraph.model_validate(self._http.get(f"/lineage/{kind}/{node_id}", direction=direction))

    def materials(self, ref: str, project: str = DEFAULT_PROJECT) -> dict[str, Any]:
        """Code, packages, data, parameters and machine that made a version; empty for one that was imported."""
        found: dict[str, Any] = self._http.get(f"{version_path(self._http, ref, project)}/materials")
        return found

    def card(self, ref: str, project: str = DEFAULT_PROJECT, language: str = "en") -> ModelCard:
        """The card in English (`en`) or Chinese (`zh`)."""
        path = f"{version_path(self._http, ref, project)}/card"
        return ModelCard.model_validate(self._http.get(path, language=language))

    def set_card(
        self, ref: str, text: str, project: str = DEFAULT_PROJECT, language: str = "en", if_match: int | None = None
    ) -> ModelCard:
        """Writes a new edition; earlier ones stay."""
        path = f"{version_path(self._http, ref, project)}/card"
        answer = self._http.write("PUT", path, {"text": text}, if_match=if_match, params={"language": language})
        return ModelCard.model_validate(answer)

    def card_editions(self, ref: str, project: str = DEFAULT_PROJECT, language: str = "en") -> Iterator[ModelCard]:
        """The editions that people wrote, newest first."""
        path = f"{version_path(self._http, ref, project)}/card/editions"
        return self._http.pages(ModelCard, path, language=language)


def diff_versions(old: ModelVersion, new: ModelVersion) -> list[tuple[str, Any, Any]]:
    """What differs between two versions, as (what, before, after); files by size, scores of the newest evaluations."""
    scores = [_scores(one) for one in (old, new)]
    files = [{file.path: f"{file.sha256[:12]} {file.size}" for file in one.files} for one in (old, new)]
    rows = [
        *((name, getattr(old, name), getattr(new, name)) for name in ("kind", "state", "description")),
        *((name, getattr(old.lineage, name), getattr(new.lineage, name)) for name in Lineage.model_fields),
        *((path, files[0].get(path), files[1].get(path)) for path in sorted(files[0].keys() | files[1].keys())),
        *((name, scores[0].get(name), scores[1].get(name)) for name in sorted(scores[0].keys() | scores[1].keys())),
    ]
    return [row for row in rows if row[1] != row[2]]


def _scores(version: ModelVersion) -> dict[str, Any]:
    evaluations = version.metrics.get("evaluations") or [{}]
    plain = {name: value for name, value in version.metrics.items() if isinstance(value, int | float)}
    return {**plain, **evaluations[-1].get("scores", {})}
