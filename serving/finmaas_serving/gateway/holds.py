"""What one call has reserved of allowances: asked for, grown while it streams, settled or released."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from finmaas_core.errors import FinmaasError
from finmaas_core.windows import WindowKind
from finmaas_serving.gateway.allowance_words import LimitWords, discreet, ledger_away, refusal
from finmaas_serving.gateway.slices import Slice, Waiter
from finmaas_serving.gateway.snapshot import Allowance

if TYPE_CHECKING:
    from finmaas_serving.gateway.allowances import Book, Plan

Done = Callable[[FinmaasError | None], None]
STEP_TOKENS: Final = 256
_SUMS: Final = {"requests": 0, "input_tokens": 1, "output_tokens": 2, "tokens": 3, "concurrency": 4}
_MONEY: Final = len(_SUMS)


def place_of_sum(allowance: Allowance, currencies: Sequence[str]) -> int:
    """Which of a call's sums an allowance counts: of `Hold.most` while it runs, of `Hold.used` when it is over."""
    return _MONEY + currencies.index(allowance.currency) if allowance.unit == "money" else _SUMS[allowance.unit]


class Hold:
    """What one call has reserved. `acquire` gives True, or later calls `done` once: with None, or with the reason."""

    __slots__ = (
        "_begun", "_book", "_done", "_fresh", "_missing", "amounts", "cost", "epoch", "output", "plan", "prices",
        "prompt", "slices", "starts", "step", "target", "whole",
    )  # fmt: skip

    def __init__(self, book: Book, plan: Plan, prompt: int, output: int, now: float, *, stepped: bool) -> None:
        self._book = book
        self.plan = plan
        self.prices = plan.prices  # of the day on which it began
        self.epoch = book.epoch
        self.prompt = prompt
        self.whole = output  # the most the answer may have
        self.step = STEP_TOKENS
        self.target = min(output, STEP_TOKENS) if stepped else output
        self.output = 0  # tokens of the answer that are reserved
        self.cost: int | None = None  # in the tenant's own money, once it is settled and where there is a price
        self.amounts: list[int] = []  # what is reserved, of which slice, in which minute: by the plan's meters
        self.slices: list[Slice | None] = []
        self.starts: list[int] = []
        self._begun = now
        self._done: Done | None = None
        self._fresh: list[int] = []  # what the present acquisition took, by place
        self._missing: list[tuple[Slice, Waiter]] = []

    @property
    def waiting(self) -> bool:
        return self._done is not None

    def _told(self, error: FinmaasError, allowance: Allowance) -> FinmaasError:
        """What the caller is told: of its own tenant's allowances all, of another's that there is no more."""
        return error if allowance.tenant_id == self.plan.calendar.tenant_id else discreet(error)

    def acquire_at_once(self) -> bool:
        """The first acquisition where no slice is near its end: as nearly always. False: nothing was done."""
        now, most = self._begun, self._most(self.target)
        found: list[tuple[Slice, int]] = []
        for meter, sum_ in self.plan.spends:
            slice_, amount = meter.slice, most[sum_]
            if (
                slice_ is None or slice_.tight or amount > slice_.idle or slice_.waiters
                or slice_.closed is not None or not slice_.start <= now < slice_.end
            ):  # fmt: skip
                return False
            found.append((slice_, amount))
        self.output = self.target
        slices, amounts, starts = self.slices, self.amounts, self.starts
        for slice_, amount in found:
            slice_.reserved += amount
            idle = slice_.idle = slice_.idle - amount
            slices.append(slice_)
            amounts.append(amount)
            starts.append(slice_.start)
            if idle < slice_.low and not slice_.asking:
                self._book.want(slice_)
        return True

    def acquire(self, done: Done) -> bool:
        """Reserves up to `target` tokens of answer. True: it is there. LimitReached: for certain there is no more."""
        book, now = self._book, self._book.now()
        lacking: list[tuple[int, Slice, int]] = []
        needs: list[tuple[int, Slice, int]] = []
        most = self._most(self.target)
        if not self.slices:
            self.amounts, self.starts = [0] * len(self.plan.meters), [0] * len(self.plan.meters)
            self.slices = [None] * len(self.plan.meters)
        for place, (meter, sum_) in enumerate(self.plan.spends):
            amount = most[sum_] - self.amounts[place]
            slice_ = self.slices[place] or book.slice_of(meter, now)
            if amount <= 0:
                continue
            if slice_.closed is not None and amount > slice_.idle + slice_.closed:
                raise self._told(refusal(slice_, amount, now), slice_.allowance)
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
            waiter = Waiter(self, place, amount)
            self._missing.append((slice_, waiter))
            slice_.waiters.append(waiter)
            book.want(slice_)
        return False

    def granted(self, slice_: Slice, waiter: Waiter) -> None:
        """The ledger's answer has what one waiter needs."""
        self._take(waiter.place, slice_, waiter.amount)
        self._missing = [pair for pair in self._missing if pair[1] is not waiter]
        if not self._missing:
            self.output = self.target
            self._finish(None)

    def failed(self, error: FinmaasError, allowance: Allowance) -> None:
        """One of them cannot be had: what this acquisition took goes back."""
        self._leave()
        self._undo()
        self._finish(self._told(error, allowance))

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
        used = self._used(prompt, cached, output, reasoning)
        self.cost = used[_MONEY] if self.prices[0] is not None else None
        slices = self.slices
        for place, (meter, sum_) in enumerate(self.plan.spends):
            slice_ = slices[place]
            if slice_ is None:
                continue
            amount = used[sum_]
            self._close(place, slice_, amount)
            if amount and not meter.is_standing:
                charges.append((slice_.number, amount))
        return charges

    def release(self) -> None:
        """The call never reached a replica: nothing is spent."""
        for place, slice_ in enumerate(self.slices):
            if slice_ is not None:
                self._close(place, slice_, 0)

    def lines(self) -> bytes:
        """Headers that tell what is left of requests, tokens and money; of several windows the one with least left."""
        now, out = time.monotonic() + self._book.offset, b""
        slices, meters = self.slices, self.plan.meters
        for places in self.plan.shown:
            told: Slice | None = None
            least = 0
            for place in places:
                slice_ = slices[place]
                if slice_ is not None and (told is None or slice_.idle + slice_.pool < least):
                    told, least, meter = slice_, slice_.idle + slice_.pool, meters[place]
            if told is not None:
                words = meter.words
                if words is None:
                    words = meter.words = LimitWords(meter.allowance)
                out += words.lines(least, told.end - now)
        return out

    def _most(self, output: int) -> list[int]:
        """The sums of a call whose answer may have so many tokens."""
        prompt, prices = self.prompt, self.prices
        price = prices[0]
        sums = [1, prompt, output, prompt + output, 1, price.most(prompt, output) if price is not None else 0]
        if len(prices) > 1:
            sums += [one.most(prompt, output) if one is not None else 0 for one in prices[1:]]
        return sums

    def _used(self, prompt: int, cached: int, output: int, reasoning: int) -> list[int]:
        """The sums of a call that is over; one that has ended does not run."""
        prices = self.prices
        price = prices[0]
        cost = price.cost(prompt, cached, output, reasoning) if price is not None else 0
        sums = [1, prompt, output, prompt + output, 0, cost]
        if len(prices) > 1:
            sums += [one.cost(prompt, cached, output, reasoning) if one is not None else 0 for one in prices[1:]]
        return sums

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
