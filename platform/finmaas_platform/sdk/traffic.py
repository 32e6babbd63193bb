"""Traffic plans of endpoints: split, canary, shadow, fallbacks, sharing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finmaas_platform.sdk.objects import TrafficPlan
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import Transport


class Traffic:
    """`client.traffic`. Names may be `name` (of the project given) or `tenant/project/name`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Iterator[TrafficPlan]:
        """The plans in the caller's sight."""
        return self._http.pages(TrafficPlan, "/traffic")

    def get(self, endpoint: str, project: str = DEFAULT_PROJECT) -> TrafficPlan:
        """The plan of an endpoint; NotFound when it has none."""
        return TrafficPlan.model_validate(self._http.get(self._path(endpoint, project)))

    def set(
        self, endpoint: str, plan: Mapping[str, Any], project: str = DEFAULT_PROJECT, if_match: int | None = None
    ) -> TrafficPlan:
        """Sets the whole plan; NotFound and InvalidSpec name the target that cannot be one."""
        body = self._http.write("PUT", self._path(endpoint, project), dict(plan), if_match=if_match)
        return TrafficPlan.model_validate(body)

    def remove(self, endpoint: str, project: str = DEFAULT_PROJECT) -> None:
        """All requests go to the endpoint itself again."""
        self._http.write("DELETE", self._path(endpoint, project))

    def roll_back(self, endpoint: str, project: str = DEFAULT_PROJECT) -> TrafficPlan:
        """Gives the canary up; Conflict when there is none."""
        return TrafficPlan.model_validate(self._http.write("POST", f"{self._path(endpoint, project)}/rollback"))

    def promote(self, endpoint: str, project: str = DEFAULT_PROJECT) -> TrafficPlan:
        """Sends all requests to what was the canary; Conflict when there is none."""
        return TrafficPlan.model_validate(self._http.write("POST", f"{self._path(endpoint, project)}/promote"))

    @staticmethod
    def _path(endpoint: str, project: str) -> str:
        return f"/traffic/{parse_ref(endpoint, project).path}"
