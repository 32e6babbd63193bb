"""What a gateway does with the slices it holds: reserve, settle, refuse, grow streams, and survive clock jumps."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gateway_parts import (
    FakeReplica,
    answer_usual,
    chat,
    grant,
    limited,
    post,
    read_answer,
    run,
    running_gateway,
    stream_bytes,
    until,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import FinmaasError, LimitReached, Unavailable
from finmaas_serving.gateway.allowance_words import refusal
from finmaas_serving.gateway.allowances import Book
from finmaas_serving.gateway.body import read_body
from finmaas_serving.gateway.bounds import bound_call
from finmaas_serving.gateway.holds import Hold
from finmaas_serving.gateway.slices import Slice, fail_waiters, returnable, serve_waiters
from finmaas_serving.gateway.snapshot import Allowance, Calendar, Key, Route, Snapshot
from finmaas_serving.gateway.usual import UsualCall

KEY_, ROUTE = Key("h", "key_1", "prj_1", "a/b", "ten_1"), Route("ep", "a/b/c", "c", "prj_1", "ep", "a/b/c", "ready")


def allowance(unit: str, window: str, limit: int = 1000, **more: Any) -> Allowance:
    fields = {"scope": "project", "scope_id": "prj_1", "model": "", "currency": "", **more}
    return Allowance(f"alw_{unit}", "ten_1", unit=unit, window=window, limit=limit, **fields)


def snapshot(*allowances: Allowance) -> Snapshot:
    return Snapshot(1, "", {}, {}, allowances=allowances, calendars={"ten_1": Calendar("ten_1")})


def fill(book: Book, shot: Snapshot, amount: int, *, tight: bool = False) -> list[Slice]:
    """Slices as the ledger would have granted them."""
    book.epoch = 1
    slices = []
    for number, meter in enumerate(book.plan(shot, KEY_, ROUTE).meters, 1):
        slice_ = book.slice_of(meter, book.now())
        slice_.number, slice_.granted, slice_.held, slice_.idle, slice_.tight = number, amount, amount, amount, tight
        slices.append(slice_)
    return slices


def begin(book: Book, shot: Snapshot, prompt: int, output: int, *, stepped: bool = False) -> Hold:
    return book.begin(book.plan(shot, KEY_, ROUTE), prompt, output, stepped=stepped)


class TestHold:
    def test_reserves_the_most_and_settles_what_was_used(self) -> None:
        book, shot = Book(), snapshot(allowance("tokens", "month"), allowance("requests", "day"))
        tokens, requests = fill(book, shot, 1000)
        hold = begin(book, shot, 100, 200)
        assert hold.acquire(print)
        assert (tokens.idle, requests.idle) == (700, 999)
        assert hold.settle(20, 0, 30, 0) == [(1, 50), (2, 1)]
        assert (tokens.idle, tokens.reserved, requests.idle) == (950, 0, 999)

    def test_another_tenants_allowance_is_not_told_of(self) -> None:
        """A granted endpoint may have an allowance of its owner's."""
        book, shot = Book(), snapshot(allowance("requests", "day", scope="model", scope_id="", model="a/b/c"))
        foreign = msgspec.structs.replace(shot.allowances[0], tenant_id="ten_2", label="secret project")
        shot = Snapshot(1, "", {}, {}, allowances=(foreign,), calendars=shot.calendars)
        (slice_,) = fill(book, shot, 1)
        hold = begin(book, shot, 1, 1)
        assert hold.acquire(print)
        assert hold.lines() == b""
        slice_.closed = 0
        with pytest.raises(LimitReached) as refused:
            begin(book, shot, 1, 1).acquire(print)
        assert refused.value.details["openai_code"] == "insufficient_quota"
        for word in ("secret", "alw_", "1 of", "ten_2"):
            assert word not in refused.value.message
        slice_.closed = None
        heard: list[FinmaasError | None] = []
        assert not begin(book, shot, 1, 1).acquire(heard.append)
        fail_waiters(slice_, refusal(slice_, 1, book.now()))
        assert "secret" not in str(heard[0])

    def test_a_price_that_another_tenants_allowance_lacks_names_it_no_more(self) -> None:
        foreign = allowance("money", "month", scope="model", scope_id="", model="a/b/c")
        shot = snapshot(msgspec.structs.replace(foreign, tenant_id="ten_2", label="secret project"))
        with pytest.raises(Unavailable, match="a price is missing") as refused:
            begin(Book(), shot, 1, 1)
        assert refused.value.details["openai_code"] == "price_missing"
        for word in ("secret", "alw_", "CNY", "ten_2"):
            assert word not in refused.value.message

    def test_one_person_spends_of_the_project_acted_for(self) -> None:
        """A person's calls bear one id in every project, and a granted endpoint is called from several."""
        own, other = (allowance("tokens", "day", scope_id=f"prj_{n}") for n in (1, 2))
        ann = allowance("requests", "day", scope="person", scope_id="prn_ann")
        other = msgspec.structs.replace(other, allowance_id="alw_other")
        book, shot = Book(), snapshot(own, other, ann)
        plans = {
            project: book.plan(shot, Key("", "prn_ann", project, "a/b", "ten_1"), ROUTE)
            for project in ("prj_1", "prj_2", "prj_1")
        }
        spent = {project: [meter.allowance for meter in plan.meters] for project, plan in plans.items()}
        assert spent == {"prj_1": [own, ann], "prj_2": [other, ann]}
        assert [meter.allowance for meter in book.plan(shot, KEY_, ROUTE).meters] == [own]  # a key's are nobody's

    def test_who_acts_in_all_tenants_pays_in_the_money_of_the_one_acted_for(self) -> None:
        calendars = {name: Calendar(name, currency=money) for name, money in (("ten_1", "CNY"), ("ten_2", "EUR"))}
        book, shot = Book(), Snapshot(1, "", {}, {}, calendars=calendars)
        paid = [
            book.plan(shot, Key("", "prn_boss", f"prj_{tenant}", "a/b", tenant), ROUTE).currencies
            for tenant in ("ten_1", "ten_2")
        ]
        assert paid == [("CNY",), ("EUR",)]

    def test_all_or_nothing(self) -> None:
        book, shot = Book(), snapshot(allowance("tokens", "month"), allowance("requests", "day"))
        tokens, requests = fill(book, shot, 1000)
        requests.closed = requests.idle = 0
        with pytest.raises(LimitReached):
            begin(book, shot, 100, 200).acquire(print)
        assert tokens.idle == 1000

    def test_without_a_ledger_it_is_said(self) -> None:
        book, shot = Book(), snapshot(allowance("tokens", "month"))
        with pytest.raises(Unavailable, match="ledger"):
            begin(book, shot, 100, 200).acquire(print)

    def test_waits_for_the_ledger_in_order(self) -> None:
        book, shot = Book(), snapshot(allowance("tokens", "month"))
        (slice_,) = fill(book, shot, 0)
        heard: list[tuple[int, FinmaasError | None]] = []
        holds = [begin(book, shot, 100, 100) for _ in range(3)]
        for number, hold in enumerate(holds):
            assert not hold.acquire(lambda error, n=number: heard.append((n, error)))  # type: ignore[misc]
        assert slice_ in book.wanted
        assert slice_.wanted == 600
        slice_.granted = slice_.held = slice_.idle = 400
        serve_waiters(slice_)
        fail_waiters(slice_, refusal(slice_, 200, book.now()))
        assert [(number, error is None) for number, error in heard] == [(0, True), (1, True), (2, False)]
        assert (slice_.idle, slice_.reserved) == (0, 400)

    def test_a_client_that_leaves_while_it_waits_leaves_nothing(self) -> None:
        book, shot = Book(), snapshot(allowance("tokens", "month"), allowance("requests", "day"))
        tokens, requests = fill(book, shot, 10)
        hold = begin(book, shot, 100, 100)
        assert not hold.acquire(print)
        hold.cancel()
        assert not tokens.waiters
        assert (tokens.idle, requests.idle, requests.reserved) == (10, 10, 0)

    def test_nothing_of_a_tight_slice_is_spent_without_asking(self) -> None:
        book, shot = Book(), snapshot(allowance("requests", "day"))
        fill(book, shot, 10, tight=True)
        assert not begin(book, shot, 1, 1).acquire(print)

    def test_money_without_a_price_is_refused(self) -> None:
        book, shot = Book(), snapshot(allowance("money", "month", currency="CNY"))
        with pytest.raises(Unavailable, match="no price in CNY"):
            begin(book, shot, 1, 1)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 300)), min_size=1, max_size=40))
    def test_what_is_held_is_idle_reserved_or_spent(self, events: list[tuple[bool, int, int]]) -> None:
        book, shot = Book(), snapshot(allowance("output_tokens", "month"))
        (slice_,) = fill(book, shot, 2000)
        running: list[tuple[Hold, int]] = []
        spent = 0
        for starts, bound, used in events:
            if starts:
                hold = begin(book, shot, 0, bound)
                if hold.acquire(lambda _: None):
                    running.append((hold, bound))
                else:
                    assert slice_.idle < bound
                    hold.cancel()
            elif running:
                hold, most = running.pop()
                spent += sum(amount for _, amount in hold.settle(0, 0, min(used, most), 0))
            assert slice_.idle + slice_.reserved + spent == 2000
            assert slice_.idle >= 0


class TestMinutes:
    def test_a_share_renews_and_an_old_hold_gives_nothing_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        book, shot = Book(), snapshot(allowance("requests", "minute"))
        at = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: at)
        book.offset = 6_000_000.0 - at
        (slice_,) = fill(book, shot, 3)
        old = begin(book, shot, 1, 1)
        assert old.acquire(print)
        at += 60
        (meter,) = book.plan(shot, KEY_, ROUTE).meters
        assert book.slice_of(meter, book.now()).idle == 3
        assert slice_.spent_before == 1
        assert returnable(slice_, book.now()) == 2  # another clock may still be in the minute before
        assert returnable(slice_, book.now() + 1) == 3
        old.settle(0, 0, 0, 0)
        assert slice_.idle == 3

    @pytest.mark.parametrize("jump_s", [3600.0, -3600.0, 59.0, 61.0])
    def test_a_clock_that_jumps_gains_nothing(self, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
        book, shot = Book(), snapshot(allowance("requests", "minute"))
        at = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: at)
        book.offset = 6_000_000.0 - at
        fill(book, shot, 2)
        assert begin(book, shot, 1, 1).acquire(print)
        book.offset += jump_s
        assert begin(book, shot, 1, 1).acquire(print)
        assert not begin(book, shot, 1, 1).acquire(print)


class TestBounds:
    def bound(self, context: int | None = 4096, path: str = "/v1/chat/completions", **more: Any) -> tuple[int, int]:
        import json

        return bound_call(path, read_body(json.dumps(chat(**more)).encode()), context)

    def test_answers(self) -> None:
        assert self.bound()[1] == 4096
        assert self.bound(max_tokens=10)[1] == 10
        assert self.bound(max_tokens=10, max_completion_tokens=7)[1] == 7
        assert self.bound(max_tokens=10, n=3)[1] == 30
        assert self.bound(max_tokens=None)[1] == 4096
        assert self.bound(path="/v1/embeddings")[1] == 0

    def test_a_prompt_is_never_more_than_its_bytes(self) -> None:
        body = chat(messages=[{"role": "user", "content": "你好" * 100}])
        assert 600 < self.bound(messages=body["messages"])[0] <= 4096

    def test_an_image_can_fill_the_context(self) -> None:
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
        assert self.bound(messages=[{"role": "user", "content": [part]}])[0] == 4096


class TestCalls:
    def test_a_refusal_says_what_and_when(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=limited("requests", "day", 1)) as (rig, _):
                grant(rig, 1, 0)
                good = await rig.call()
                assert good.status == 200
                assert good.headers["x-ratelimit-limit-requests"] == "1"
                refused = await rig.call()
                assert (refused.status, refused.error["code"]) == (429, "insufficient_quota")
                assert "project acme/risk" in refused.error["message"]
                assert int(refused.headers["retry-after"]) > 0
                assert refused.headers["x-ratelimit-remaining-requests"] == "0"
                (record,) = await rig.records(1)
                assert (record["charges"], record["epoch"]) == ([[1, 1]], 1)

        run(test())

    @pytest.mark.parametrize("usual", [True, False])
    def test_calls_on_one_connection_spend_wait_and_are_refused(self, tmp_path: Path, usual: bool) -> None:
        headers = "" if usual else "x-request-timeout: 60\r\n"  # a call with a deadline of its own is not a usual one

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=limited("requests", "day", 9)) as (rig, _):
                slice_ = grant(rig, 3, None)
                reader, writer = await rig.connect()
                for left in (2, 1, 0):
                    writer.write(post(chat(), headers=headers))
                    answer = await read_answer(reader)
                    assert (answer.status, answer.headers["x-ratelimit-remaining-requests"]) == (200, str(left))
                writer.write(post(chat(), headers=headers))
                await until(lambda: bool(slice_.waiters))  # the ledger is asked
                assert isinstance(next(iter(rig.gateway.connections))._call, UsualCall) is usual
                slice_.granted, slice_.held, slice_.idle = 4, 4, 1
                serve_waiters(slice_)
                assert (await read_answer(reader)).status == 200
                slice_.closed = 0
                writer.write(post(chat(), headers=headers))
                assert (await read_answer(reader)).status == 429
                slice_.closed = None
                writer.write(post(chat(), headers=headers))
                await until(lambda: bool(slice_.waiters))
                writer.close()  # it leaves while it waits
                await until(lambda: not slice_.waiters)
                records = await rig.records(4)
                assert [record["charges"] for record in records] == [[[1, 1]]] * 4
                assert (slice_.idle, slice_.reserved) == (0, 0)
                assert (rig.gateway.running, rig.gateway.spool._reserved) == (0, 0)
                assert [one.in_flight for one in rig.gateway.replicas.of("ep_chat")] == [0]

        run(test())

    def test_without_a_ledger_it_is_503_and_nothing_is_recorded(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=limited("tokens", "day", 100)) as (rig, _):
                answer = await rig.call()
                assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
                assert rig.gateway.spool.last == 0
                assert rig.gateway.running == 0

        run(test())

    def test_a_stream_ends_where_its_allowance_ends(self, tmp_path: Path) -> None:
        async def long(_: FakeReplica, __: dict[str, Any], writer: Any) -> None:
            writer.write(stream_bytes([f"w{n} " for n in range(500)]))

        async def test() -> None:
            async with running_gateway(tmp_path, long, document=limited("output_tokens", "day", 300)) as (rig, _):
                slice_ = grant(rig, 300, 0)
                answer = await rig.call(chat(stream=True, stream_options={"include_usage": True}))
                *chunks, last, usage, done = answer.events
                assert done == "[DONE]"
                assert last["choices"][0]["finish_reason"] == "length"
                assert usage["usage"]["completion_tokens"] == len(chunks)
                assert 256 <= len(chunks) <= 300
                (record,) = await rig.records(1)
                assert record["charges"] == [[1, len(chunks)]]
                assert slice_.idle + len(chunks) == 300
                assert slice_.reserved == 0

        run(test())

    def test_a_stream_within_its_allowance_is_whole(self, tmp_path: Path) -> None:
        async def long(_: FakeReplica, __: dict[str, Any], writer: Any) -> None:
            writer.write(stream_bytes([f"w{n} " for n in range(500)]))

        async def test() -> None:
            async with running_gateway(tmp_path, long, document=limited("output_tokens", "day", 9000)) as (rig, _):
                grant(rig, 9000, None)
                answer = await rig.call(chat(stream=True))
                assert len(answer.events) == 501
                (record,) = await rig.records(1)
                assert record["charges"] == [[1, 500]]

        run(test())
