"""ID and access tokens of the bank's identity provider (OpenID Connect): verifying them, nothing else.

The provider's keys are fetched once and kept; an unknown key id or ten minutes fetch them anew. While it is away, keys
that are kept go on working. Who the subject is here is not decided in this module.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx

from finmaas_core.errors import EnvironmentFault, NotAuthenticated, Unavailable
from finmaas_core.settings import Settings

ALGORITHMS = ("RS256", "PS256", "ES256", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512", "EdDSA")
KEYS_LIVE_S = 600.0
FETCH_AGAIN_S = 10.0
LEEWAY = timedelta(seconds=30)
MAX_TOKEN_CHARS = 16_384
_TIMEOUT_S = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Identity:
    """Whom the provider vouches for."""

    issuer: str
    subject: str
    name: str


def looks_like_jwt(token: str) -> bool:
    """Whether a bearer token is one of an identity provider: none of our own has dots in it."""
    return token.startswith("ey") and token.count(".") == 2


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
        self._audiences = {client_id, audience} - {""}
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}
        self._fetched_at = float("-inf")
        self._failed_at, self._failure = float("-inf"), ""

    def verify(self, token: str, now: datetime) -> Identity:
        """Whom a token names. NotAuthenticated says what is wrong with it; Unavailable without the provider's keys."""
        import jwt

        if len(token) > MAX_TOKEN_CHARS:
            raise NotAuthenticated("this token is longer than any that we take")
        try:
            header = jwt.get_unverified_header(token)
            key = self._find_key(str(header.get("kid", "")), str(header.get("alg")))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[str(header["alg"])],
                audience=sorted(self._audiences),
                issuer=self.issuer,
                # Times are compared with our own clock, below.
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.PyJWTError as error:
            raise NotAuthenticated(f"this token of {self.issuer} is not valid ({error}); run `finmaas login`") from None
        self._check_claims(claims, now)
        name = claims.get("preferred_username") or claims.get("email") or claims["sub"]
        return Identity(self.issuer, str(claims["sub"]), str(name))

    def _check_claims(self, claims: dict[str, Any], now: datetime) -> None:
        moment = now.timestamp()
        leeway = LEEWAY.total_seconds()
        try:
            expires, issued, valid_from = (float(claims.get(name, 0)) for name in ("exp", "iat", "nbf"))
        except (TypeError, ValueError):
            raise NotAuthenticated("a time in this token is not a number") from None
        if expires + leeway <= moment:
            raise NotAuthenticated("this login has expired; run `finmaas login`")
        if max(issued, valid_from) > moment + leeway:
            raise NotAuthenticated("this token is not valid yet; are the clocks right?")
        if claims.get("azp", self.client_id) != self.client_id:
            raise NotAuthenticated(f"this token was given to another client, {str(claims['azp'])[:80]!r}")
        if not claims["sub"]:
            raise NotAuthenticated("this token names nobody")

    def _find_key(self, kid: str, algorithm: str) -> Any:
        import jwt

        if algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"the algorithm {algorithm[:20]!r} is not taken")
        with self._lock:
            age = time.monotonic() - self._fetched_at
            if age > KEYS_LIVE_S or (kid not in self._keys and age > FETCH_AGAIN_S):
                self._fetch()
            if kid not in self._keys:
                raise jwt.InvalidKeyError(f"the provider has no key {kid[:80]!r}")
            return self._keys[kid]

    def _fetch(self) -> None:
        """Replaces the keys; when the provider is away, those that are there stay."""
        import jwt

        if not self._keys and time.monotonic() - self._failed_at < FETCH_AGAIN_S:
            raise Unavailable(self._failure)  # anybody can send a token, and each would wait for the provider
        try:
            document = fetch_document(str(discover(self.issuer).get("jwks_uri")))
            keys = jwt.PyJWKSet.from_dict(document).keys
        except (Unavailable, jwt.PyJWTError) as error:
            if self._keys:
                self._fetched_at = time.monotonic() - KEYS_LIVE_S + FETCH_AGAIN_S
                return
            self._failure = f"the keys of {self.issuer} cannot be had, so nobody can log in: {error}"
            self._failed_at = time.monotonic()
            raise Unavailable(self._failure) from error
        self._keys = {str(key.key_id or ""): key for key in keys if key.public_key_use in (None, "sig")}
        self._fetched_at = time.monotonic()
