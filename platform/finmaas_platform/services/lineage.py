"""The neighbours of each node of the lineage graph, within the caller's sight. The walk itself is in the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from finmaas_core.errors import InvalidInput, NotFound
from finmaas_platform.db.approvals import ModelAliasRow
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelParentRow, ModelVersionRow
from finmaas_platform.db.scope import scoped
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.domain.jobs import JobKind
from finmaas_platform.domain.lineage import MAX_DEPTH, MAX_NODES, Direction, Graph, Node, walk
from finmaas_platform.domain.principals import Caller


def get_lineage(
    session: Session,
    caller: Caller,
    kind: str,
    node_id: str,
    directions: Sequence[Direction] = ("up", "down"),
    depth: int = MAX_DEPTH,
) -> Graph:
    """What a thing came from, and what came of it; NotFound when it is not in the caller's sight."""
    looks = _Looks(session, caller)
    return walk(looks.get(kind, node_id), directions, looks.find_neighbours, depth)


class _Looks:
    """Look-ups in one session, for one caller."""

    def __init__(self, session: Session, caller: Caller) -> None:
        self._session, self._caller = session, caller
        self._find: Mapping[tuple[str, Direction], Callable[[str], Iterable[Node]]] = {
            ("dataset_version", "down"): self._of_dataset,
            ("job", "up"): self._inputs_of_job,
            ("job", "down"): self._results_of_job,
            ("evaluation", "up"): self._inputs_of_job,
            ("model_version", "up"): self._origins_of_model,
            ("model_version", "down"): self._results_of_model,
            ("alias", "up"): self._model_of_alias,
            ("endpoint", "up"): self._model_of_endpoint,
            ("endpoint", "down"): self._usage_of_endpoint,
        }

    def get(self, kind: str, node_id: str) -> Node:
        getters: Mapping[str, Callable[[], Iterable[Node]]] = {
            "dataset_version": lambda: self._datasets(DatasetVersionRow.id == node_id),
            "job": lambda: self._jobs(JobRow.id == node_id),
            "evaluation": lambda: self._jobs(JobRow.id == node_id),
            "model_version": lambda: self._models(ModelVersionRow.id == node_id),
            "alias": lambda: self._aliases(ModelAliasRow.id == node_id),
            "endpoint": lambda: self._endpoints(EndpointRow.id == node_id),
        }
        if kind not in getters:
            raise InvalidInput(f"{kind[:40]!r} is no kind of node; kinds are {', '.join(getters)}")
        for node in getters[kind]():
            return node
        raise NotFound(f"there is no {kind.replace('_', ' ')} {node_id}")

    def find_neighbours(self, node: Node, direction: Direction) -> Sequence[Node]:
        find = self._find.get((node.kind, direction))
        return [] if find is None else list(find(node.id))

    def _of_dataset(self, node_id: str) -> Iterable[Node]:
        yield from self._jobs(JobRow.dataset_version_id == node_id)
        yield from self._models(ModelVersionRow.dataset_version_id == node_id, ModelVersionRow.job_id.is_(None))

    def _inputs_of_job(self, node_id: str) -> Iterable[Node]:
        for row in self._rows(scoped(select(JobRow), self._caller).where(JobRow.id == node_id)):
            yield from self._datasets(DatasetVersionRow.id == row.dataset_version_id)
            yield from self._models(ModelVersionRow.id.in_(_known(row.base_version_id, row.subject_version_id)))

    def _results_of_job(self, node_id: str) -> Iterable[Node]:
        return self._models(ModelVersionRow.job_id == node_id)

    def _origins_of_model(self, node_id: str) -> Iterable[Node]:
        for row in self._rows(scoped(select(ModelVersionRow), self._caller).where(ModelVersionRow.id == node_id)):
            if row.job_id is not None:
                yield from self._jobs(JobRow.id == row.job_id)
                continue
            yield from self._datasets(DatasetVersionRow.id.in_(_known(row.dataset_version_id)))
            yield from self._models(ModelVersionRow.id.in_(_known(row.base_version_id)))
        parents = select(ModelParentRow.parent_id)  # unscoped: narrowed by the versions it is compared with
        yield from self._models(ModelVersionRow.id.in_(parents.where(ModelParentRow.version_id == node_id)))

    def _results_of_model(self, node_id: str) -> Iterable[Node]:
        yield from self._jobs((JobRow.subject_version_id == node_id) | (JobRow.base_version_id == node_id))
        yield from self._models(ModelVersionRow.base_version_id == node_id, ModelVersionRow.job_id.is_(None))
        children = select(ModelParentRow.version_id)  # unscoped: narrowed by the versions it is compared with
        yield from self._models(ModelVersionRow.id.in_(children.where(ModelParentRow.parent_id == node_id)))
        yield from self._aliases(ModelAliasRow.version_id == node_id)
        yield from self._endpoints(EndpointRow.model_version_id == node_id)

    def _model_of_alias(self, node_id: str) -> Iterable[Node]:
        pointed = select(ModelAliasRow.version_id).where(ModelAliasRow.id == node_id)  # unscoped: compared with scoped
        return self._models(ModelVersionRow.id.in_(pointed))

    def _model_of_endpoint(self, node_id: str) -> Iterable[Node]:
        served = select(EndpointRow.model_version_id).where(EndpointRow.id == node_id)  # unscoped: as above
        return self._models(ModelVersionRow.id.in_(served))

    def _usage_of_endpoint(self, node_id: str) -> Iterable[Node]:
        query = select(  # unscoped: of an endpoint that was found in scope
            func.count(UsageRecordRow.id),
            func.sum(UsageRecordRow.prompt_tokens + UsageRecordRow.completion_tokens),
        ).where(UsageRecordRow.endpoint_id == node_id)
        requests, tokens = self._session.execute(query).one()
        if requests:
            yield Node("usage", node_id, f"{requests:,} requests", f"{tokens:,} tokens")

    def _datasets(self, *where: Any) -> Iterable[Node]:
        for row in self._rows(scoped(select(DatasetVersionRow), self._caller).where(*where)):
            yield Node("dataset_version", row.id, row.ref, row.state)

    def _jobs(self, *where: Any) -> Iterable[Node]:
        for row in self._rows(scoped(select(JobRow), self._caller).where(*where).order_by(JobRow.id)):
            kind = "evaluation" if row.kind == JobKind.EVALUATION else "job"
            yield Node(kind, row.id, row.id, row.state)

    def _models(self, *where: Any) -> Iterable[Node]:
        query = scoped(select(ModelVersionRow), self._caller).where(*where).order_by(ModelVersionRow.id)
        for row in self._rows(query):
            yield Node("model_version", row.id, row.ref, f"{row.kind}, {row.state}")

    def _aliases(self, *where: Any) -> Iterable[Node]:
        for row in self._rows(scoped(select(ModelAliasRow), self._caller).where(*where)):
            yield Node("alias", row.id, f"{row.points_at.model.project.ref}/{row.points_at.model.name}@{row.name}")

    def _endpoints(self, *where: Any) -> Iterable[Node]:
        query = scoped(select(EndpointRow), self._caller).where(*where).order_by(EndpointRow.id)
        for row in self._rows(query):
            yield Node("endpoint", row.id, row.full_name, f"{row.state}{', production' if row.production else ''}")

    def _rows(self, query: Select[Any]) -> Sequence[Any]:
        """One more than a graph may hold is enough to know that there is more."""
        return self._session.scalars(query.limit(MAX_NODES + 1)).unique().all()


def _known(*ids: str | None) -> list[str]:
    return [one for one in ids if one is not None]
