"""Prices of tokens, and what a request costs: integer nano-units, rounded up once a request. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from finmaas_core.errors import InvalidInput
from finmaas_core.quantities import NANO

PER = 1_000_000
"""Prices are given for so many tokens."""
EVERY_MODEL = "*"
_CURRENCY = re.compile(r"[A-Z]{3}")
MAX_NANO = 2**62


@dataclass(frozen=True, slots=True)
class Price:
    """Nano-units for a million tokens, from a day on. Reasoning is part of the output, cached tokens of the input."""

    valid_from: str  # ISO date
    input_nano: int
    cached_nano: int
    output_nano: int
    reasoning_nano: int
    dear_in: int = field(init=False, repr=False)  # the dearer of the two for what goes in, and for what comes out
    dear_out: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "dear_in", max(self.cached_nano, self.input_nano))
        object.__setattr__(self, "dear_out", max(self.reasoning_nano, self.output_nano))

    def cost(self, prompt: int, cached: int, output: int, reasoning: int) -> int:
        """Nano-units of a request; a part of one counts whole."""
        total = (
            (prompt - cached) * self.input_nano
            + cached * self.cached_nano
            + (output - reasoning) * self.output_nano
            + reasoning * self.reasoning_nano
        )
        return -(-total // PER)

    def most(self, prompt: int, output: int) -> int:
        """The most that so many tokens can cost, whichever of them turn out cached or reasoning."""
        return -(-(prompt * self.dear_in + output * self.dear_out) // PER)


def choose_price(prices: Sequence[Price], day: str) -> Price | None:
    """The price that is valid on a day (ISO): the latest that began by then."""
    best: Price | None = None
    for price in prices:
        if price.valid_from <= day and (best is None or price.valid_from > best.valid_from):
            best = price
    return best


def parse_money(text: str) -> int:
    """Nano-units of an amount such as `12.50`; InvalidInput for what is no amount, negative, or finer than a nano."""
    try:
        value = Decimal(text.strip()) * NANO
    except InvalidOperation:
        raise InvalidInput(f"{text[:40]!r} is not an amount of money; write it like 12.50") from None
    if not value.is_finite() or value < 0 or value != value.to_integral_value() or value > MAX_NANO:
        raise InvalidInput(f"{text[:40]!r} cannot be used: an amount is zero or more, to nine decimal places")
    return int(value)


def show_money(nano: int) -> str:
    """An amount as people write it, without zeros that say nothing: two decimal places at least."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, part = divmod(nano, NANO)
    digits = f"{part:09d}".rstrip("0")
    return f"{sign}{whole}.{digits:0<2}"


def check_currency(code: str) -> str:
    """An ISO 4217 code; InvalidInput when it does not look like one."""
    if not _CURRENCY.fullmatch(code):
        raise InvalidInput(f"{code[:20]!r} is not a currency; give its three letters, e.g. CNY")
    return code


def index_prices(found: Iterable[tuple[str, str, Price]]) -> dict[tuple[str, str], list[Price]]:
    """Prices by (model, currency)."""
    index: dict[tuple[str, str], list[Price]] = {}
    for model, currency, price in found:
        index.setdefault((model, currency), []).append(price)
    return index
