"""Binds guardrails to calls: the compiled guard of each project, and what one call is screened by.

A policy that this gateway cannot read closes its project's door: nothing passes unscreened.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from finmaas_core.errors import FinmaasError, Unavailable
from finmaas_serving.gateway.body import CallBody, read_body
from finmaas_serving.guard.answer import AnswerScreen
from finmaas_serving.guard.policy import Guard, read_policy
from finmaas_serving.guard.request import screen_request

if TYPE_CHECKING:
    from finmaas_serving.gateway.snapshot import Route

EMBEDDINGS = "/v1/embeddings"
_PURPOSE = b"finmaas provenance v1"
_NOT_FOR_READERS = frozenset(
    ("tools", "functions", "guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs")
)


@dataclass(frozen=True, slots=True)
class BrokenGuard:
    """Stands for a policy that could not be compiled."""

    why: str


class GuardBook:
    """Guards compiled once for each policy, however many snapshots name it."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Guard | BrokenGuard] = {}

    def compile_all(self, policies: Iterable[tuple[str, str, bytes]]) -> dict[str, Guard | BrokenGuard]:
        """By project id, from (project id, digest, document); forgets what no project uses any more."""
        fresh: dict[str, Guard | BrokenGuard] = {}
        by_project: dict[str, Guard | BrokenGuard] = {}
        for project_id, digest, document in policies:
            guard = fresh.get(digest) or self._by_digest.get(digest) or _compile(bytes(document))
            fresh[digest] = by_project[project_id] = guard
        self._by_digest = fresh
        return by_project


def _compile(document: bytes) -> Guard | BrokenGuard:
    try:
        return Guard(read_policy(msgspec.json.decode(document)))
    except (FinmaasError, msgspec.DecodeError, RecursionError) as error:
        return BrokenGuard(str(error))


def provenance_key(pepper: bytes) -> bytes:
    """The key under which answers are sealed; the control plane derives the same."""
    return hmac.digest(pepper, _PURPOSE, "sha256")


def seal(key: bytes, claim: dict[str, Any]) -> str:
    """The authentication code of a claim, over its JSON in the order of its names."""
    return hmac.new(key, msgspec.json.encode(claim, order="deterministic"), hashlib.sha256).hexdigest()


def screen_call(
    guard: Guard | BrokenGuard, key: bytes, path: str, request_id: str, route: Route, raw: bytes, body: CallBody
) -> tuple[CallBody, AnswerScreen | None]:
    """The body to send and the screen for its answer (None: the answer passes as it is).

    Raises what screening a request raises; Unavailable when the project's policy cannot be read.
    """
    if isinstance(guard, BrokenGuard):
        raise Unavailable(
            f"the guardrail policy of this project cannot be used by this gateway ({guard.why}); nothing is let "
            "through until it can: set the policy anew, or update the gateway"
        )
    screened, substitutions = screen_request(guard, path, raw, body.fields)
    if screened is not None:
        body = read_body(screened)
    restores = bool(substitutions.by_name) and guard.restoring is not None
    if path == EMBEDDINGS or not (guard.touches_answers or restores):
        return body, None

    def sealed(hashes: dict[int, str]) -> dict[str, Any]:
        claim: dict[str, Any] = {
            "ai_generated": True,
            "generator": "finmaas",
            "model": route.name,
            "model_version": route.model_version,
            "request_id": request_id,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "content": [{"index": index, "sha256": digest} for index, digest in sorted(hashes.items())],
        }
        return {**claim, "mac": seal(key, claim)}

    return body, AnswerScreen(guard, substitutions.by_name, is_text=_is_for_readers(body), seal=sealed)


def _is_for_readers(body: CallBody) -> bool:
    """Whether a visible mark may stand in the answer: not in what a program reads."""
    if body.fields.keys() & _NOT_FOR_READERS:
        return False
    wanted = body.fields.get("response_format")
    return wanted is None or bytes(wanted).strip() in (b"null", b'{"type":"text"}', b'{"type": "text"}')
