"""Access tokens: a principal's credential for REST, registry and CLI."""

from __future__ import annotations

from collections.abc import Iterator

from finmaas_platform.sdk.objects import AccessToken
from finmaas_platform.sdk.transport import Transport


class AccessTokens:
    """`client.tokens`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self, principal_id: str | None = None) -> Iterator[AccessToken]:
        """Tokens without their secrets."""
        return self._http.pages(AccessToken, "/access-tokens", principal_id=principal_id)

    def create(self, principal_id: str, expires_in_s: int | None = None) -> AccessToken:
        """A new token; the answer is the only place where its secret ever shows."""
        body = {"principal_id": principal_id, "expires_in_s": expires_in_s}
        return AccessToken.model_validate(self._http.write("POST", "/access-tokens", body))

    def revoke(self, token_id: str) -> AccessToken:
        """Ends a token at once."""
        return AccessToken.model_validate(self._http.write("POST", f"/access-tokens/{token_id}/revoke"))
