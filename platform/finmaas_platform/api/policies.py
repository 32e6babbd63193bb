"""Routes of guardrail policies: setting, reading and trying them; and of the proof that an answer came from here."""

from __future__ import annotations

import hmac
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from finmaas_core.text_rules import RULES
from finmaas_platform.api.dependencies import CallerDep, DepsDep, SessionDep
from finmaas_platform.api.etag import IfMatchDep, check_version, set_etag
from finmaas_platform.api.paging import DEFAULT_LIMIT, CursorParam, LimitParam, Page, paginate
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.db.policies import PolicyRow
from finmaas_platform.services import policies
from finmaas_platform.services.projects import get_project
from finmaas_platform.services.provenance import find_proof, read_signing_key, show_public_key
from finmaas_serving.gateway.screen import provenance_key, seal
from finmaas_serving.guard.policy import strict_policy

router = APIRouter(prefix="/policies", tags=["policies"])
provenance_router = APIRouter(prefix="/provenance", tags=["provenance"])
MAX_TEXT_CHARS = 100_000


class PolicyView(BaseModel):
    """The guardrail policy of a project."""

    project: str
    document: dict[str, Any]
    digest: str
    updated_at: datetime
    updated_by: str
    version: int


class RuleView(BaseModel):
    """A rule that policies can use."""

    name: str
    group: str
    label: str
    max_length: int


class TrialRequest(RequestBody):
    """A text to try a policy on: the project's, or the one given."""

    text: str = Field(max_length=MAX_TEXT_CHARS)
    direction: Literal["input", "output"] = "input"
    project: str | None = None
    document: dict[str, Any] | None = Field(None, description="A policy that is not stored; strict when left out.")


class HitView(BaseModel):
    """What a rule found, in characters of the text."""

    rule: str
    action: str
    start: int
    end: int


class TrialView(BaseModel):
    """What the policy does; `text` is null where it lets nothing through."""

    hits: list[HitView]
    text: str | None


class ContentDigest(RequestBody):
    """The SHA-256 of the text of one choice, as the client holds it."""

    index: int = Field(ge=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ProofRequest(RequestBody):
    """The `provenance` of an answer, and digests of the texts it came with. The texts themselves are not asked for."""

    provenance: dict[str, Any]
    content: list[ContentDigest] = Field(max_length=128)


class BatchView(BaseModel):
    """The signed part of a batch."""

    number: int
    root: str
    count: int
    previous: str
    sealed_at: str


class BatchProofView(BaseModel):
    """That the claim is in a signed batch: enough to check it anywhere, with the public key alone."""

    batch: BatchView
    signature: str
    place: int
    path: list[str]


class PublicKeyView(BaseModel):
    """The Ed25519 key that batches are signed with, as PEM."""

    public_key: str


class ProofView(BaseModel):
    """`genuine`: made here and unchanged. `altered`: the text or the claim was changed, or it was not made here."""

    verdict: Literal["genuine", "altered"]
    reason: str
    proof: BatchProofView | None = Field(default=None, description="Null until its batch is sealed.")


def show_policy(row: PolicyRow) -> PolicyView:
    """The row as the API shows it."""
    return PolicyView(
        project=row.project.ref,
        document=row.document,
        digest=row.digest,
        updated_at=row.updated_at,
        updated_by=row.updated_by,
        version=row.version,
    )


@router.get("", summary="List policies")
def list_policies(
    caller: CallerDep, session: SessionDep, limit: LimitParam = DEFAULT_LIMIT, cursor: CursorParam = None
) -> Page[PolicyView]:
    """Of the projects in the caller's sight."""
    query = policies.select_policies(session, caller)
    return paginate(session, query, PolicyRow.project_id, limit, cursor).view(show_policy)


@router.get("/rules", summary="List the built-in rules")
def list_rules(caller: CallerDep) -> list[RuleView]:
    """What a policy can name under `rules`."""
    return [
        RuleView(name=rule.name, group=rule.group, label=rule.label, max_length=rule.max_length)
        for rule in RULES.values()
    ]


@router.get("/presets/strict", summary="Show the strict policy")
def get_strict_policy(caller: CallerDep) -> dict[str, Any]:
    """Personal data masked both ways, secrets and injections refused, promises of returns kept back, answers marked."""
    document: dict[str, Any] = msgspec.to_builtins(strict_policy())
    return document


@router.post("/trials", summary="Try a policy on a text")
def try_policy(body: TrialRequest, caller: CallerDep, session: SessionDep) -> TrialView:
    """Nothing is stored, the text least of all."""
    document = body.document
    if document is None and body.project is not None:
        document = policies.get_policy(session, caller, get_project(session, caller, body.project)).document
    trial = policies.try_policy(
        document if document is not None else get_strict_policy(caller), body.text, body.direction
    )
    hits = [HitView(rule=rule, action=action, start=start, end=end) for rule, action, start, end in trial.hits]
    return TrialView(hits=hits, text=trial.text)


@router.get("/{tenant}/{project}", summary="Show a project's policy")
def get_policy(tenant: str, project: str, caller: CallerDep, session: SessionDep, response: Response) -> PolicyView:
    """404 when it has none."""
    row = policies.get_policy(session, caller, get_project(session, caller, f"{tenant}/{project}"))
    set_etag(response, row.version)
    return show_policy(row)


@router.put("/{tenant}/{project}", summary="Set a project's policy")
def set_policy(
    tenant: str,
    project: str,
    body: dict[str, Any],
    caller: CallerDep,
    session: SessionDep,
    deps: DepsDep,
    response: Response,
    if_match: IfMatchDep,
) -> PolicyView:
    """The whole document; for tenant-admins and approvers. Gateways that are connected follow within a second."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    if if_match is not None:
        check_version(policies.get_policy(session, caller, owner).version, if_match)
    row = policies.store_policy(session, caller, deps.clock.now(), owner, body)
    session.flush()
    set_etag(response, row.version)
    return show_policy(row)


@router.delete("/{tenant}/{project}", status_code=204, summary="Remove a project's policy")
def remove_policy(tenant: str, project: str, caller: CallerDep, session: SessionDep, deps: DepsDep) -> None:
    """Nothing of the project is screened any more."""
    owner = get_project(session, caller, f"{tenant}/{project}")
    policies.remove_policy(session, caller, deps.clock.now(), owner)


@provenance_router.post("/proofs", summary="Check where an answer came from")
def prove(body: ProofRequest, caller: CallerDep, session: SessionDep, deps: DepsDep) -> ProofView:
    """Whether a gateway of this installation sealed the claim, and whether the texts are the ones it sealed."""
    claim = dict(body.provenance)
    mac = claim.pop("mac", None)
    expected = seal(provenance_key(deps.secrets.pepper.encode()), claim)
    if not isinstance(mac, str) or not hmac.compare_digest(mac.encode(), expected.encode()):
        return ProofView(verdict="altered", reason="no gateway of this installation sealed this claim as it stands")
    if claim.get("content") != [item.model_dump() for item in sorted(body.content, key=lambda item: item.index)]:
        return ProofView(verdict="altered", reason="the claim is genuine, but the text is not the one it was made for")
    found = find_proof(session, claim)
    proof = None if found is None else BatchProofView.model_validate(asdict(found))
    return ProofView(verdict="genuine", reason="sealed by a gateway of this installation, and unchanged", proof=proof)


@provenance_router.get("/key", summary="Show the public key of provenance")
def get_provenance_key(caller: CallerDep, deps: DepsDep) -> PublicKeyView:
    """What others need to check proofs without this platform."""
    return PublicKeyView(public_key=show_public_key(read_signing_key(deps.settings.paths)))
