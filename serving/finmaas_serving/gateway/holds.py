"""What one call has reserved of allowances: asked for, grown while it streams, settled or released."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from finmaas_core.errors import FinmaasError
from finmaas_core.prices import Price
from finmaas_core.windows import WindowKind
from finmaas_serving.gateway.allowance_words import HEADER_NAMES, Header, ledger_away, limit_headers, refusal
from finmaas_serving.gateway.slices import Slice, Waiter
from finmaas_serving.gateway.snapshot import Allowance

if TYPE_CHECKING:
    from finmaas_serving.gateway.allowances import Book, Plan

Done = Callable[[FinmaasError | None], None]
STEP_TOKENS = 256


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
        self._missing: list[tuple[Slice, Waiter]] = []

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
            name = HEADER_NAMES.get(slice_.allowance.unit)
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
