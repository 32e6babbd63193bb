"""Endpoints: their states, and the one plan that writes Serve's whole document.

Pure: no clock, session, client or setting is met here. Serve's PUT deletes each application that it does not name, so
there is one plan for all endpoints of a cluster; it asks for a PUT only when what is wanted differs from what runs.

    pending ─► starting ◄─► ready      back to starting: replicas gone, or a changed model
                   ▲          │
                   └► failed ◄┘        Serve gave up; a change of the endpoint, or Serve itself, tries again
    every state ─► stopped             kept as history; the name is free again
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from finmaas_platform.cluster.port import ApplicationState, ObservedApplication, ServeApplication
from finmaas_platform.domain.jobs import shorten

IMPORT_PATH = "finmaas_serving.llm_app:build_app"
PUT_AGAIN_S = 15.0
"""The same document is not put again within this time: Serve needs a moment to show what it was told."""
POLL_S = 1.0
IDLE_POLL_S = 2.0


class EndpointState(StrEnum):
    """Where an endpoint stands."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


_S = EndpointState
TRANSITIONS: Mapping[EndpointState, frozenset[EndpointState]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.READY, _S.FAILED, _S.STOPPED}),
    _S.STARTING: frozenset({_S.READY, _S.FAILED, _S.STOPPED}),
    _S.READY: frozenset({_S.STARTING, _S.FAILED, _S.STOPPED}),
    _S.FAILED: frozenset({_S.STARTING, _S.READY, _S.STOPPED}),
    _S.STOPPED: frozenset(),
}


@dataclass(frozen=True)
class Endpoint:
    """An endpoint as the plan sees it; `model_name` is the name the engine serves, `tenant/project/name`."""

    id: str
    model_name: str
    model_version_id: str
    state: EndpointState
    reason: str = ""
    replicas: int = 1
    ready_replicas: int = 0
    engine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EndpointPlan:
    """The state, reason and count of replicas that an endpoint should show now."""

    endpoint_id: str
    state: EndpointState
    reason: str
    ready_replicas: int


@dataclass(frozen=True)
class LastPut:
    """The document that was put last: its digest, and when."""

    digest: str
    at: datetime


@dataclass(frozen=True)
class ServePlan:
    """`document` is what to put, whole; None: nothing to put."""

    document: tuple[ServeApplication, ...] | None
    endpoints: tuple[EndpointPlan, ...]
    next_look_s: float


def plan_serve(
    endpoints: Sequence[Endpoint],
    observed: Mapping[str, ObservedApplication] | None,
    last_put: LastPut | None,
    now: datetime,
) -> ServePlan:
    """The plan of one cluster: `endpoints` are all that are not stopped; `observed` is None when it does not answer."""
    if observed is None:
        states = tuple(_plan_absent(endpoint) for endpoint in endpoints)
        return ServePlan(None, states, POLL_S)
    wanted = tuple(make_application(endpoint) for endpoint in sorted(endpoints, key=lambda e: e.id))
    put = _differs(wanted, observed) and not _is_recent(wanted, last_put, now)
    states = tuple(plan_endpoint(endpoint, observed.get(endpoint.id)) for endpoint in endpoints)
    moving = put or any(state.state is not EndpointState.READY for state in states)
    return ServePlan(wanted if put else None, states, POLL_S if moving else IDLE_POLL_S)


def make_application(endpoint: Endpoint) -> ServeApplication:
    """The Serve application of an endpoint; `finmaas_serving.llm_app` reads these arguments."""
    return ServeApplication(
        name=endpoint.id,
        import_path=IMPORT_PATH,
        args={
            "endpoint_id": endpoint.id,
            "model_version_id": endpoint.model_version_id,
            "model_name": endpoint.model_name,
            "replicas": endpoint.replicas,
            "engine": dict(endpoint.engine),
        },
    )


def plan_endpoint(endpoint: Endpoint, application: ObservedApplication | None) -> EndpointPlan:
    """What an endpoint shows, given what the cluster (which answers) says of its application."""
    if application is None or application.state is ApplicationState.DELETING:
        return _plan_missing(endpoint)
    if canonical(application.args) != canonical(make_application(endpoint).args):
        return EndpointPlan(endpoint.id, EndpointState.STARTING, "a change is being rolled out", 0)
    ready = min(len(application.replicas), endpoint.replicas)
    return _plan_application(endpoint, application, ready)


def _plan_application(endpoint: Endpoint, application: ObservedApplication, ready: int) -> EndpointPlan:
    message = shorten(application.message)
    match application.state:
        case ApplicationState.FAILED:
            reason = f"the engine could not start: {message or 'see the logs of the cluster'}"
            return EndpointPlan(endpoint.id, EndpointState.FAILED, reason, 0)
        case ApplicationState.RUNNING if ready > 0:
            reason = f"{ready} of {endpoint.replicas} replicas answer"
            return EndpointPlan(endpoint.id, EndpointState.READY, reason, ready)
        case ApplicationState.UNHEALTHY:
            reason = f"the cluster restarts a replica: {message or 'its health check failed'}"
            state = EndpointState.READY if ready > 0 else EndpointState.STARTING
            return EndpointPlan(endpoint.id, state, reason, ready)
    if endpoint.state is EndpointState.READY and ready > 0:
        reason = f"{ready} of {endpoint.replicas} replicas answer; the cluster brings up the rest"
        return EndpointPlan(endpoint.id, EndpointState.READY, reason, ready)
    return EndpointPlan(endpoint.id, EndpointState.STARTING, "the engine loads the model", 0)


def _plan_missing(endpoint: Endpoint) -> EndpointPlan:
    if endpoint.state in (EndpointState.READY, EndpointState.FAILED):
        reason = "the cluster was restarted; the endpoint is deployed again"
        return EndpointPlan(endpoint.id, EndpointState.STARTING, reason, 0)
    keeps = endpoint.state is EndpointState.STARTING and endpoint.reason
    return EndpointPlan(endpoint.id, EndpointState.STARTING, endpoint.reason if keeps else "handed to the cluster", 0)


def _plan_absent(endpoint: Endpoint) -> EndpointPlan:
    """While the cluster does not answer, states stay: what served may still serve, and the gateway sees that itself."""
    if endpoint.state is EndpointState.READY:
        reason = "the cluster does not answer; its replicas may still serve"
    else:
        reason = "the cluster does not answer; the endpoint is deployed when it is back"
    return EndpointPlan(endpoint.id, endpoint.state, reason, endpoint.ready_replicas)


def _differs(wanted: Sequence[ServeApplication], observed: Mapping[str, ObservedApplication]) -> bool:
    running = {name for name, app in observed.items() if app.state is not ApplicationState.DELETING}
    if {application.name for application in wanted} != running:
        return True
    return any(canonical(app.args) != canonical(observed[app.name].args) for app in wanted)


def _is_recent(wanted: Sequence[ServeApplication], last_put: LastPut | None, now: datetime) -> bool:
    if last_put is None or last_put.digest != digest_of(wanted):
        return False
    return now - last_put.at < timedelta(seconds=PUT_AGAIN_S)


def digest_of(document: Sequence[ServeApplication]) -> str:
    """A digest of the whole document, equal exactly when the documents are."""
    text = canonical([[app.name, app.import_path, dict(app.args)] for app in document])
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: Any) -> str:
    """A JSON value as text that is equal exactly when the values are, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=dict)
