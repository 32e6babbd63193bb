"""What a call may spend: reserved before its turn, grown in steps while it streams, settled with its record.

A stream that can have no more ends where its reservation ends, with `finish_reason: length`: what the engine wrote
beyond it is neither passed on nor charged.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from finmaas_core.errors import FinmaasError
from finmaas_serving.gateway.bounded import Bounded
from finmaas_serving.gateway.bounds import bound_call
from finmaas_serving.gateway.errors import problem_of
from finmaas_serving.gateway.holds import STEP_TOKENS, Hold
from finmaas_serving.gateway.journey import Journey
from finmaas_serving.gateway.schemas import Usage, UsageRecord
from finmaas_serving.gateway.traffic import SHADOW

if TYPE_CHECKING:
    from finmaas_serving.gateway.context import Gateway
    from finmaas_serving.gateway.shapes import Rewriter
    from finmaas_serving.gateway.snapshot import Key, Route

STEPPED: Final = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"))
"""Streams whose reservation grows. Others reserve the whole answer at once."""


class Spending(Journey):
    """A journey that is paid for."""

    __slots__ = ("_hold", "_upstream_ended")

    _hold: Hold | None  # what it has reserved of allowances
    _upstream_ended: bool  # the engine is through, while its last events wait for the ledger

    @property
    @abstractmethod
    def runs(self) -> bool:
        """Neither answered nor given up."""

    @abstractmethod
    def _pass_on(self, rewriter: Rewriter, data: bytes, *, cut: bool = False) -> None:
        """What came from the engine, on to the client; `cut` ends the answer here."""

    def _pay_and_enter(self) -> None:
        """Reserves what the call may use, then asks for a turn; later, when the ledger has to be asked."""
        try:
            if self._reserve():
                self._enter()
        except FinmaasError as error:
            self._give_up(problem_of(error))

    def _reserve(self) -> bool:
        gateway, route, book = self._gateway, self._route, self._gateway.allowances
        snapshot = gateway.snapshots.current
        if not snapshot.allowances or self._role == SHADOW:
            return True
        plan = book.plan(snapshot, self._key, route)
        if not plan.meters:
            return True
        path = self._shape.path
        prompt, output = bound_call(path, self._body, route.max_model_len)
        stepped = self._body.stream and path in STEPPED
        self._hold = hold = book.begin(plan, prompt, output, stepped=stepped)
        return hold.acquire_at_once() or hold.acquire(self.admitted)

    def admitted(self, error: FinmaasError | None) -> None:
        """The ledger has answered."""
        if not self.runs:
            return
        if error is None:
            self._enter()
        else:
            self._give_up(problem_of(error))

    def _limit(self, rewriter: Rewriter) -> None:
        """Lets a stream go as far as it is reserved."""
        if self._hold is not None and isinstance(rewriter, Bounded):
            rewriter.limit = self._hold.output
            rewriter.bound(self._hold.prompt, self._hold.whole)

    def _keep_ahead(self, rewriter: Rewriter) -> None:
        """Reserves the next step before the last one is used up; reading stops while none is there."""
        hold = self._hold
        if hold is None or not isinstance(rewriter, Bounded) or rewriter.limit is None or not self.runs:
            return
        if rewriter.over and not hold.waiting and (hold.output >= hold.whole or not hold.step):
            self._pass_on(rewriter, b"", cut=True)
            return
        near = hold.output - rewriter.output <= STEP_TOKENS // 2
        if near and not hold.waiting and hold.step and hold.grow():
            try:
                if hold.acquire(self._grown):
                    self._grown(None)
            except FinmaasError as error:
                self._grown(error)
            return
        if rewriter.over and self._exchange is not None:
            self._exchange.pause()

    def _grown(self, error: FinmaasError | None) -> None:
        """The next step is there, or cannot be had: then a smaller one is tried, once the last one is used up."""
        hold, rewriter = self._hold, self._rewriter
        if hold is None or not self.runs or not isinstance(rewriter, Bounded):
            return
        if error is None:
            rewriter.limit = hold.output
        elif not rewriter.over or hold.shrink():
            self._keep_ahead(rewriter) if rewriter.over else None
            return
        if not rewriter.over:
            return
        if error is not None:
            self._pass_on(rewriter, b"", cut=True)
            return
        if self._exchange is not None and self._paused_at is None:
            self._exchange.resume()
        self._pass_on(rewriter, b"")
        if self._upstream_ended and not self._is_kept_back():
            self.upstream_done()

    def _is_kept_back(self) -> bool:
        """The engine's last events wait for the ledger."""
        return isinstance(self._rewriter, Bounded) and self._rewriter.over and self.runs

    def _let_go(self) -> None:
        """No replica was asked: nothing is spent."""
        if self._hold is not None:
            self._hold.cancel()

    def _charge(self, record: UsageRecord, usage: Usage) -> None:
        """Prices a record, settles what was reserved, and notes what the ledger has to settle."""
        if self._role == SHADOW:
            record.reasoning_tokens = usage.reasoning_tokens
        else:
            charge(self._gateway, self._key, self._route, self._hold, record, usage)

    def _allowance_lines(self) -> bytes:
        return self._hold.lines() if self._hold is not None else b""


def charge(gateway: Gateway, key: Key, route: Route, hold: Hold | None, record: UsageRecord, usage: Usage) -> None:
    """Prices a record, settles what was reserved, and notes what the ledger has to settle."""
    prompt, cached, output = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens or 0
    reasoning = record.reasoning_tokens = usage.reasoning_tokens
    record.cost_nano, record.currency, record.charges = settle(
        gateway, key, route, hold, prompt, cached, output, reasoning
    )
    record.epoch = hold.epoch if hold is not None and record.charges else 0


def settle(
    gateway: Gateway, key: Key, route: Route, hold: Hold | None, prompt: int, cached: int, output: int, reasoning: int
) -> tuple[int | None, str | None, list[tuple[int, int]]]:
    """What so many tokens cost and in which money, and what the ledger has to settle for them; frees the rest."""
    if hold is None:
        cost, currency = gateway.allowances.cost(
            gateway.snapshots.current, key, route, prompt, cached, output, reasoning
        )
        return cost, currency, []
    if hold.waiting:
        hold.leave()
    charges = hold.settle(prompt, cached, output, reasoning)
    return hold.cost, hold.plan.calendar.currency if hold.cost is not None else None, charges
