"""Routes of lineage, of what made a version, and of its card."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, set_etag
from finmaas_platform.api.model_lifecycle import VERSION, find_version
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.approvals import ModelCardRow
from finmaas_platform.domain.cards import Language
from finmaas_platform.domain.lineage import MAX_DEPTH, Direction, Graph
from finmaas_platform.services import cards
from finmaas_platform.services.lineage import get_lineage

router = APIRouter(prefix="/lineage", tags=["lineage"])
model_router = APIRouter(prefix="/models/{tenant}/{project}/{name}", tags=["models"])
DirectionParam = Annotated[
    Literal["up", "down", "both"], Query(description="up: what it came from; down: what came of it.")
]
DepthParam = Annotated[int, Query(ge=1, le=MAX_DEPTH, description="Steps away from it at most.")]
LanguageParam = Annotated[Language, Query(description="en or zh.")]
MAX_CARD_CHARS = 200_000


class NodeView(BaseModel):
    """One thing in the graph; `key` is what edges name it by."""

    key: str
    kind: str = Field(examples=["model_version"])
    id: str
    ref: str
    note: str


class EdgeView(BaseModel):
    """`result` came from `origin`."""

    origin: str
    result: str


class GraphView(BaseModel):
    """What a thing came from and what came of it; `truncated` when there is more than is shown."""

    root: str
    nodes: list[NodeView]
    edges: list[EdgeView]
    truncated: bool


class CardView(BaseModel):
    """A card; edition 0 is the generated one."""

    version: str
    language: Language
    edition: int
    text: str
    at: datetime | None
    by: str | None


class CardRequest(RequestBody):
    """The text of a new edition, as Markdown."""

    text: str = Field(min_length=1, max_length=MAX_CARD_CHARS)


def show_graph(graph: Graph) -> GraphView:
    """The graph as the API shows it."""
    return GraphView(
        root=graph.root.key,
        nodes=[
            NodeView(key=node.key, kind=node.kind, id=node.id, ref=node.ref, note=node.note) for node in graph.nodes
        ],
        edges=[EdgeView(origin=origin, result=result) for origin, result in graph.edges],
        truncated=graph.truncated,
    )


def show_edition(version: str, row: ModelCardRow) -> CardView:
    """The row as the API shows it."""
    return CardView(
        version=version,
        language="zh" if row.language == "zh" else "en",
        edition=row.number,
        text=row.text,
        at=row.at,
        by=row.by,
    )


@router.get("/{kind}/{node_id}", summary="Where a thing comes from, and what came of it")
def get_node_lineage(
    kind: str,
    node_id: str,
    caller: CallerDep,
    session: SessionDep,
    direction: DirectionParam = "both",
    depth: DepthParam = MAX_DEPTH,
) -> GraphView:
    """Kinds are dataset_version, job, evaluation, model_version, alias and endpoint; ids are those of the objects."""
    return show_graph(get_lineage(session, caller, kind, node_id, _directions(direction), depth))


@model_router.get(f"{VERSION}/lineage", summary="The lineage of a version")
def get_version_lineage(
    tenant: str,
    project: str,
    name: str,
    selector: str,
    caller: CallerDep,
    session: SessionDep,
    direction: DirectionParam = "both",
    depth: DepthParam = MAX_DEPTH,
) -> GraphView:
    """From data to endpoints and their usage."""
    row = find_version(session, caller, tenant, project, name, selector)
    return show_graph(get_lineage(session, caller, "model_version", row.id, _directions(direction), depth))


@model_router.get(f"{VERSION}/materials", summary="What made a version")
def get_materials(
    tenant: str, project: str, name: str, selector: str, caller: CallerDep, session: SessionDep
) -> dict[str, Any]:
    """Code, packages, data, base, parameters, seed, machine, as its job told; empty for one that was imported."""
    return find_version(session, caller, tenant, project, name, selector).materials


@model_router.get(f"{VERSION}/card", summary="The card of a version")
def get_card(
    tenant: str,
    project: str,
    name: str,
    selector: str,
    caller: CallerDep,
    session: SessionDep,
    response: Response,
    language: LanguageParam = "en",
) -> CardView:
    """The newest edition, else the one that is generated from what is known."""
    row = find_version(session, caller, tenant, project, name, selector)
    found = cards.find_edition(session, caller, row, language)
    set_etag(response, 0 if found is None else found.number)
    if found is not None:
        return show_edition(row.ref, found)
    text = cards.generate_card(session, caller, row, language)
    return CardView(version=row.ref, language=language, edition=0, text=text, at=None, by=None)


@model_router.put(f"{VERSION}/card", summary="Write a new edition of a card")
def put_card(
    tenant: str,
    project: str,
    name: str,
    selector: str,
    body: CardRequest,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    if_match: IfMatchDep,
    response: Response,
    language: LanguageParam = "en",
) -> CardView:
    """Earlier editions stay."""
    row = find_version(session, caller, tenant, project, name, selector)
    edition = cards.store_card(session, caller, deps.clock.now(), row, language, body.text, if_match)
    set_etag(response, edition.number)
    return show_edition(row.ref, edition)


@model_router.get(f"{VERSION}/card/editions", summary="The editions of a card")
def list_editions(
    tenant: str,
    project: str,
    name: str,
    selector: str,
    caller: CallerDep,
    session: SessionDep,
    language: LanguageParam = "en",
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[CardView]:
    """Newest first."""
    row = find_version(session, caller, tenant, project, name, selector)
    query = cards.select_editions(caller, row, language)
    page = paginate(session, query, ModelCardRow.number, limit, cursor)
    return page.view(lambda edition: show_edition(row.ref, edition))


def _directions(direction: str) -> Sequence[Direction]:
    if direction == "both":
        return ("up", "down")
    return ("up",) if direction == "up" else ("down",)
