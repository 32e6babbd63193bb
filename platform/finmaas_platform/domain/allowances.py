"""Allowances: what may be spent by whom in which window, and how much of one a gateway is handed at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finmaas_core.errors import InvalidInput
from finmaas_core.prices import parse_money
from finmaas_core.windows import WindowKind

LARGEST = 2**62


class Scope(StrEnum):
    """Whose spending counts. `person`: who calls with a token of the bank's identity provider; `model`: everybody's, at
    one endpoint."""

    TENANT = "tenant"
    PROJECT = "project"
    KEY = "key"
    PERSON = "person"
    MODEL = "model"


class Unit(StrEnum):
    """What is counted; `tokens` are input and output together."""

    MONEY = "money"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOKENS = "tokens"
    REQUESTS = "requests"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True)
class Hand:
    """What a gateway is handed: `grant` now, to be filled up below `low`; `tight`: nothing beyond what it needs."""

    grant: int
    low: int
    tight: bool


def decide_hand(pool: int, need: int, gateways: int) -> Hand:
    """How much of the `pool` (what is neither settled nor handed out) goes to one of so many gateways.

    What it needs, and a part of the rest, so that it need not ask again soon. Near the end the part is smaller than
    what is needed: then it gets just that, and every request asks, so that nothing lies idle where it is not wanted.
    """
    if pool <= need:
        return Hand(max(0, pool), 0, tight=True)
    extra = (pool - need) // (2 if gateways <= 1 else 4 * gateways)
    if extra < max(1, need):
        return Hand(need, 0, tight=True)
    return Hand(need + extra, extra // 2, tight=False)


def check_kind(unit: Unit, window: WindowKind) -> None:
    """InvalidInput for a unit in a window that means nothing."""
    if (unit is Unit.CONCURRENCY) != (window is WindowKind.NOW):
        raise InvalidInput(
            "concurrency is counted in the window `now`, everything else by minute, day or month; "
            f"{unit} cannot be counted by {window}"
        )
    if unit is Unit.MONEY and window is WindowKind.MINUTE:
        raise InvalidInput("money is counted by day or month; limit a minute by tokens or requests")


def read_limit(unit: Unit, text: str) -> int:
    """The limit as it is stored: nano-units of money, else a whole number. InvalidInput for anything else."""
    if unit is Unit.MONEY:
        return parse_money(text)
    if not text.strip().isdecimal() or int(text) > LARGEST:
        raise InvalidInput(f"{text[:40]!r} is not a number of {unit.replace('_', ' ')}; give a whole number")
    return int(text)
