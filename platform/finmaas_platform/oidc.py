"""ID and access tokens of the bank's identity provider (OpenID Connect): verifying them, nothing else.

The provider's keys are fetched once and kept; an unknown key id or ten minutes fetch them anew, at most once in ten
seconds whatever came of it. While it is away, keys that are kept go on working, for as long as this process lives;
while it hangs, one thread waits for it and no other. Who the subject is here is not decided in this module.
"""

from __future__ import annotations

import threading
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from finmaas_core.errors import EnvironmentFault, Unavailable
from finmaas_core.identity import Identity, read_identity, read_keys
from finmaas_core.settings import Settings

KEYS_LIVE_S = 600.0
FETCH_AGAIN_S = 10.0
_TIMEOUT_S = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def make_verifier(settings: Settings) -> OidcVerifier | None:
    """The verifier of an installation; None where no provider is configured."""
    if not settings.oidc_issuer:
        return None
    return OidcVerifier(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_audience)


def check_address(url: str) -> str:
    """Returns an address of a provider; EnvironmentFault for one over plain HTTP on another machine."""
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        return url
    raise EnvironmentFault(f"the identity provider's address {url} is not https://; tokens must not cross in the clear")


def fetch_document(url: str) -> dict[str, Any]:
    """A JSON document of a provider; Unavailable."""
    check_address(url)
    try:
        answer = httpx.get(url, timeout=_TIMEOUT_S, trust_env=urlsplit(url).hostname not in _LOOPBACK)
        answer.raise_for_status()
        document = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"the identity provider does not answer at {url} ({error})") from error
    if not isinstance(document, dict):
        raise Unavailable(f"{url} answers something that is no document of an identity provider")
    return document


def discover(issuer: str) -> dict[str, Any]:
    """The provider's own description; Unavailable where it does not answer or calls itself otherwise."""
    document = fetch_document(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != issuer:
        raise Unavailable(f"{issuer} calls itself {document.get('issuer')!r}; set FINMAAS_OIDC_ISSUER to just that")
    return document


class OidcVerifier:
    """Tokens of one issuer for one client. May be used by several threads."""

    def __init__(self, issuer: str, client_id: str, audience: str = "") -> None:
        self.issuer, self.client_id = issuer, client_id
        self.audiences = frozenset({client_id, audience} - {""})
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}
        self._document: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._tried_at, self._failure = float("-inf"), ""

    def verify(self, token: str, now: datetime) -> Identity:
        """Whom a token names. NotAuthenticated says what is wrong with it; Unavailable without the provider's keys."""
        return read_identity(token, self._find_key, self.issuer, self.client_id, self.audiences, now.timestamp())

    def publish(self, missing: str = "") -> dict[str, Any]:
        """The provider's keys as it wrote them, fetched anew for a key that is `missing` among them. Unavailable."""
        if not self._refresh(missing) and not self._document:
            raise self._being_asked()
        return self._document

    def _find_key(self, kid: str) -> Any:
        is_known = self._refresh(kid)
        key = self._keys.get(kid)
        if key is None and not is_known:
            raise self._being_asked()
        return key

    def _being_asked(self) -> Unavailable:
        return Unavailable(f"the keys of {self.issuer} are being asked for; try again", retry_after_s=1)

    def _refresh(self, kid: str) -> bool:
        """Fetches the keys if it is time to; False while another thread does so, and what it will hear is not known.

        Nobody waits for that one: anybody can send a token, and each would wait for the provider. Unavailable.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            is_wanted = now - self._fetched_at > KEYS_LIVE_S or (kid and kid not in self._keys)
            if is_wanted and now - self._tried_at > FETCH_AGAIN_S:
                self._fetch()
        finally:
            self._lock.release()
        if not self._keys:
            raise Unavailable(self._failure)
        return True

    def _fetch(self) -> None:
        """Replaces the keys; when the provider is away, those that are there stay."""
        import jwt

        try:
            document = fetch_document(str(discover(self.issuer).get("jwks_uri")))
            self._keys, self._document = read_keys(document), document
            self._fetched_at = time.monotonic()
        except (Unavailable, jwt.PyJWTError) as error:
            self._failure = f"the keys of {self.issuer} cannot be had, so nobody can log in: {error}"
        finally:
            self._tried_at = time.monotonic()  # it may have hung: those who wait meanwhile are not to wait again
