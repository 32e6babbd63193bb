"""What a token of the bank's identity provider (OpenID Connect) says, once its signature, addressee and times hold.

Shared by the control plane and the gateway. Fetching the provider's keys is theirs; so is who the subject is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from finmaas_core.errors import NotAuthenticated

ALGORITHMS = ("RS256", "PS256", "ES256", "RS384", "PS384", "ES384", "RS512", "PS512", "ES512", "EdDSA")
LEEWAY_S = 30.0
MAX_TOKEN_CHARS = 16_384


@dataclass(frozen=True)
class Identity:
    """Whom the provider vouches for, until when (epoch seconds, the leeway included)."""

    issuer: str
    subject: str
    name: str
    until: float = 0.0


def looks_like_jwt(token: str) -> bool:
    """Whether a bearer token is one of an identity provider: none of our own has dots in it."""
    return token.startswith("ey") and token.count(".") == 2


def read_keys(document: dict[str, Any]) -> dict[str, Any]:
    """The provider's signing keys by their ids, of a JWKS document; raises jwt.PyJWTError."""
    import jwt

    keys = jwt.PyJWKSet.from_dict(document).keys
    return {str(key.key_id or ""): key for key in keys if key.public_key_use in (None, "sig")}


def read_identity(
    token: str, find_key: Callable[[str], Any], issuer: str, client_id: str, audiences: Collection[str], now: float
) -> Identity:
    """Whom a token names. NotAuthenticated says what is wrong with it.

    `find_key` gives the key of an id, or None where the provider has none such.
    """
    import jwt

    if len(token) > MAX_TOKEN_CHARS:
        raise NotAuthenticated("this token is longer than any that we take")
    try:
        header = jwt.get_unverified_header(token)
        kid, algorithm = str(header.get("kid", "")), str(header.get("alg"))
        if algorithm not in ALGORITHMS:
            raise jwt.InvalidAlgorithmError(f"the algorithm {algorithm[:20]!r} is not taken")
        key = find_key(kid)
        if key is None:
            raise jwt.InvalidKeyError(f"the provider has no key {kid[:80]!r}")
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=sorted(audiences),
            issuer=issuer,
            # Times are compared with our own clock, below.
            options={
                "require": ["exp", "iat", "iss", "aud", "sub"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
            },
        )
    except jwt.PyJWTError as error:
        raise NotAuthenticated(f"this token of {issuer} is not valid ({error}); run `finmaas login`") from None
    until = _check_claims(claims, client_id, now)
    name = claims.get("preferred_username") or claims.get("email") or claims["sub"]
    return Identity(issuer, str(claims["sub"]), str(name), until)


def _check_claims(claims: dict[str, Any], client_id: str, now: float) -> float:
    """Until when the token holds, in epoch seconds."""
    try:
        expires, issued, valid_from = (float(claims.get(name, 0)) for name in ("exp", "iat", "nbf"))
    except (TypeError, ValueError):
        raise NotAuthenticated("a time in this token is not a number") from None
    if not expires + LEEWAY_S > now:  # nan too
        raise NotAuthenticated("this login has expired; run `finmaas login`")
    if not max(issued, valid_from) <= now + LEEWAY_S:
        raise NotAuthenticated("this token is not valid yet; are the clocks right?")
    if claims.get("azp", client_id) != client_id:
        raise NotAuthenticated(f"this token was given to another client, {str(claims['azp'])[:80]!r}")
    if not claims["sub"]:
        raise NotAuthenticated("this token names nobody")
    return expires + LEEWAY_S
