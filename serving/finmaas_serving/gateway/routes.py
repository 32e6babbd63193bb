"""Which path is what, and the answers that need no engine: models, health."""

from __future__ import annotations

import hmac
from urllib.parse import unquote

import msgspec

from finmaas_core.errors import FinmaasError, NotAuthenticated
from finmaas_serving.gateway import errors, wire
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.errors import Problem
from finmaas_serving.gateway.exposition import CONTENT_TYPE, expose
from finmaas_serving.gateway.forward import methods_of
from finmaas_serving.gateway.router import resolve, visible_models
from finmaas_serving.gateway.shapes import SHAPES
from finmaas_serving.gateway.snapshot import Key, Route

RESPONSES = "/v1/responses/"
MODELS = "/v1/models"
HEALTH = frozenset({"/healthz", "/readyz"})
METRICS = "/metrics"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def check_path(method: str, path: str) -> Problem | None:
    """Why this method and path are not served; None when they are."""
    if path in SHAPES:
        allow: tuple[str, ...] = ("POST",)
    elif path in HEALTH or path in (MODELS, METRICS) or path.startswith(MODELS + "/"):
        allow = ("GET", "HEAD")
    elif (methods := methods_of(path)) is not None:
        allow = methods
    elif path.startswith(RESPONSES):
        return errors.not_stored(path)
    else:
        return errors.unknown_path(path)
    return None if method in allow else errors.wrong_method(method, path, ", ".join(allow))


def needs_key(path: str) -> bool:
    return path.startswith("/v1/")


def check_metrics_token(gateway: Gateway, header: bytes | None) -> Problem | None:
    """Metrics name endpoints and projects, so they want a token of their own (secrets/metrics.token)."""
    wanted = f"Bearer {gateway.metrics_token}".encode()
    if gateway.metrics_token and header is not None and hmac.compare_digest(header, wanted):
        return None
    return errors.problem_of(NotAuthenticated("metrics want the token of secrets/metrics.token as their bearer"))


def answer_locally(gateway: Gateway, key: Key | None, path: str) -> tuple[int, bytes, bytes]:
    """Status, content type and body of a path that is not a call."""
    if path == METRICS:
        return 200, CONTENT_TYPE, expose({gateway.name: gateway.report()})
    status, body = _answer_json(gateway, key, path)
    return status, wire.JSON, body


def _answer_json(gateway: Gateway, key: Key | None, path: str) -> tuple[int, bytes]:
    if path == "/healthz":
        return 200, b'{"status":"ok"}'
    if path == "/readyz":
        ready, report = gateway.readiness()
        return 200 if ready else 503, msgspec.json.encode(report)
    assert key is not None
    if path == MODELS:
        data = [_model(name, route) for name, route in visible_models(gateway.snapshots.current, key).items()]
        return 200, msgspec.json.encode({"object": "list", "data": data})
    name = unquote(path.removeprefix(MODELS + "/"))
    try:
        route = resolve(gateway.snapshots.current, key, name)
    except FinmaasError as error:
        problem = errors.problem_of(error)
        return problem.status, problem.body()
    return 200, msgspec.json.encode(_model(name, route))


def _model(name: str, route: Route) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": created_at(route.endpoint_id),
        "owned_by": route.name.rpartition("/")[0],
        "max_model_len": route.max_model_len,
    }


def created_at(object_id: str) -> int:
    """When an object was made, in epoch seconds: the first 48 bits of an id are its milliseconds; 0 for other ids."""
    digits = object_id.rpartition("_")[2]
    if len(digits) != 26 or any(char not in _ALPHABET for char in digits):
        return 0
    value = 0
    for char in digits:
        value = value << 5 | _ALPHABET.index(char)
    return (value >> 82) // 1000
