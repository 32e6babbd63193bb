"""Value types for what the platform counts, so that `+` cannot mix units."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finmaas_core.errors import InvalidInput

NANO = 1_000_000_000
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Money:
    """An amount in integer nano-units of one currency (1 CNY = 1_000_000_000). Rounded only on invoices."""

    nano: int
    currency: str

    def __add__(self, other: Money) -> Money:
        if other.currency != self.currency:
            raise InvalidInput(f"cannot add {other.currency} to {self.currency}; convert one of them first")
        return Money(self.nano + other.nano, self.currency)


@dataclass(frozen=True, order=True)
class Tokens:
    """A number of model tokens."""

    count: int

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.count + other.count)


@dataclass(frozen=True, order=True)
class Gpus:
    """A number of whole GPUs."""

    count: int

    def __add__(self, other: Gpus) -> Gpus:
        return Gpus(self.count + other.count)


def check_digest(text: str) -> str:
    """Returns a SHA-256 digest in lower-case hex, or raises InvalidInput."""
    if not _DIGEST.fullmatch(text):
        raise InvalidInput(f"{text[:80]!r} is not a SHA-256 digest; give 64 lower-case hex digits")
    return text
