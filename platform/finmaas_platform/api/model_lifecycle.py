"""Routes of a model version's life: moves, aliases, history, the rules of approval, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from finmaas_core.errors import Corrupt
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.idempotency import OnceDep
from finmaas_platform.api.models import ModelVersionView, show_model_version
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.approvals import ApprovalRulesRow, ModelAliasRow, ModelEventRow
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.approvals import Outcome, Rules, decide_rules, read_rules
from finmaas_platform.domain.model_versions import VersionState
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services import approval_rules, model_lifecycle
from finmaas_platform.services.blobs import to_entries
from finmaas_platform.services.locks import lock_days
from finmaas_platform.services.model_lifecycle import Means
from finmaas_platform.services.models import find_alias, get_model, resolve_model_version, select_aliases
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.signatures import find_trust_root, open_signing_key
from finmaas_registry.manifest import make_manifest
from finmaas_registry.signing import sign_version

router = APIRouter(prefix="/models/{tenant}/{project}/{name}", tags=["models"])
rules_router = APIRouter(prefix="/approval-rules", tags=["models"])
VERSION = "/versions/{selector}"
"""A version by its number or by an alias."""


class MoveRequest(RequestBody):
    """Why it is moved, for the history."""

    note: str = Field("", max_length=2000)


class AliasRequest(RequestBody):
    """Where an alias is to point."""

    version: str = Field(max_length=64, description="Number of a version, or another alias.", examples=["3"])
    note: str = Field("", max_length=2000)


class AliasView(BaseModel):
    """A name that points at a version; `version` rises with each move and is the ETag."""

    name: str
    model: str
    points_at: str
    version_id: str
    state: str
    updated_at: datetime
    updated_by: str
    version: int


class EventView(BaseModel):
    """One move in the life of a version or an alias."""

    id: str
    at: datetime
    action: str
    alias: str | None
    before: str | None
    after: str | None
    note: str
    outcomes: list[dict[str, Any]]
    by: str


class OutcomeView(BaseModel):
    """What a rule says of a version."""

    rule: dict[str, Any]
    passed: bool
    why: str
    why_zh: str


class VerdictView(BaseModel):
    """`passed`: all rules hold. `approver_fault` says why you could not be its approver."""

    version: str
    passed: bool
    outcomes: list[OutcomeView]
    approver_fault: str | None


class RulesView(BaseModel):
    """The rules of a project; version 0 is the default, which nobody has set."""

    project: str
    document: dict[str, Any]
    updated_at: datetime | None
    updated_by: str | None
    version: int


def show_alias(row: ModelAliasRow) -> AliasView:
    """The row as the API shows it."""
    return AliasView(
        name=row.name,
        model=row.points_at.model.name,
        points_at=row.points_at.ref,
        version_id=row.version_id,
        state=row.points_at.state,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        version=row.version,
    )


def show_event(row: ModelEventRow) -> EventView:
    """The row as the API shows it."""
    return EventView(
        id=row.id,
        at=row.at,
        action=row.action,
        alias=row.alias,
        before=row.before,
        after=row.after,
        note=row.note,
        outcomes=row.outcomes,
        by=row.by_name,
    )


def find_version(
    session: Session, caller: Caller, tenant: str, project: str, name: str, selector: str
) -> ModelVersionRow:
    """The version that a path names, by number or alias; NotFound."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    return resolve_model_version(session, caller, owner, f"{name}@{selector}")


Mover = Callable[[Session, Caller, datetime, ModelVersionRow, str, Means], None]


def _prepare(deps: Deps, caller: Caller, verb: str, path: tuple[str, str, str, str]) -> Means:
    """What a move needs, before its transaction: the key may lie in another machine, which no transaction waits for."""
    trust = find_trust_root(deps.settings)
    if verb != "approve":
        return Means(trust)
    with read_unit(deps.sessions) as session:
        row = find_version(session, caller, *path)
        if row.state != VersionState.VALIDATED:
            return Means(trust)
        ref, digest, files = row.ref, row.digest, to_entries(row.files)
    if make_manifest(files).digest != digest:
        raise Corrupt(f"the list of files of {ref} was changed since it was registered; it is not signed")
    return Means(trust, sign_version(open_signing_key(deps.settings), ref, files), lock_days(deps, "model"))


def _add_move(verb: str, move: Mover, summary: str, description: str) -> None:
    """A route that moves a version; all four are alike."""

    def post_move(
        tenant: str,
        project: str,
        name: str,
        selector: str,
        body: MoveRequest,
        caller: CallerDep,
        session: SessionDep,
        deps: DepsDep,
        once: OnceDep,
        if_match: IfMatchDep,
        response: Response,
    ) -> Any:
        means = _prepare(deps, caller, verb, (tenant, project, name, selector))

        def make() -> ModelVersionView:
            row = find_version(session, caller, tenant, project, name, selector)
            check_version(row.revision, if_match)
            move(session, caller, deps.clock.now(), row, body.note, means)
            set_etag(response, row.revision)
            return show_model_version(row)

        return once.run(session, make, status=200)

    post_move.__doc__ = description
    post_move.__name__ = f"{verb}_model_version"
    router.post(f"{VERSION}/{verb}", response_model=ModelVersionView, summary=summary)(post_move)


_add_move(
    "validate",
    model_lifecycle.validate_version,
    "Validate a version",
    "Candidate to validated, where the project's rules hold; 409 names those that do not.",
)
_add_move(
    "approve",
    model_lifecycle.approve_version,
    "Approve a version",
    "Validated to approved, by somebody else than its author; 403 says why you are not, 409 which rules do not hold.",
)
_add_move("reject", model_lifecycle.reject_version, "Reject a version", "Validated back to candidate.")
_add_move(
    "retire",
    model_lifecycle.retire_version,
    "Retire a version",
    "It is not used any more; 409 while an alias or an endpoint does.",
)


@router.get(f"{VERSION}/verdict", summary="What the rules say of a version")
def get_verdict(
    tenant: str, project: str, name: str, selector: str, caller: CallerDep, session: SessionDep, deps: DepsDep
) -> VerdictView:
    """Now, of this version; and whether you could be its approver. Nothing is changed."""
    row = find_version(session, caller, tenant, project, name, selector)
    verdict = model_lifecycle.judge_version(session, caller, row, Means(find_trust_root(deps.settings)))
    return _show_verdict(row, verdict.outcomes, verdict.approver_fault)


@router.post(f"{VERSION}/verdict", summary="Try rules on a version")
def try_rules(
    tenant: str,
    project: str,
    name: str,
    selector: str,
    body: dict[str, Any],
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
) -> VerdictView:
    """Rules that are not stored, in the form in which they are set."""
    row = find_version(session, caller, tenant, project, name, selector)
    person = approval_rules.to_person(session, caller)
    facts = approval_rules.gather_facts(session, caller, row, person, find_trust_root(deps.settings))
    return _show_verdict(row, decide_rules(read_rules(body), facts), None)


@router.get("/history", summary="The history of a model")
def list_history(
    tenant: str,
    project: str,
    name: str,
    caller: CallerDep,
    session: SessionDep,
    version: Annotated[str | None, Query(description="Only of this version, by number or alias.")] = None,
    alias: Annotated[str | None, Query(description="Only of this alias.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[EventView]:
    """Moves of states and aliases, newest first."""
    model = get_model(session, caller, get_project(session, caller, f"{tenant}/{project}"), name)
    row = None if version is None else find_version(session, caller, tenant, project, name, version)
    query = model_lifecycle.select_events(caller, model, row, alias)
    return paginate(session, query, ModelEventRow.id, limit, cursor).view(show_event)


@router.get("/aliases", summary="List the aliases of a model")
def list_aliases(
    tenant: str,
    project: str,
    name: str,
    caller: CallerDep,
    session: SessionDep,
    limit: LimitParam = DEFAULT_LIMIT,
    cursor: CursorParam = None,
) -> Page[AliasView]:
    """In the order of their names."""
    model = get_model(session, caller, get_project(session, caller, f"{tenant}/{project}"), name)
    query = select_aliases(caller, model)
    return paginate(session, query, ModelAliasRow.name, limit, cursor, newest_first=False).view(show_alias)


@router.get("/aliases/{alias}", summary="Show an alias")
def get_alias(
    tenant: str, project: str, name: str, alias: str, caller: CallerDep, session: SessionDep, response: Response
) -> AliasView:
    """Where it points."""
    model = get_model(session, caller, get_project(session, caller, f"{tenant}/{project}"), name)
    row = find_alias(session, caller, model, alias)
    set_etag(response, row.version)
    return show_alias(row)


@router.put("/aliases/{alias}", response_model=AliasView, summary="Point an alias at a version")
def put_alias(
    tenant: str,
    project: str,
    name: str,
    alias: str,
    body: AliasRequest,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    once: OnceDep,
    if_match: IfMatchDep,
    response: Response,
) -> Any:
    """Atomic: whoever asks sees the version before or the one after. `If-Match: "0"` makes a new one only."""

    def make() -> AliasView:
        row = find_version(session, caller, tenant, project, name, body.version)
        moved = model_lifecycle.set_alias(
            session, caller, deps.clock.now(), row.model, alias, row, body.note, expected=if_match
        )
        set_etag(response, moved.version)
        return show_alias(moved)

    return once.run(session, make, status=200)


@router.delete("/aliases/{alias}", status_code=204, summary="Remove an alias")
def delete_alias(
    tenant: str,
    project: str,
    name: str,
    alias: str,
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    if_match: IfMatchDep,
) -> None:
    """What was deployed by it stays."""
    model = get_model(session, caller, get_project(session, caller, f"{tenant}/{project}"), name)
    model_lifecycle.remove_alias(session, caller, deps.clock.now(), model, alias, expected=if_match)


@rules_router.get("/{tenant}/{project}", summary="Show a project's rules of approval")
def get_rules(tenant: str, project: str, caller: CallerDep, session: SessionDep, response: Response) -> RulesView:
    """The default where none were set."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    view = _show_rules(owner.ref, approval_rules.find_rules(session, caller, owner))
    set_etag(response, view.version)
    return view


@rules_router.put("/{tenant}/{project}", summary="Set a project's rules of approval")
def set_rules(
    tenant: str,
    project: str,
    body: dict[str, Any],
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    response: Response,
    if_match: IfMatchDep,
) -> RulesView:
    """The whole document; for tenant-admins and approvers. What is approved already stays so."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    present = approval_rules.find_rules(session, caller, owner)
    check_version(0 if present is None else present.version, if_match)
    row = approval_rules.store_rules(session, caller, deps.clock.now(), owner, body)
    set_etag(response, row.version)
    return _show_rules(owner.ref, row)


def _show_rules(project: str, row: ApprovalRulesRow | None) -> RulesView:
    if row is None:
        document = Rules().model_dump(mode="json")
        return RulesView(project=project, document=document, updated_at=None, updated_by=None, version=0)
    return RulesView(
        project=project,
        document=row.document,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        version=row.version,
    )


def _show_verdict(row: ModelVersionRow, outcomes: Any, fault: str | None) -> VerdictView:
    views = [_show_outcome(outcome) for outcome in outcomes]
    return VerdictView(version=row.ref, passed=all(one.passed for one in views), outcomes=views, approver_fault=fault)


def _show_outcome(outcome: Outcome) -> OutcomeView:
    return OutcomeView(rule=dict(outcome.rule), passed=outcome.passed, why=outcome.why, why_zh=outcome.why_zh)
