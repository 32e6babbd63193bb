"""Requests made up from the API's own description, right and wrong ones: no answer may be a fault of ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from finmaas_platform.deps import Deps

Headers = dict[str, str]
EXAMPLES = 4
LIMIT_S = 75
SLOW = ("wait_s", "follow", "timeout_s")  # what makes an answer wait


@pytest.fixture
def credentials(admin: Headers, gateway: Headers, node: Headers, client: TestClient, deps: Deps) -> dict[str, Headers]:
    """Who may ask: by the beginning of the path."""
    body = {"project": "default/default", "name": "k"}
    key = client.post("/api/v1/api-keys", json=body, headers=admin).json()["id"]
    return {"/api/v1/gateway": {**gateway, "X-Finmaas-Key": key}, "/api/v1/node": node, "/api/v1/": admin}


@pytest.mark.timeout(180)
def test_no_request_meets_a_fault_of_ours(app: FastAPI, client: TestClient, credentials: dict[str, Headers]) -> None:
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.config.generation.modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    started, tried = time.monotonic(), 0
    faults: list[str] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        headers = next(value for prefix, value in credentials.items() if operation.full_path.startswith(prefix))
        send = _sender(client, headers, faults)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _try(operation, mode, send)
        tried += 1
        if time.monotonic() - started > LIMIT_S:  # a slow machine: what is left is tried on the next one
            break
    assert tried > 60
    assert not faults, "\n".join(faults)


def _try(operation: Any, mode: GenerationMode, send: Callable[[Any], None]) -> None:
    strategy = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=strategy)
    def run(case: Any) -> None:
        send(case)

    with contextlib.suppress(Unsatisfiable):  # an operation without input has no wrong input
        run()


def _sender(client: TestClient, headers: Headers, faults: list[str]) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        for name in SLOW:
            if case.query and name in case.query:
                case.query[name] = "0"
        request = case.as_transport_kwargs(base_url="http://testserver")
        kept = {name: value for name, value in request["headers"].items() if name.lower() != "authorization"}
        sent = {**{name: str(value) for name, value in kept.items()}, **headers}
        body = {name: request[name] for name in ("json", "data", "files") if request.get(name) is not None}
        if isinstance(body.get("data"), bytes | str):
            body["content"] = body.pop("data")
        try:
            answer = client.request(
                request["method"], request["url"], params=request.get("params"), headers=sent, **body
            )
        except (ValueError, TypeError, AttributeError):  # the test's client cannot write such a request
            return
        if answer.status_code >= 500 and answer.status_code not in (503, 507):
            faults.append(
                f"{answer.status_code} {request['method']} {request['url']} {str(body)[:300]} {answer.text[:300]}"
            )

    return send
