"""API keys: a project's credential at the gateway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finmaas_platform.sdk.objects import ApiKey
from finmaas_platform.sdk.transport import Transport


class ApiKeys:
    """`client.keys`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, project: str | None = None) -> Iterator[ApiKey]:
        """Keys without their secrets."""
        return self._http.pages(ApiKey, "/api-keys", project=project)

    def create(
        self, project: str, name: str, models: Sequence[str] = ("*",), expires_in_s: int | None = None
    ) -> ApiKey:
        """A new key; the answer is the only place where its secret ever shows. `models` are endpoint names or `*`."""
        body = {"project": project, "name": name, "models": list(models), "expires_in_s": expires_in_s}
        return ApiKey.model_validate(self._http.write("POST", "/api-keys", body))

    def revoke(self, key_id: str) -> ApiKey:
        """Ends a key; gateways refuse it as soon as their next snapshot is there."""
        return ApiKey.model_validate(self._http.write("POST", f"/api-keys/{key_id}/revoke"))
