"""Binds guardrails to calls: the compiled guard of each project, and what one call is screened by.

A policy that this gateway cannot read closes its project's door: nothing passes unscreened.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from finmaas_core.errors import FinmaasError, Unavailable
from finmaas_serving.guard.answer import Seal
from finmaas_serving.guard.policy import Guard, read_policy
from finmaas_serving.guard.request import screen_request

if TYPE_CHECKING:
    from finmaas_serving.gateway.body import CallBody
    from finmaas_serving.gateway.course import Course
    from finmaas_serving.gateway.shapes import Screen, Shape
    from finmaas_serving.gateway.snapshot import Route

_PURPOSE: Final = b"finmaas provenance v1"
_BLOCK_BYTES: Final = 64
_NO_NAMES: Final[dict[str, str]] = {}
CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class BrokenGuard:
    """Stands for a policy that could not be compiled."""

    why: str


class GuardBook:
    """Guards compiled once for each policy, however many snapshots name it."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Guard | BrokenGuard] = {}

    def compile_all(self, policies: Iterable[tuple[str, str, msgspec.Raw]]) -> dict[str, Guard | BrokenGuard]:
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
    return hmac.digest(key, msgspec.json.encode(claim, order="deterministic"), "sha256").hex()


def screen_call(
    guard: Guard | BrokenGuard,
    key: bytes,
    shape: Shape,
    request_id: str,
    route: Route | Course,
    raw: bytes,
    body: CallBody,
) -> tuple[CallBody, Screen | None]:
    """The body to send and the screen for its answer (None: the answer passes as it is).

    Raises what screening a request raises; Unavailable when the project's policy cannot be read.
    """
    if isinstance(guard, BrokenGuard):
        raise Unavailable(
            f"the guardrail policy of this project cannot be used by this gateway ({guard.why}); nothing is let "
            "through until it can: set the policy anew, or update the gateway"
        )
    names = _NO_NAMES
    usual = body.usual is not None and shape.path == CHAT
    if guard.reads_requests and not (usual and guard.input.scanner.is_plain(raw)):
        screened, substitutions = screen_request(guard, shape.path, raw, body.fields, plain=body.plain)
        names = substitutions.by_name
        body.usual = None  # what stands in a body twice is sent as it was read: once
        if screened is not None:
            body = shape.read(screened)
    restores = bool(names) and guard.restoring is not None
    if shape.screen is None or not (guard.touches_answers or restores):
        return body, None

    is_text = usual or shape.is_for_readers(body.fields)
    seal = Provenance(key, route, request_id)
    return body, shape.screen(guard, names, is_text=is_text, seal=seal)


class Provenance(Seal):
    """Of the answers to one request."""

    __slots__ = ("_key", "_request_id", "_route")

    def __init__(self, key: bytes, route: Route | Course, request_id: str) -> None:
        self._key = key
        self._route = route
        self._request_id = request_id

    def claim(self, hashes: dict[int, str]) -> tuple[bytes, str]:
        """The sealed claim as JSON, in the order of its names, as `seal` reads it; its digest without the seal."""
        return _make_provenance(self._key, self._route, self._request_id, hashes)


def _make_provenance(key: bytes, route: Route | Course, request_id: str, hashes: dict[int, str]) -> tuple[bytes, str]:
    if len(hashes) == 1:
        ((index, digest),) = hashes.items()
        content = f'{{"index":{index},"sha256":"{digest}"}}'
    else:
        content = ",".join([f'{{"index":{index},"sha256":"{digest}"}}' for index, digest in sorted(hashes.items())])
    names = _names(route.name, route.model_version)
    claim = f'{{"ai_generated":true,"at":"{_clock.now()}","content":[{content}],{names}"request_id":"{request_id}"}}'
    data = claim.encode()
    return b'%b,"mac":"%b"}' % (data[:-1], _sealer(key)(data).encode()), hashlib.sha256(data).hexdigest()


class Sealer:
    """HMAC-SHA256 (RFC 2104) under one key: its two pads are hashed once, which halves the cost of a short text."""

    def __init__(self, key: bytes) -> None:
        block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, data: bytes) -> str:
        """The code, as hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(data)
        outer.update(inner.digest())
        return outer.hexdigest()


_sealer: Final = lru_cache(maxsize=4)(Sealer)


@lru_cache(maxsize=4096)
def _names(model: str, version: str | None) -> str:
    """What is said of who generated it. References hold nothing that JSON escapes."""
    told = "null" if version is None else f'"{version}"'
    return f'"generator":"finmaas","model":"{model}","model_version":{told},'


class _Clock:
    """The time of day as text, made once a second."""

    def __init__(self) -> None:
        self._second, self._text = 0, ""

    def now(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, datetime.fromtimestamp(second, UTC).isoformat()
        return self._text


_clock: Final = _Clock()
