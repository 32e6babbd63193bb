"""What a client is told of an allowance: why there is no more, what is left, when it renews."""

from __future__ import annotations

import math
from typing import Final

from finmaas_core.errors import FinmaasError, LimitReached, Unavailable
from finmaas_core.prices import show_money
from finmaas_core.quantities import NANO
from finmaas_core.windows import WindowKind
from finmaas_serving.gateway import wire
from finmaas_serving.gateway.slices import Slice
from finmaas_serving.gateway.snapshot import Allowance

Header = tuple[bytes, bytes]
HEADER_NAMES: Final = {
    "requests": b"requests",
    "concurrency": b"requests",
    "tokens": b"tokens",
    "input_tokens": b"tokens",
    "output_tokens": b"tokens",
    "money": b"budget",
}


def refusal(slice_: Slice, needed: int, now: float) -> LimitReached:
    """Which allowance is used up, how much is left of it, and when it renews."""
    allowance = slice_.allowance
    left = max(0, slice_.idle + (slice_.closed if slice_.closed is not None else slice_.pool))
    renews_s = 1 if slice_.kind is WindowKind.NOW else max(1, math.ceil(slice_.end - now))
    when = "as soon as a running request ends" if slice_.kind is WindowKind.NOW else f"in {renews_s} s"
    away = f"; held by gateways that do not answer: {', '.join(slice_.away)}" if slice_.away else ""
    is_rate = slice_.kind.is_standing
    return LimitReached(
        f"{describe(allowance)} is used up: {show_amount(allowance, left)} of "
        f"{show_amount(allowance, allowance.limit)} left, this request may need {show_amount(allowance, needed)}; "
        f"it renews {when}{away}",
        openai_code="rate_limit_exceeded" if is_rate else "insufficient_quota",
        openai_type="requests" if is_rate and allowance.unit in ("requests", "concurrency") else None,
        retry_after_s=renews_s,
        headers=tuple(limit_headers(HEADER_NAMES.get(allowance.unit, b"budget"), slice_, left, now)),
    )


def discreet(error: FinmaasError) -> FinmaasError:
    """A refusal for a caller of another tenant: whose allowance it is, and how large, is its owner's business."""
    if not isinstance(error, LimitReached):
        return error
    kept = {name: error.details.get(name) for name in ("openai_code", "openai_type", "retry_after_s")}
    return LimitReached(
        "the tenant that shares this endpoint has used up what it allows here; try again later, or ask it", **kept
    )


def ledger_away() -> Unavailable:
    """The ledger does not answer, and what this gateway held is spent or was never given."""
    return Unavailable(
        "what this gateway held of an allowance is spent, and the ledger that could give more does not answer; "
        "try again later",
        openai_code="ledger_unavailable",
        retry_after_s=5,
    )


def limit_headers(name: bytes, slice_: Slice, left: int, now: float) -> list[Header]:
    """`x-ratelimit-limit-…`, `-remaining-…`, `-reset-…`; times as OpenAI writes them."""
    allowance = slice_.allowance
    limit, rest = (show_amount(allowance, value).partition(" ")[0].encode() for value in (allowance.limit, left))
    reset = b"1s" if slice_.kind is WindowKind.NOW else b"%ds" % max(1, math.ceil(slice_.end - now))
    return [
        (b"x-ratelimit-limit-" + name, limit),
        (b"x-ratelimit-remaining-" + name, rest),
        (b"x-ratelimit-reset-" + name, reset),
    ]


class LimitWords:
    """The same headers of one allowance as lines of a head, all but what changes written once."""

    __slots__ = ("_after", "_before", "_is_money", "_reset", "_reset_line")

    def __init__(self, allowance: Allowance) -> None:
        name = HEADER_NAMES[allowance.unit]
        limit = show_amount(allowance, allowance.limit).partition(" ")[0].encode()
        self._before = b"x-ratelimit-limit-%b: %b\r\nx-ratelimit-remaining-%b: " % (name, limit, name)
        self._after = b"\r\nx-ratelimit-reset-%b: " % name
        self._is_money = allowance.unit == "money"
        self._reset, self._reset_line = 0, b""

    def lines(self, left: int, renews_s: float) -> bytes:
        """`renews_s`: when its window ends."""
        reset = math.ceil(renews_s) if renews_s > 1 else 1
        if reset != self._reset:
            self._reset, self._reset_line = reset, b"%b%ds\r\n" % (self._after, reset)
        if self._is_money:
            return b"%b%b%b" % (self._before, _money(left), self._reset_line)
        return b"%b%d%b" % (self._before, left, self._reset_line)


def _money(nano: int) -> bytes:
    """As `show_money` shows it; called for each request."""
    if nano < 0:
        return show_money(nano).encode()
    digits = wire.padded(nano % NANO, NANO).rstrip(b"0")
    return b"%d.%b" % (nano // NANO, digits if len(digits) > 1 else digits.ljust(2, b"0"))


def describe(allowance: Allowance) -> str:
    """An allowance as its owner knows it."""
    whom = allowance.label or f"{allowance.scope} {allowance.scope_id}"
    unit = allowance.unit.replace("_", " ")
    span = "at once" if allowance.window == "now" else f"a {allowance.window}"
    return f"the allowance of {whom} ({unit} {span}, {allowance.allowance_id})"


def show_amount(allowance: Allowance, amount: int) -> str:
    """An amount in the allowance's unit; money, which comes in nano-units, with its currency."""
    return f"{show_money(amount)} {allowance.currency}" if allowance.unit == "money" else str(amount)
