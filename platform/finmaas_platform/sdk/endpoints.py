"""Endpoints: putting model versions under a served name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from finmaas_core.errors import Conflict, Unavailable
from finmaas_platform.sdk.objects import FINISHED_ENDPOINT_STATES, Endpoint
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import Transport

OnUpdate = Callable[[Endpoint], None]
POLL_S = 1.0


class Endpoints:
    """`client.endpoints`. Names may be `name` (of the project given) or `tenant/project/name`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[Endpoint]:
        """The endpoints of a project, or all in the caller's sight."""
        return self._http.pages(Endpoint, "/endpoints", project=project)

    def deploy(
        self,
        name: str,
        model: str,
        project: str = DEFAULT_PROJECT,
        *,
        replicas: int = 1,
        engine: Mapping[str, Any] | None = None,
        production: bool = False,
    ) -> Endpoint:
        """Asks for an endpoint that serves a model version; `wait_ready` waits for it. AlreadyExists."""
        body = {
            "project": project,
            "name": name,
            "model": model,
            "replicas": replicas,
            "engine": dict(engine or {}),
            "production": production,
        }
        return Endpoint.model_validate(self._http.write("POST", "/endpoints", body))

    def get(self, name: str, project: str = DEFAULT_PROJECT) -> Endpoint:
        """One endpoint; NotFound."""
        return Endpoint.model_validate(self._http.get(f"/endpoints/{parse_ref(name, project).path}"))

    def update(
        self,
        name: str,
        project: str = DEFAULT_PROJECT,
        *,
        model: str | None = None,
        replicas: int | None = None,
        engine: Mapping[str, Any] | None = None,
        production: bool | None = None,
        if_match: int | None = None,
    ) -> Endpoint:
        """Changes what is given."""
        given = {
            "model": model,
            "replicas": replicas,
            "engine": None if engine is None else dict(engine),
            "production": production,
        }
        change = {key: value for key, value in given.items() if value is not None}
        path = f"/endpoints/{parse_ref(name, project).path}"
        return Endpoint.model_validate(self._http.write("PATCH", path, change, if_match=if_match))

    def delete(self, name: str, project: str = DEFAULT_PROJECT) -> None:
        """Stops serving and removes the endpoint; NotFound."""
        self._http.write("DELETE", f"/endpoints/{parse_ref(name, project).path}")

    def wait_ready(
        self,
        name: str,
        project: str = DEFAULT_PROJECT,
        on_update: OnUpdate | None = None,
        *,
        timeout_s: float | None = 900.0,
        poll_s: float = POLL_S,
    ) -> Endpoint:
        """Returns the endpoint once it answers; Conflict when it failed or stopped, Unavailable after `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            endpoint = self.get(name, project)
            if on_update is not None:
                on_update(endpoint)
            if endpoint.state == "ready":
                return endpoint
            if endpoint.state in FINISHED_ENDPOINT_STATES:
                raise Conflict(
                    f"{endpoint.ref} is {endpoint.state}: {endpoint.reason}; "
                    f"mend the cause, then `finmaas endpoint delete {endpoint.ref}` and deploy again"
                )
            if deadline is not None and time.monotonic() > deadline:
                raise Unavailable(
                    f"{endpoint.ref} is still {endpoint.state} after {timeout_s:.0f} s: {endpoint.reason}; it goes on"
                )
            time.sleep(poll_s)  # the API has no event to wait on
