"""Allowances in a gateway: slices of windows held in memory, reserved from by upper bound, settled by what was used.

    Book     every slice of this process, and the plan of each (key, endpoint): which allowances its calls spend
    Slice    (`slices.py`) what this gateway holds of one window of one allowance
    Hold     (`holds.py`) what one call has reserved

Nothing here waits or talks to anybody: what a slice lacks goes to `Book.wanted`, and `ledger.py` brings the answer.
A slice that is *tight* is near its end: nothing of it is spent without asking, and what becomes free goes back at once,
so that a refusal is true for all gateways together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finmaas_core.errors import Unavailable
from finmaas_core.prices import EVERY_MODEL, Price, choose_price
from finmaas_core.windows import WindowKind, find_window, local_date
from finmaas_serving.gateway.allowance_words import HEADER_NAMES, LimitWords, describe, ledger_away
from finmaas_serving.gateway.holds import Hold, place_of_sum
from finmaas_serving.gateway.slices import Slice, fail_waiters, renew
from finmaas_serving.gateway.snapshot import Allowance, Calendar, Key, Route, Snapshot

MAX_CHARGES: Final = 24  # what a usage record has room for


class Meter:
    """One allowance as this gateway spends it."""

    __slots__ = ("allowance", "calendar", "is_standing", "kind", "slice", "words")

    def __init__(self, allowance: Allowance, calendar: Calendar) -> None:
        self.allowance = allowance
        self.calendar = calendar
        self.kind = WindowKind(allowance.window)
        self.is_standing = self.kind.is_standing
        self.slice: Slice | None = None
        self.words: LimitWords | None = None  # of the headers that tell what is left


@dataclass(slots=True)
class Plan:
    """What the calls of one key to one endpoint spend, and at which prices; made once, priced once a day.

    `spends` tells of each meter which of a call's sums it counts (`holds.py`); sums of money come last, one for each of
    `currencies`. The first of those is the tenant's own, or empty where its calendar is not known.
    """

    meters: tuple[Meter, ...]
    spends: tuple[tuple[Meter, int], ...]
    shown: tuple[tuple[int, ...], ...]  # places of meters that are told under one name
    calendar: Calendar  # the caller's tenant's
    model: str
    currencies: tuple[str, ...]
    prices: tuple[Price | None, ...] = ()
    since: float = math.inf  # the prices hold from here …
    until: float = -math.inf  # … to here
    sound: bool = False  # calls can be kept within all of them


class Book:
    """The slices of this process. `wake` is called when the ledger has to be asked or told something."""

    def __init__(self) -> None:
        self.epoch = 0  # given by the ledger; 0 while it has not been reached
        self.offset = time.time() - time.monotonic()  # the ledger's clock, once it answered
        self.wanted: set[Slice] = set()
        self.wake: Callable[[], None] = lambda: None
        self.slices: dict[int, Slice] = {}
        self._meters: dict[str, Meter] = {}
        self._plans: dict[tuple[str, str, str], Plan] = {}
        self._snapshot: Snapshot | None = None
        self._days: dict[str, tuple[float, float, str]] = {}

    def now(self) -> float:
        """The ledger's time: jumps of this machine's clock do not move it."""
        return time.monotonic() + self.offset

    def plan(self, snapshot: Snapshot, key: Key, route: Route) -> Plan:
        """Which allowances a call spends; looked up once for each key and endpoint of a snapshot.

        And for each project: a person's id stands for the key's in all of those that the person acts for.
        """
        if snapshot is not self._snapshot:
            self._adopt(snapshot)
        name = (key.key_id, key.project_id, route.endpoint_id)
        found = self._plans.get(name)
        if found is None:
            found = self._plans[name] = self._make_plan(snapshot, key, route)
        return found

    def cost(
        self, snapshot: Snapshot, key: Key, route: Route, prompt: int, cached: int, output: int, reasoning: int
    ) -> tuple[int | None, str | None]:
        """What a request costs in its tenant's money; None where there is no price."""
        if not snapshot.prices:
            return None, None
        plan, now = self.plan(snapshot, key, route), self.now()
        if not plan.since <= now < plan.until:
            self._set_prices(plan, now)
        price = plan.prices[0]
        return (price.cost(prompt, cached, output, reasoning), plan.calendar.currency) if price else (None, None)

    def slice_of(self, meter: Meter, now: float) -> Slice:
        """The slice of the window that holds `now`."""
        held = meter.slice
        if held is not None and now < held.end and (held.start <= now or held.kind.is_standing):
            return held
        calendar = meter.calendar
        start, end = find_window(meter.kind, now, calendar.time_zone, calendar.fiscal_day)
        mono = time.monotonic()
        if held is not None and meter.kind is WindowKind.MINUTE:
            renew(held, start, now, mono)
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

    def begin(self, plan: Plan, prompt: int, output: int, *, stepped: bool) -> Hold:
        """The hold of a call that may use so much; nothing is reserved yet. Unavailable when it cannot be kept."""
        now = time.monotonic() + self.offset
        if not plan.since <= now < plan.until:
            self._set_prices(plan, now)
        if not plan.sound:
            raise _explain_unsound(plan)
        return Hold(self, plan, prompt, output, now, stepped=stepped)

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
                meter.allowance, meter.calendar, meter.words = allowance, calendar, None
            if meter.slice is not None:
                meter.slice.allowance, meter.slice.closed = allowance, None
            self._meters[allowance.allowance_id] = meter
        self._plans = {}
        self._snapshot = snapshot

    def _make_plan(self, snapshot: Snapshot, key: Key, route: Route) -> Plan:
        meters = tuple(meter for meter in self._meters.values() if covers(meter.allowance, key, route))
        own = snapshot.calendars.get(key.tenant_id)
        calendar = own or Calendar(key.tenant_id)
        paid = {meter.allowance.currency: None for meter in meters if meter.allowance.unit == "money"}
        currencies = tuple({own.currency if own else "": None, **paid})
        spends = tuple((meter, place_of_sum(meter.allowance, currencies)) for meter in meters)
        return Plan(meters, spends, _group_by_name(meters, calendar.tenant_id), calendar, route.name, currencies)

    def _set_prices(self, plan: Plan, now: float) -> None:
        """The prices that are valid on the caller's day: a model's own, or those for every model where it has none."""
        prices = self._snapshot.prices if self._snapshot is not None else {}
        plan.since, plan.until, day = self._day(plan.calendar.time_zone, now)
        plan.prices = tuple(
            choose_price(prices.get((plan.model, currency), ()), day)
            or choose_price(prices.get((EVERY_MODEL, currency), ()), day)
            for currency in plan.currencies
        )
        plan.sound = _count_charges(plan) <= MAX_CHARGES and not _unpriced(plan)

    def _day(self, zone: str, now: float) -> tuple[float, float, str]:
        held = self._days.get(zone)
        if held is None or not held[0] <= now < held[1]:
            start, end = find_window(WindowKind.DAY, now, zone)
            held = self._days[zone] = (start, end, local_date(now, zone).isoformat())
        return held


def _group_by_name(meters: tuple[Meter, ...], tenant_id: str) -> tuple[tuple[int, ...], ...]:
    """Places of what a caller of this tenant is told of: its own tenant's, by the name under which it is told."""
    groups: dict[bytes, list[int]] = {}
    for place, meter in enumerate(meters):
        name = HEADER_NAMES.get(meter.allowance.unit)
        if name is not None and meter.kind is not WindowKind.NOW and meter.allowance.tenant_id == tenant_id:
            groups.setdefault(name, []).append(place)
    return tuple(tuple(places) for places in groups.values())


def _count_charges(plan: Plan) -> int:
    return sum(not meter.kind.is_standing for meter in plan.meters)


def _unpriced(plan: Plan) -> list[Meter]:
    return [
        meter
        for meter in plan.meters
        if meter.allowance.unit == "money" and plan.prices[plan.currencies.index(meter.allowance.currency)] is None
    ]


def _explain_unsound(plan: Plan) -> Unavailable:
    if _count_charges(plan) > MAX_CHARGES:
        return Unavailable(f"more than {MAX_CHARGES} allowances cover one call; delete some", retry_after_s=60)
    allowance = _unpriced(plan)[0].allowance
    if allowance.tenant_id == plan.calendar.tenant_id:
        why = f"{describe(allowance)} cannot be kept: `{plan.model}` has no price in {allowance.currency}"
    else:  # whose allowance it is, is its owner's business
        why = f"what the tenant that shares `{plan.model}` allows cannot be kept: a price is missing"
    return Unavailable(
        f"{why}; ask the platform's administrator to set one",
        openai_code="price_missing",
        retry_after_s=60,
    )


def covers(allowance: Allowance, key: Key, route: Route) -> bool:
    """Whether a call of this key to this endpoint spends an allowance."""
    if allowance.model and allowance.model != route.name:
        return False
    match allowance.scope:
        case "tenant":
            return allowance.scope_id == key.tenant_id
        case "project":
            return allowance.scope_id == key.project_id
        case "key" | "person":  # a person's calls bear the person's id where others bear a key's
            return allowance.scope_id == key.key_id
        case _:
            return bool(allowance.model)
