"""Makes and hashes bearer tokens. Only the HMAC of a token is stored, so that a stolen database opens nothing."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from enum import StrEnum


class TokenPrefix(StrEnum):
    """The first four characters of a token tell its kind, to the platform and to secret scanners."""

    ACCESS = "fma_"
    API_KEY = "fmk_"
    JOB = "fmj_"
    NODE = "fmn_"
    GATEWAY = "fmg_"


def new_token(prefix: TokenPrefix) -> str:
    """A fresh token: the prefix, then 256 random bits as 43 URL-safe characters."""
    return prefix + secrets.token_urlsafe(32)


def hash_token(pepper: str, token: str) -> str:
    """Hex HMAC-SHA256 of the token under the pepper: the form in which tokens are stored and looked up."""
    return hmac.new(pepper.encode(), token.encode(), hashlib.sha256).hexdigest()
