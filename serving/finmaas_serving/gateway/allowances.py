"""Allowances in a gateway: slices of windows held in memory, reserved from by upper bound, settled by what was used.

    Book     every slice of this process, and the plan of each (key, endpoint): which allowances its calls spend
    Slice    what this gateway holds of one window of one allowance
    Hold     what one call has reserved

Nothing here waits or talks to anybody: what a slice lacks goes to `Book.wanted`, and `ledger.py` brings the answer.
A slice that is *tight* is near its end: nothing of it is spent without asking, and what becomes free goes back at once,
so that a refusal is true for all gateways together.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from finmaas_core.errors import FinmaasError, LimitReached, Unavailable
from finmaas_core.prices import EVERY_MODEL, Price, choose_price, show_money
from finmaas_core.windows import MINUTE_S, WindowKind, find_window, local_date
from finmaas_serving.gateway.snapshot import Allowance, Calendar, Key, Route, Snapshot

STEP_TOKENS = 256
MAX_CHARGES = 24  # what a usage record has room for
SKEW_S = 0.1  # within which the gateways' clocks agree
_SHORTEST_MINUTE_S = MINUTE_S - 1
Header = tuple[bytes, bytes]
Done = Callable[[FinmaasError | None], None]


class Slice:
    """What this gateway holds of one window. `idle` is neither reserved nor spent; `granted`, `returned` only grow."""

    __slots__ = (
        "allowance", "asking", "away", "closed", "dirty", "end", "granted", "held", "idle", "kind", "low", "number",
        "outstanding", "pool", "reserved", "returned", "rolled_at", "round", "settled", "spent_before", "start",
        "tight", "waiters",
    )  # fmt: skip

    def __init__(self, allowance: Allowance, kind: WindowKind, start: int, end: float, rolled_at: float) -> None:
        self.allowance = allowance
        self.kind = kind
        self.start = start
        self.end = end
        self.rolled_at = rolled_at  # on the monotonic clock
        self.number = 0  # the ledger's name of this slice; 0 before the first grant
        self.granted = self.returned = self.held = self.idle = self.reserved = 0
        self.spent_before = 0  # of a minute's share, in the minute before
        self.low = 0  # below this it is filled up in the background
        self.tight = False
        self.asking = False
        self.dirty = False  # the ledger has to be told
        self.round = 0  # the recall that was answered last
        self.closed: int | None = None  # all that is left beside what is held, for certain, while nothing changes
        self.waiters: deque[_Waiter] = deque()
        self.settled = self.outstanding = self.pool = 0  # as the ledger said last
        self.away: tuple[str, ...] = ()

    @property
    def wanted(self) -> int:
        """What those that wait need beyond what is held."""
        return max(0, sum(waiter.amount for waiter in self.waiters) - self.idle)


class _Waiter:
    __slots__ = ("amount", "hold", "place")

    def __init__(self, hold: Hold, place: int, amount: int) -> None:
        self.hold, self.place, self.amount = hold, place, amount


class Meter:
    """One allowance as this gateway spends it."""

    __slots__ = ("allowance", "calendar", "kind", "slice")

    def __init__(self, allowance: Allowance, calendar: Calendar) -> None:
        self.allowance = allowance
        self.calendar = calendar
        self.kind = WindowKind(allowance.window)
        self.slice: Slice | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the calls of one key to one endpoint spend."""

    meters: tuple[Meter, ...]
    calendar: Calendar  # the caller's tenant's


class Book:
    """The slices of this process. `wake` is called when the ledger has to be asked or told something."""

    def __init__(self) -> None:
        self.epoch = 0  # given by the ledger; 0 while it has not been reached
        self.offset = time.time() - time.monotonic()  # the ledger's clock, once it answered
        self.wanted: set[Slice] = set()
        self.wake: Callable[[], None] = lambda: None
        self.slices: dict[int, Slice] = {}
        self._meters: dict[str, Meter] = {}
        self._plans: dict[tuple[str, str], Plan] = {}
        self._snapshot: Snapshot | None = None
        self._days: dict[str, tuple[float, float, str]] = {}

    def now(self) -> float:
        """The ledger's time: jumps of this machine's clock do not move it."""
        return time.monotonic() + self.offset

    def plan(self, snapshot: Snapshot, key: Key, route: Route) -> Plan:
        """Which allowances a call spends; looked up once for each key and endpoint of a snapshot."""
        if snapshot is not self._snapshot:
            self._adopt(snapshot)
        found = self._plans.get((key.key_id, route.endpoint_id))
        if found is None:
            found = self._plans[key.key_id, route.endpoint_id] = self._make_plan(snapshot, key, route)
        return found

    def price(self, snapshot: Snapshot, calendar: Calendar, model: str, currency: str, now: float) -> Price | None:
        """The price of a model that is valid on the caller's day; the one for every model where it has none."""
        prices = snapshot.prices
        if not prices:
            return None
        day = self._day(calendar.time_zone, now)
        own = choose_price(prices.get((model, currency), ()), day)
        return own or choose_price(prices.get((EVERY_MODEL, currency), ()), day)

    def cost(
        self, snapshot: Snapshot, key: Key, route: Route, prompt: int, cached: int, output: int, reasoning: int
    ) -> tuple[int | None, str | None]:
        """What a request costs in its tenant's money; None where there is no price."""
        if not snapshot.prices:
            return None, None
        calendar = snapshot.calendars.get(key.tenant_id)
        if calendar is None:
            return None, None
        price = self.price(snapshot, calendar, route.name, calendar.currency, self.now())
        return (price.cost(prompt, cached, output, reasoning), calendar.currency) if price else (None, None)

    def slice_of(self, meter: Meter, now: float) -> Slice:
        """The slice of the window that holds `now`."""
        held = meter.slice
        if held is not None and now < held.end and (held.start <= now or held.kind.is_standing):
            return held
        calendar = meter.calendar
        start, end = find_window(meter.kind, now, calendar.time_zone, calendar.fiscal_day)
        mono = time.monotonic()
        if held is not None and meter.kind is WindowKind.MINUTE:
            _renew(held, start, now, mono)
            return held
        if held is not None and held.start == start:
            return held
        fresh = Slice(meter.allowance, meter.kind, start, end or math.inf, mono - (now - start))
        meter.slice = fresh
        return fresh

    def want(self, slice_: Slice) -> None:
        """The ledger is to be asked for more of a slice, or told of it."""
        self.wanted.add(slice_)
        self.wake()

    def begin(self, snapshot: Snapshot, key: Key, route: Route, prompt: int, output: int, *, stepped: bool) -> Hold:
        """The hold of a call that may use so much; nothing is reserved yet. Unavailable when it cannot be priced."""
        plan = self.plan(snapshot, key, route)
        now = self.now()
        hold = Hold(self, plan, prompt, output, stepped=stepped)
        for meter in plan.meters:
            if meter.allowance.unit == "money":
                currency = meter.allowance.currency
                price = self.price(snapshot, plan.calendar, route.name, currency, now)
                if price is None:
                    raise Unavailable(
                        f"{describe(meter.allowance)} cannot be kept: `{route.name}` has no price in {currency}; "
                        "ask the platform's administrator to set one",
                        openai_code="price_missing",
                        retry_after_s=60,
                    )
                hold.prices[currency] = price
        return hold

    def forget(self) -> None:
        """Drops every slice: the ledger has counted them as given back, or does not know them."""
        for meter in self._meters.values():
            if meter.slice is not None:
                fail_waiters(meter.slice, ledger_away())
            meter.slice = None
        self.slices.clear()
        self.wanted.clear()

    def _adopt(self, snapshot: Snapshot) -> None:
        known = self._meters
        self._meters = {}
        for allowance in snapshot.allowances:
            meter = known.get(allowance.allowance_id)
            calendar = snapshot.calendars.get(allowance.tenant_id, Calendar(allowance.tenant_id))
            if meter is None:
                meter = Meter(allowance, calendar)
            elif meter.allowance != allowance or meter.calendar != calendar:
                meter.allowance, meter.calendar = allowance, calendar
            if meter.slice is not None:
                meter.slice.allowance, meter.slice.closed = allowance, None
            self._meters[allowance.allowance_id] = meter
        self._plans = {}
        self._snapshot = snapshot

    def _make_plan(self, snapshot: Snapshot, key: Key, route: Route) -> Plan:
        meters = [meter for meter in self._meters.values() if covers(meter.allowance, key, route)]
        if sum(not meter.kind.is_standing for meter in meters) > MAX_CHARGES:
            raise Unavailable(f"more than {MAX_CHARGES} allowances cover one call; delete some", retry_after_s=60)
        return Plan(tuple(meters), snapshot.calendars.get(key.tenant_id, Calendar(key.tenant_id)))

    def _day(self, zone: str, now: float) -> str:
        held = self._days.get(zone)
        if held is None or not held[0] <= now < held[1]:
            start, end = find_window(WindowKind.DAY, now, zone)
            held = self._days[zone] = (start, end, local_date(now, zone).isoformat())
        return held[2]


class Hold:
    """What one call has reserved. `acquire` gives True, or later calls `done` once: with None, or with the reason."""

    __slots__ = (
        "_book", "_done", "_fresh", "_missing", "amounts", "epoch", "output", "plan", "prices", "prompt", "slices",
        "starts", "step", "target", "whole",
    )  # fmt: skip

    def __init__(self, book: Book, plan: Plan, prompt: int, output: int, *, stepped: bool) -> None:
        self._book = book
        self.plan = plan
        self.epoch = book.epoch
        self.prompt = prompt
        self.whole = output  # the most the answer may have
        self.step = STEP_TOKENS
        self.target = min(output, STEP_TOKENS) if stepped else output
        self.output = 0  # tokens of the answer that are reserved
        self.prices: dict[str, Price] = {}
        self.amounts = [0] * len(plan.meters)
        self.slices: list[Slice | None] = [None] * len(plan.meters)
        self.starts = [0] * len(plan.meters)
        self._done: Done | None = None
        self._fresh: list[int] = []  # what the present acquisition took, by place
        self._missing: list[tuple[Slice, _Waiter]] = []

    @property
    def waiting(self) -> bool:
        return self._done is not None

    def acquire(self, done: Done) -> bool:
        """Reserves up to `target` tokens of answer. True: it is there. LimitReached: for certain there is no more."""
        book, now = self._book, self._book.now()
        lacking: list[tuple[int, Slice, int]] = []
        needs: list[tuple[int, Slice, int]] = []
        for place, meter in enumerate(self.plan.meters):
            amount = self._bound(meter.allowance, self.target) - self.amounts[place]
            slice_ = self.slices[place] or book.slice_of(meter, now)
            if amount <= 0:
                continue
            if slice_.closed is not None and amount > slice_.idle + slice_.closed:
                raise refusal(slice_, amount, now)
            if slice_.tight or slice_.waiters or amount > slice_.idle:
                lacking.append((place, slice_, amount))
            else:
                needs.append((place, slice_, amount))
        self._fresh = [0] * len(self.amounts)
        for place, slice_, amount in needs:
            self._take(place, slice_, amount)
            if slice_.idle < slice_.low and not slice_.asking:
                book.want(slice_)
        if not lacking:
            self.output = self.target
            return True
        if not book.epoch:
            self._undo()
            raise ledger_away()
        self._done = done
        for place, slice_, amount in lacking:
            waiter = _Waiter(self, place, amount)
            self._missing.append((slice_, waiter))
            slice_.waiters.append(waiter)
            book.want(slice_)
        return False

    def granted(self, slice_: Slice, waiter: _Waiter) -> None:
        """The ledger's answer has what one waiter needs."""
        self._take(waiter.place, slice_, waiter.amount)
        self._missing = [pair for pair in self._missing if pair[1] is not waiter]
        if not self._missing:
            self.output = self.target
            self._finish(None)

    def failed(self, error: FinmaasError) -> None:
        """One of them cannot be had: what this acquisition took goes back."""
        self._leave()
        self._undo()
        self._finish(error)

    def cancel(self) -> None:
        """Nobody waits any more: all goes back."""
        self._done = None
        self._leave()
        self.release()

    def leave(self) -> None:
        """The call ends while it waits for more: what it has, it keeps until it settles."""
        self._done = None
        self._leave()

    def grow(self) -> bool:
        """Sets the next target of a stream; False when it has all that it may use."""
        self.target = min(self.whole, self.output + self.step)
        return self.target > self.output

    def shrink(self) -> bool:
        """After a refusal: asks for less next time; False when less is nothing."""
        self.step //= 4
        return self.step > 0

    def settle(self, prompt: int, cached: int, output: int, reasoning: int) -> list[tuple[int, int]]:
        """Gives back what was not used. The charges: what was used of each slice that the ledger has to settle."""
        charges: list[tuple[int, int]] = []
        for place, meter in enumerate(self.plan.meters):
            slice_ = self.slices[place]
            if slice_ is None:
                continue
            used = self._used(meter.allowance, prompt, cached, output, reasoning)
            self._close(place, slice_, used)
            if not meter.kind.is_standing and used:
                charges.append((slice_.number, used))
        return charges

    def release(self) -> None:
        """The call never reached a replica: nothing is spent."""
        for place, slice_ in enumerate(self.slices):
            if slice_ is not None:
                self._close(place, slice_, 0)

    def headers(self) -> list[Header]:
        """What is left of requests and tokens, under OpenAI's names; of several windows the one with least left."""
        found: dict[bytes, tuple[int, Slice]] = {}
        for slice_ in self.slices:
            if slice_ is None or slice_.kind is WindowKind.NOW:
                continue
            name = _HEADER_NAMES.get(slice_.allowance.unit)
            left = slice_.idle + slice_.pool
            if name is not None and (name not in found or left < found[name][0]):
                found[name] = (left, slice_)
        now = self._book.now()
        return [header for name, (left, slice_) in found.items() for header in limit_headers(name, slice_, left, now)]

    def _bound(self, allowance: Allowance, output: int) -> int:
        unit = allowance.unit
        if unit == "money":
            return self.prices[allowance.currency].most(self.prompt, output)
        if unit == "input_tokens":
            return self.prompt
        if unit == "output_tokens":
            return output
        return self.prompt + output if unit == "tokens" else 1

    def _used(self, allowance: Allowance, prompt: int, cached: int, output: int, reasoning: int) -> int:
        unit = allowance.unit
        if unit == "money":
            return self.prices[allowance.currency].cost(prompt, cached, output, reasoning)
        if unit == "input_tokens":
            return prompt
        if unit == "output_tokens":
            return output
        if unit == "tokens":
            return prompt + output
        return 0 if unit == "concurrency" else 1

    def _take(self, place: int, slice_: Slice, amount: int) -> None:
        slice_.idle -= amount
        slice_.reserved += amount
        self.slices[place] = slice_
        if not self.amounts[place]:
            self.starts[place] = slice_.start
        self.amounts[place] += amount
        self._fresh[place] += amount

    def _close(self, place: int, slice_: Slice, used: int) -> None:
        amount, self.amounts[place] = self.amounts[place], 0
        self.slices[place] = None
        if slice_.kind is WindowKind.MINUTE and self.starts[place] != slice_.start:
            return  # it belonged to a minute that is over
        slice_.reserved -= amount
        slice_.idle += amount - used
        if slice_.tight:
            self._book.want(slice_)

    def _undo(self) -> None:
        for place, amount in enumerate(self._fresh):
            slice_ = self.slices[place]
            if slice_ is None or not amount:
                continue
            self.amounts[place] -= amount
            if slice_.kind is not WindowKind.MINUTE or self.starts[place] == slice_.start:
                slice_.reserved -= amount
                slice_.idle += amount
                if slice_.tight:
                    self._book.want(slice_)
            if not self.amounts[place]:
                self.slices[place] = None
        self._fresh = []

    def _leave(self) -> None:
        for slice_, waiter in self._missing:
            if waiter in slice_.waiters:
                slice_.waiters.remove(waiter)
        self._missing = []

    def _finish(self, error: FinmaasError | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error)


def covers(allowance: Allowance, key: Key, route: Route) -> bool:
    """Whether a call of this key to this endpoint spends an allowance."""
    if allowance.model and allowance.model != route.name:
        return False
    match allowance.scope:
        case "tenant":
            return allowance.scope_id == key.tenant_id
        case "project":
            return allowance.scope_id == key.project_id
        case "key":
            return allowance.scope_id == key.key_id
        case _:
            return bool(allowance.model)


def serve_waiters(slice_: Slice) -> None:
    """Gives those that wait, in their order, what the slice has for them."""
    for waiter in tuple(slice_.waiters):
        if waiter.amount <= slice_.idle and waiter in slice_.waiters:
            slice_.waiters.remove(waiter)
            waiter.hold.granted(slice_, waiter)


def fail_waiters(slice_: Slice, error: FinmaasError, count: int | None = None) -> None:
    """Tells those that wait (the first `count`) that there is nothing for them."""
    for waiter in list(slice_.waiters)[:count]:
        if waiter in slice_.waiters:
            slice_.waiters.remove(waiter)
            waiter.hold.failed(error)


def returnable(slice_: Slice, now: float) -> int:
    """What can go back: the idle part. A minute's share that was spent a moment ago in the minute before stays, for
    another gateway's clock may still be in that minute."""
    idle = slice_.idle
    if slice_.kind is WindowKind.MINUTE and now < slice_.start + SKEW_S:
        idle = min(idle, slice_.held - slice_.spent_before)
    return max(0, idle)


def ledger_away() -> Unavailable:
    """The ledger does not answer, and what this gateway held is spent or was never given."""
    return Unavailable(
        "what this gateway held of an allowance is spent, and the ledger that could give more does not answer; "
        "try again later",
        openai_code="ledger_unavailable",
        retry_after_s=5,
    )


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
        headers=tuple(limit_headers(_HEADER_NAMES.get(allowance.unit, b"budget"), slice_, left, now)),
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


def describe(allowance: Allowance) -> str:
    """An allowance as its owner knows it."""
    whom = allowance.label or f"{allowance.scope} {allowance.scope_id}"
    unit = allowance.unit.replace("_", " ")
    span = "at once" if allowance.window == "now" else f"a {allowance.window}"
    return f"the allowance of {whom} ({unit} {span}, {allowance.allowance_id})"


def show_amount(allowance: Allowance, amount: int) -> str:
    return f"{show_money(amount)} {allowance.currency}" if allowance.unit == "money" else str(amount)


def _renew(slice_: Slice, start: int, now: float, mono: float) -> None:
    """A new minute for a standing share, at most one in a minute of real time: a clock that jumps gains nothing."""
    if start != slice_.start and mono - slice_.rolled_at >= _SHORTEST_MINUTE_S:
        slice_.spent_before = slice_.held - slice_.idle if start == slice_.start + MINUTE_S else 0
        slice_.idle, slice_.reserved = slice_.held, 0
        slice_.start, slice_.rolled_at = start, max(mono - (now - start), slice_.rolled_at + _SHORTEST_MINUTE_S)
        slice_.closed, slice_.tight = None, False
    slice_.end = now + max(0.001, slice_.rolled_at + MINUTE_S - mono)


_HEADER_NAMES = {
    "requests": b"requests",
    "concurrency": b"requests",
    "tokens": b"tokens",
    "input_tokens": b"tokens",
    "output_tokens": b"tokens",
    "money": b"budget",
}
