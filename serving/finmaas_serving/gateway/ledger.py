"""The gateway's side of the ledger: asks for more of a slice, gives back what is called back, closes what a process
before this one left. The ledger itself is the control plane's.

What is granted and returned is told as sums that only grow, so an answer that was lost, or came twice, changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import msgspec

from finmaas_core.errors import Corrupt, Unavailable
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.allowance_words import ledger_away, refusal
from finmaas_serving.gateway.allowances import Book
from finmaas_serving.gateway.control_line import Post
from finmaas_serving.gateway.slices import Slice, fail_waiters, returnable, serve_waiters

if TYPE_CHECKING:
    from finmaas_serving.gateway.context import Gateway

CALL_S = 8.0  # an answer usually comes within 50 ms; a ledger that is down refuses at once
HEARTBEAT_S = 2.0
RECALL_WAIT_S = 20
AT_ONCE = 8
_T = TypeVar("_T")
log = get_logger()


class Want(msgspec.Struct):
    """More of a window: `need` beyond what is held (0: only to be filled up), `granted` as known here."""

    allowance_id: str
    starts_at: int
    at: float
    granted: int
    need: int
    least: int


class Told(msgspec.Struct):
    """A slice as its holder sees it. `reserved`: near the end with what is kept for calls that wait."""

    slice: int
    granted: int
    returned: int
    reserved: int
    round: int


class _Call(msgspec.Struct):
    gateway: str
    epoch: int
    told: list[Told]
    wants: list[Want]


class Grant(msgspec.Struct):
    """A slice as the ledger sees it. `final`: for all gateways together there is no more; `still`: and nothing is
    reserved whose release could change that."""

    allowance_id: str
    starts_at: int
    slice: int
    granted: int
    tight: bool
    low: int
    pool: int
    settled: int
    outstanding: int
    final: bool = False
    still: bool = False
    away: list[str] = []


class _Answer(msgspec.Struct):
    now: float
    grants: list[Grant]


class _Opened(msgspec.Struct):
    epoch: int
    now: float


class Recall(msgspec.Struct):
    """What is idle of a slice is wanted back."""

    slice: int
    round: int
    granted: int


class _Recalls(msgspec.Struct):
    recalls: list[Recall]


class Ledger:
    """The link of one gateway process to the ledger."""

    def __init__(self, gateway: Gateway, name: str, post: Post) -> None:
        self._gateway = gateway
        self._book: Book = gateway.allowances
        self._name = name
        self._line = post
        self._woken = asyncio.Event()
        self._calls: set[asyncio.Task[None]] = set()
        self._left_behind = gateway.spool.last  # records of processes before this one end here
        self._closed_old = False
        self._book.wake = self._woken.set

    async def open(self) -> None:
        """Begins an epoch: what an earlier process held counts as spent until its records are delivered."""
        if not self._book.epoch:
            opened = await self._post("open", {"gateway": self._name}, _Opened)
            self._book.epoch = opened.epoch
            self._book.offset = opened.now - time.monotonic()
            self._woken.set()
        if not self._closed_old and self._gateway.spool.acknowledged >= self._left_behind:
            await self._api_post("close", {"gateway": self._name, "epoch": self._book.epoch})
            self._closed_old = True
            log.info("ledger.opened", epoch=self._book.epoch)
        await asyncio.sleep(HEARTBEAT_S if self._closed_old else 0.1)
        if self._closed_old:
            await self._call([])

    async def answer_recalls(self) -> None:
        """One long poll: gives back what is idle of the slices that the ledger names."""
        if not self._book.epoch:
            await asyncio.sleep(0.1)
            return
        body = {"gateway": self._name, "epoch": self._book.epoch, "wait_s": RECALL_WAIT_S}
        found = await self._post("recalls", body, _Recalls)
        now = self._book.now()
        for recall in found.recalls:
            slice_ = self._book.slices.get(recall.slice)
            if slice_ is None:
                continue
            _learn(slice_, recall.granted)
            slice_.round = max(slice_.round, recall.round)
            slice_.tight = True
            _give_back(slice_, now)
        if found.recalls:
            told = [slice_ for recall in found.recalls if (slice_ := self._book.slices.get(recall.slice))]
            unknown = [
                Told(r.slice, r.granted, r.granted, 0, r.round)
                for r in found.recalls
                if r.slice not in self._book.slices
            ]
            await self._send(told, unknown, [])

    async def ask(self) -> None:
        """Takes what is wanted, each slice in at most one call at a time."""
        await self._woken.wait()
        self._woken.clear()
        book = self._book
        ready = [slice_ for slice_ in book.wanted if not slice_.asking]
        if not book.epoch:
            for slice_ in ready:
                fail_waiters(slice_, ledger_away())
            book.wanted.clear()
            return
        while ready and len(self._calls) < AT_ONCE:
            urgent = next((slice_ for slice_ in ready if slice_.waiters), None)
            batch = [urgent] if urgent is not None else [slice_ for slice_ in ready if not slice_.waiters]
            for slice_ in batch:
                ready.remove(slice_)
                book.wanted.discard(slice_)
                slice_.asking = True
            task = asyncio.create_task(self._call(batch))
            self._calls.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("ledger.call_failed", error=f"{type(error).__name__}: {error}")
        self._woken.set()

    async def _call(self, slices: Sequence[Slice]) -> None:
        try:
            for slice_ in slices:
                serve_waiters(slice_)  # what others gave back meanwhile may be enough, and then nothing is wanted
            wants = [want for slice_ in slices if (want := self._want_of(slice_)) is not None]
            await self._send(slices, [], wants)
        except (OSError, Corrupt, Unavailable, msgspec.DecodeError) as error:
            if slices:
                log.warning("ledger.away", error=f"{type(error).__name__}: {error}")
            for slice_ in slices:
                fail_waiters(slice_, ledger_away())
        finally:
            for slice_ in slices:
                slice_.asking = False
                if slice_.waiters:
                    self._book.wanted.add(slice_)

    async def _send(self, slices: Sequence[Slice], unknown: list[Told], wants: list[Want]) -> None:
        book = self._book
        waiting = {slice_: len(slice_.waiters) for slice_ in slices}
        now = book.now()
        for slice_ in slices:
            if slice_.tight and not slice_.waiters:
                _give_back(slice_, now)
        told = [Told(s.number, s.granted, s.returned, _returnable_yet(s), s.round) for s in slices if s.number]
        sent_at = time.monotonic()
        answer = await self._post("calls", _Call(self._name, book.epoch, told + unknown, wants), _Answer)
        book.offset = answer.now - (sent_at + time.monotonic()) / 2
        by_window = {(slice_.allowance.allowance_id, slice_.start): slice_ for slice_ in slices}
        for grant in answer.grants:
            found = by_window.get((grant.allowance_id, grant.starts_at)) or _standing(slices, grant)
            if found is not None:
                self._take(found, grant, waiting[found])

    def _take(self, slice_: Slice, grant: Grant, asked: int) -> None:
        """What the ledger says of one slice: those that wait get theirs, or the reason why not."""
        slice_.number = grant.slice
        self._book.slices[grant.slice] = slice_
        _learn(slice_, grant.granted)
        slice_.tight, slice_.low = grant.tight, grant.low
        slice_.pool, slice_.settled, slice_.outstanding = grant.pool, grant.settled, grant.outstanding
        slice_.away = tuple(grant.away)
        served = len(slice_.waiters)
        serve_waiters(slice_)
        left = asked - (served - len(slice_.waiters))
        if grant.final and left > 0:
            first = slice_.waiters[0].amount if slice_.waiters else 0
            slice_.closed = grant.pool if grant.still else None
            fail_waiters(slice_, refusal(slice_, first, self._book.now()), left)
        if slice_.tight and slice_.idle and not slice_.waiters:
            self._book.want(slice_)

    def _want_of(self, slice_: Slice) -> Want | None:
        need = slice_.wanted
        if not need and (slice_.tight or slice_.idle >= slice_.low):
            return None
        start = 0 if slice_.kind.is_standing else slice_.start
        least = min((waiter.amount for waiter in slice_.waiters), default=0)
        allowance_id = slice_.allowance.allowance_id
        return Want(allowance_id, start, self._book.now(), slice_.granted, need, max(0, least - slice_.idle))

    async def _api_post(self, path: str, body: object) -> bytes:
        wait_s = CALL_S if path != "recalls" else RECALL_WAIT_S + CALL_S
        status, answer = await self._line(f"/api/v1/gateway/ledger/{path}", msgspec.json.encode(body), wait_s)
        if status == HTTPStatus.CONFLICT:  # written off, or restored from before
            log.error("ledger.epoch_over", epoch=self._book.epoch)
            self._book.epoch = 0
            self._closed_old = False
            self._left_behind = self._gateway.spool.last
            self._book.forget()
            raise Unavailable("the ledger does not know this gateway's epoch any more")
        if status >= HTTPStatus.BAD_REQUEST:
            raise Unavailable(f"the ledger answered {status}")
        return answer

    async def _post(self, path: str, body: object, kind: type[_T]) -> _T:
        return msgspec.json.decode(await self._api_post(path, body), type=kind)


def _learn(slice_: Slice, granted: int) -> None:
    more = granted - slice_.granted
    if more > 0:
        slice_.granted += more
        slice_.held += more
        slice_.idle += more


def _give_back(slice_: Slice, now: float) -> None:
    amount = returnable(slice_, now)
    slice_.closed = None if amount else slice_.closed
    slice_.returned += amount
    slice_.held -= amount
    slice_.idle -= amount


def _returnable_yet(slice_: Slice) -> int:
    """What may come back later: what is reserved, and near the end what is kept for those that wait."""
    return slice_.reserved + (slice_.idle if slice_.tight else 0)


def _standing(slices: Sequence[Slice], grant: Grant) -> Slice | None:
    for slice_ in slices:
        if slice_.kind.is_standing and slice_.allowance.allowance_id == grant.allowance_id:
            return slice_
    return None
