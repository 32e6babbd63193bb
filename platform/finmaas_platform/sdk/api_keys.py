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
        self,
        project: str,
        name: str,
        models: Sequence[str] = ("*",),
        expires_in_s: int | None = None,
        methods: Sequence[str] = ("*",),
        networks: Sequence[str] = (),
        priority: str = "interactive",
    ) -> ApiKey:
        """A new key; the answer is the only place where its secret ever shows.

        `models` are endpoint names or `*`, `methods` such as `chat.completions` or `*`, `networks` CIDR blocks;
        requests of a key with priority `batch` wait for all others.
        """
        scope = {"models": list(models), "methods": list(methods), "networks": list(networks)}
        body = {"project": project, "name": name, **scope, "expires_in_s": expires_in_s, "priority": priority}
        return ApiKey.model_validate(self._http.write("POST", "/api-keys", body))

    def rotate(self, key_id: str, overlap_s: int = 86_400) -> ApiKey:
        """A new key of the same scope; the old one works for `overlap_s` seconds more."""
        return ApiKey.model_validate(self._http.write("POST", f"/api-keys/{key_id}/rotate", {"overlap_s": overlap_s}))

    def revoke_many(
        self, project: str | None = None, older_than_s: int | None = None, *, dry_run: bool = False
    ) -> Sequence[ApiKey]:
        """Ends all keys of a project, of an age, or both; with `dry_run` only tells which."""
        body = {"project": project, "older_than_s": older_than_s, "dry_run": dry_run}
        return [ApiKey.model_validate(key) for key in self._http.write("POST", "/api-keys/revoke", body)]

    def revoke(self, key_id: str) -> ApiKey:
        """Ends a key; gateways refuse it as soon as their next snapshot is there."""
        return ApiKey.model_validate(self._http.write("POST", f"/api-keys/{key_id}/revoke"))
