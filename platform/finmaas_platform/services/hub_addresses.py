"""Addresses that carry their own permission, for Hub clients that send no token to them.

Each holds a grant that we signed: who, which digest, how many bytes, until when. Nothing is kept in memory or in a row.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Literal

from finmaas_core.errors import NotAuthenticated

VALID_FOR = timedelta(hours=12)
EXPIRED = "this address has expired or was changed; start the transfer again"


def valid_until(now: datetime) -> int:
    """When a grant that is made now ends, in seconds since 1970."""
    return int((now + VALID_FOR).timestamp())


@dataclass(frozen=True)
class Grant:
    """May put or read the bytes of one digest, for one principal, until a moment in seconds since 1970."""

    principal_id: str
    digest: str
    size: int
    until: int


class AddressSigner:
    """Makes and reads grants for one purpose, under a key that follows from the installation's pepper."""

    def __init__(self, pepper: str, purpose: Literal["upload", "read"]) -> None:
        self._key = hmac.new(pepper.encode(), f"finmaas hub {purpose}".encode(), hashlib.sha256).digest()

    def sign(self, grant: Grant) -> str:
        """The grant as text for an address."""
        body = base64.urlsafe_b64encode(json.dumps(asdict(grant)).encode()).decode().rstrip("=")
        return f"{body}.{self.mac('grant', body)}"

    def read(self, text: str, digest: str, now: datetime) -> Grant:
        """The grant in a text; NotAuthenticated for one that is not ours, of another digest, or too old."""
        body, _, mac = text.partition(".")
        if not hmac.compare_digest(mac.encode(), self.mac("grant", body).encode()):
            raise NotAuthenticated(EXPIRED)
        grant = Grant(**json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
        if grant.digest != digest or grant.until < now.timestamp():
            raise NotAuthenticated(EXPIRED)
        return grant

    def mac(self, what: str, text: str) -> str:
        """The authentication code of a text that stands for `what`."""
        return hmac.new(self._key, f"{what} {text}".encode(), hashlib.sha256).hexdigest()
