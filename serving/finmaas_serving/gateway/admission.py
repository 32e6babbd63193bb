"""What can be refused of a request before its body is read. No socket here."""

from __future__ import annotations

import time

import httptools

from finmaas_core.errors import FinmaasError
from finmaas_serving.gateway import errors, routes
from finmaas_serving.gateway.context import Gateway
from finmaas_serving.gateway.errors import Problem, problem_of
from finmaas_serving.gateway.forward import methods_of, target_of
from finmaas_serving.gateway.request import Request
from finmaas_serving.gateway.router import authorise, check_scope
from finmaas_serving.gateway.shapes import SHAPES

MAX_HEADERS = 128


def take_credential(request: Request, value: bytes, *, again: bool) -> None:
    """One credential counts. `again`: the same one may have been sent in the other header too."""
    if request.authorization is None or (again and request.authorization == value):
        request.authorization = value
    else:
        request.problem = errors.bad_http("there are two credentials in the request; send one Authorization header")


def check_head(
    gateway: Gateway, request: Request, version: str, url: bytes, peer: str, size_bytes: int, headers: int
) -> Problem | None:
    """Notes path, key, target and limit of a request whose head is read, or says why it is refused."""
    if version not in ("1.0", "1.1"):
        return errors.bad_http(f"HTTP/{version} is not spoken here; use HTTP/1.1", 505)
    if size_bytes > gateway.limits.head_bytes or headers > MAX_HEADERS:
        return long_head(gateway)
    try:
        parsed = httptools.parse_url(url)
        request.path = (parsed.path or b"").decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
        return errors.bad_http("the request's URL cannot be read")
    problem = routes.check_path(request.method, request.path)
    if problem is not None:
        return problem
    if request.path == routes.METRICS:
        return routes.check_metrics_token(gateway, request.authorization)
    if routes.needs_key(request.path) and (problem := _find_key(gateway, request, peer)) is not None:
        return problem
    request.limit = gateway.limits.body_bytes
    if request.path not in SHAPES and methods_of(request.path) is not None:
        request.target = target_of(request.path, parsed.query)
    return None


def _find_key(gateway: Gateway, request: Request, peer: str) -> Problem | None:
    try:
        snapshot, now = gateway.snapshots.current, time.time()
        request.key = authorise(
            snapshot,
            gateway.pepper,
            request.authorization,
            now,
            lambda token: gateway.people.find_key(snapshot, token, request.project, now),
        )
        gateway.snapshots.check_fresh(request.key.tenant_id)
        check_scope(request.key, request.path, peer)
    except FinmaasError as error:
        return problem_of(error)
    if request.key.line:
        request.id = request.key.line  # a line of a batch is called the same in every attempt
    return None


def long_head(gateway: Gateway) -> Problem:
    """A 431 that names the limit, in bytes."""
    limit = gateway.limits.head_bytes
    return errors.bad_http(f"the head of the request is longer than {limit} bytes", 431, "headers_too_large")
