"""Traffic over real sockets: split, canary, shadow, fallbacks, turns at busy replicas, deadlines, replicas at fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    ENGINE_MODEL,
    KEY,
    PEPPER,
    STREAM_HEAD,
    Answer,
    FakeReplica,
    Rig,
    Script,
    answer_usual,
    chat,
    chunked,
    completion,
    events,
    json_bytes,
    key_hash,
    post,
    read_answer,
    run,
    running_gateway,
    snapshot_document,
    until,
)

from finmaas_core.sealing import seal_secret
from finmaas_serving.gateway.external import PURPOSE

BOB_KEY, NIGHT_KEY = "fmk_bob", "fmk_night"


def document(traffic: dict[str, Any] | None = None, terms: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Endpoint `chat` under a plan, `chat-v2` and `small` beside it; tenants acme and bob; a batch key of acme."""
    base = snapshot_document()
    chat_route = base["routes"][0]
    others = [
        {**chat_route, "endpoint_id": f"ep_{name}", "name": f"acme/risk/{name}", "short_name": name,
         "app": f"ep_{name}", "model_name": ENGINE_MODEL, "model_version": f"acme/risk/{name}@1"}
        for name in ("chat-v2", "small")
    ]  # fmt: skip
    plan = None if traffic is None else {"digest": "plan-1", **traffic}
    main = {**chat_route, "traffic": plan, "terms": terms or {}}
    ids = {"project": "bob/risk", "project_id": "prj_risk", "tenant_id": "ten_bob", "models": ["*"]}
    bob = {"hash": key_hash(BOB_KEY), "key_id": "key_bob", **ids}
    night = {**base["keys"][0], "hash": key_hash(NIGHT_KEY), "key_id": "key_night", "batch": True}
    return {**base, "keys": [*base["keys"], bob, night], "routes": [main, *others], "grants": [], **more}


@contextlib.asynccontextmanager
async def rig(
    folder: Path, main: list[Script], others: dict[str, Script] | None = None, **doc: Any
) -> AsyncIterator[tuple[Rig, dict[str, FakeReplica], list[FakeReplica]]]:
    """A gateway whose `chat` has the replicas of `main`, other endpoints one each."""
    others = others or {}
    async with running_gateway(folder, *main, document=document(**doc)) as (parts, replicas):
        beside = {name: FakeReplica(script) for name, script in others.items()}
        servers = {name: await asyncio.start_server(one.serve, "127.0.0.1", 0) for name, one in beside.items()}
        ports = {f"ep_{name}": server.sockets[0].getsockname()[1] for name, server in servers.items()}
        found = {"ep_chat": [("127.0.0.1", one.port) for one in replicas]}
        parts.gateway.replicas.replace(found | {app: [("127.0.0.1", port)] for app, port in ports.items()})
        try:
            yield parts, beside, replicas
        finally:
            for server in servers.values():
                server.close()


async def fail(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(json_bytes(500, {"error": {"message": "boom"}}))


async def overloaded(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(json_bytes(503, {"error": {"message": "busy"}}))


async def garbage(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n")


async def half_a_line(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 20")
    await writer.drain()
    writer.close()


async def no_json(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(json_bytes(200, b"<html>"))


async def hang(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def refuse(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.close()


async def die_mid_stream(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM_HEAD + chunked(events(["Hel"])[0]))
    await writer.drain()
    writer.close()


def split(**weights: float) -> dict[str, Any]:
    return {"split": [{"endpoint_id": f"ep_{n.replace('_', '-')}", "weight": w} for n, w in weights.items()]}


CANARY = {"canary": {"endpoint_id": "ep_chat-v2", "weight": 1.0, "bounds": {"min_requests": 3, "max_error_rate": 0.3}}}
SMALL = {"fallbacks": [{"endpoint_id": "ep_small"}]}


class TestSplit:
    def test_by_weight_and_told_to_the_client_and_the_record(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual], {"chat-v2": answer_usual}, traffic=split(chat=1, chat_v2=1)) as (
                parts,
                beside,
                replicas,
            ):
                answers = [await parts.call() for _ in range(40)]
                assert {a.status for a in answers} == {200}
                seen = Counter(a.headers["x-finmaas-endpoint"] for a in answers)
                assert seen["acme/risk/chat-v2"] == len(beside["chat-v2"].requests) > 5
                assert seen["acme/risk/chat"] == len(replicas[0].requests) > 5
                assert all(a.json["model"] == "chat" for a in answers)
                records = await parts.records(40)
                assert {r["endpoint_id"] for r in records} == {"ep_chat"}
                assert Counter(r["target_id"] for r in records)["ep_chat-v2"] == seen["acme/risk/chat-v2"]
                assert {r["traffic"] for r in records} == {"split"}

        run(test())

    @pytest.mark.parametrize("where", ["header", "user"])
    def test_a_session_keeps_its_target(self, tmp_path: Path, where: str) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual], {"chat-v2": answer_usual}, traffic=split(chat=1, chat_v2=1)) as (
                parts,
                _,
                __,
            ):
                homes = set()
                for session in range(12):
                    headers = f"x-session-id: s{session}\r\n" if where == "header" else ""
                    body = chat() if where == "header" else chat(user=f"u{session}")
                    went = {
                        (await parts.send(post(body, headers=headers))).headers["x-finmaas-endpoint"] for _ in range(3)
                    }
                    assert len(went) == 1
                    homes |= went
                assert len(homes) == 2

        run(test())

    def test_a_target_without_replicas_is_passed_over(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual], traffic=split(chat=1, chat_v2=99)) as (parts, _, __):
                assert {(await parts.call()).status for _ in range(10)} == {200}

        run(test())


class TestCanary:
    def test_failures_are_answered_by_the_others_and_give_it_up(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual], {"chat-v2": fail}, traffic=CANARY) as (parts, beside, _):
                answers = [await parts.call() for _ in range(10)]
                assert {a.status for a in answers} == {200}
                assert {a.headers["x-finmaas-endpoint"] for a in answers} == {"acme/risk/chat"}
                assert answers[0].headers["x-finmaas-attempts"] == "2"
                assert 1 <= len(beside["chat-v2"].requests) <= 3
                assert "failed" in parts.gateway.canaries.given_up["plan-1"]
                records = await parts.records(10)
                assert records[0]["failed_target_id"] == "ep_chat-v2"
                assert (records[0]["attempts"], records[-1]["failed_target_id"]) == (2, None)

        run(test())

    def test_a_good_one_goes_on(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual], {"chat-v2": answer_usual}, traffic=CANARY) as (parts, _, replicas):
                answers = [await parts.call(chat(stream=i % 2 == 0)) for i in range(10)]
                assert {a.headers["x-finmaas-traffic"] for a in answers} == {"canary"}
                assert not replicas[0].requests
                assert not parts.gateway.canaries.given_up

        run(test())

    def test_one_that_is_slow_is_given_up(self, tmp_path: Path) -> None:
        async def slow(replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.02)
            await answer_usual(replica, request, writer)

        async def test() -> None:
            bounds = {"min_requests": 3, "max_latency_ms": 5}
            plan = {"canary": {"endpoint_id": "ep_chat-v2", "weight": 1.0, "bounds": bounds}}
            async with rig(tmp_path, [answer_usual], {"chat-v2": slow}, traffic=plan) as (parts, _, replicas):
                for _ in range(12):
                    assert (await parts.call()).status == 200
                assert "ms or more" in parts.gateway.canaries.given_up["plan-1"]
                assert replicas[0].requests

        run(test())


class TestShadow:
    def test_gets_copies_that_nobody_waits_for(self, tmp_path: Path) -> None:
        async def test() -> None:
            plan = {"shadow": {"endpoint_id": "ep_chat-v2", "share": 1.0}}
            async with rig(tmp_path, [answer_usual], {"chat-v2": answer_usual}, traffic=plan) as (parts, beside, _):
                for stream in (False, True):
                    answer = await parts.call(chat(stream=stream))
                    assert answer.headers["x-finmaas-endpoint"] == "acme/risk/chat"
                records = await parts.records(4)
                assert sorted(r["traffic"] for r in records) == ["shadow", "shadow", "split", "split"]
                assert [r["request_id"].endswith("-shadow") for r in records if r["traffic"] == "shadow"] == [True] * 2
                assert len(beside["chat-v2"].requests) == 2
                await until(lambda: not parts.gateway.shadows and parts.gateway.running == 0)

        run(test())

    @pytest.mark.parametrize("script", [hang, fail, garbage, refuse, die_mid_stream])
    def test_a_bad_one_harms_nobody(self, tmp_path: Path, script: Script) -> None:
        async def test() -> None:
            plan = {"shadow": {"endpoint_id": "ep_chat-v2", "share": 1.0}}
            async with rig(tmp_path, [answer_usual], {"chat-v2": script}, traffic=plan) as (parts, _, __):
                assert [(await parts.call()).status for _ in range(5)] == [200] * 5

        run(test())


class TestFallback:
    @pytest.mark.parametrize("script", [fail, overloaded, garbage, half_a_line, no_json, refuse])
    def test_another_endpoint_answers(self, tmp_path: Path, script: Script) -> None:
        async def test() -> None:
            async with rig(tmp_path, [script], {"small": answer_usual}, traffic=SMALL) as (parts, _, __):
                answer = await parts.call()
                assert answer.status == 200, answer.body
                assert answer.headers["x-finmaas-endpoint"] == "acme/risk/small"
                assert answer.headers["x-finmaas-traffic"] == "fallback"
                [record] = await parts.records(1)
                assert (record["target_id"], record["failed_target_id"]) == ("ep_small", "ep_chat")

        run(test())

    def test_a_client_error_is_not_asked_elsewhere(self, tmp_path: Path) -> None:
        async def wrong(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(json_bytes(400, {"error": {"message": "maximum context length is 512"}}))

        async def test() -> None:
            async with rig(tmp_path, [wrong], {"small": answer_usual}, traffic=SMALL) as (parts, beside, _):
                assert (await parts.call()).status == 400
                assert not beside["small"].requests

        run(test())

    def test_never_after_the_first_byte(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [die_mid_stream], {"small": answer_usual}, traffic=SMALL) as (parts, beside, _):
                answer = await parts.call(chat(stream=True))
                assert answer.events[0]["choices"][0]["delta"]["content"] == "Hel"
                assert answer.events[-1]["error"]["code"] == "upstream_failed"
                assert not answer.whole
                assert not beside["small"].requests

        run(test())

    def test_a_silent_target_is_left_after_its_time(self, tmp_path: Path) -> None:
        async def test() -> None:
            plan = {**SMALL, "first_byte_s": 0.05}
            async with rig(tmp_path, [hang], {"small": answer_usual}, traffic=plan) as (parts, _, replicas):
                asked = asyncio.ensure_future(parts.call())
                await until(lambda: bool(replicas[0].requests))
                await asyncio.sleep(0.06)
                for connection in list(parts.gateway.connections):
                    connection.sweep(parts.gateway.loop.time())
                assert (await asked).headers["x-finmaas-endpoint"] == "acme/risk/small"
                await asyncio.wait_for(replicas[0].closed.wait(), 2)  # the engine hears of it

        run(test())

    def test_the_last_problem_is_told_when_all_fail(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [fail], {"small": overloaded}, traffic=SMALL) as (parts, _, __):
                answer = await parts.call()
                assert (answer.status, answer.error["code"]) == (503, "engine_overloaded")
                [record] = await parts.records(1)
                assert (record["status"], record["attempts"]) == (503, 2)

        run(test())


class TestOutside:
    def provider(self, port: int, *projects: str) -> dict[str, Any]:
        sealed = seal_secret(PEPPER.encode(), PURPOSE, "sk-outside")
        one = {"provider_id": "prv_1", "name": "partner", "base_url": f"http://127.0.0.1:{port}/v1", "sealed": sealed}
        return {"providers": [{**one, "projects": projects}]}

    async def ask(self, tmp_path: Path, *projects: str, body: dict[str, Any], stream: bool = False) -> Any:
        async def outside(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            assert request["model"] == "big-1"
            whole = completion("hello", model="big-1-2026")
            writer.write(json_bytes(200, whole))

        plan = {"fallbacks": [{"provider_id": "prv_1", "model": "big-1"}]}
        replica = FakeReplica(outside)
        server = await asyncio.start_server(replica.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with rig(tmp_path, [refuse], traffic=plan, **self.provider(port, *projects)) as (parts, _, __):
            answer = await parts.call(body)
            records = await parts.records(1)
        server.close()
        return answer, replica, records

    def test_masked_with_its_own_secret_and_told(self, tmp_path: Path) -> None:
        async def test() -> None:
            text = "my card is 6222021234567890128 and my mobile 13812345678"
            body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
            answer, replica, [record] = await self.ask(tmp_path, "prj_risk", body=body)
            assert answer.status == 200, answer.body
            assert answer.headers["x-finmaas-traffic"] == "external"
            assert answer.headers["x-finmaas-endpoint"] == "external:partner"
            sent = json.dumps(replica.requests[0], ensure_ascii=False)
            assert "13812345678" not in sent
            assert "6222021234567890128" not in sent
            assert "cache_salt" not in sent
            head = replica.heads[0]
            assert head.startswith(b"POST /v1/chat/completions HTTP/1.1")
            assert b"authorization: Bearer sk-outside\r\n" in head
            assert KEY.encode() not in head
            assert (record["traffic"], record["target_id"]) == ("external", "prv_1")

        run(test())

    def test_not_for_a_project_that_is_not_approved(self, tmp_path: Path) -> None:
        async def test() -> None:
            answer, replica, _ = await self.ask(tmp_path, "prj_fraud", body=chat())
            assert answer.status == 502
            assert not replica.requests

        run(test())

    def test_what_may_not_leave_does_not(self, tmp_path: Path) -> None:
        async def test() -> None:
            secret = {"role": "user", "content": "key: AKIAIOSFODNN7EXAMPLE -----BEGIN PRIVATE KEY-----"}
            answer, replica, _ = await self.ask(tmp_path, "prj_risk", body={"model": "chat", "messages": [secret]})
            assert answer.status == 400, answer.body
            assert answer.error["code"] == "content_policy_violation"
            assert not replica.requests

        run(test())


class Gate:
    """A script that answers when it is let, and notes in which order requests reached it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.order: list[str] = []
        self.running = 0
        self.most = 0

    async def __call__(self, replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.order.append(request["messages"][0]["content"])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
            await answer_usual(replica, request, writer)
        finally:
            self.running -= 1


async def fill(parts: Rig, gate: Gate, *requests: tuple[str, str]) -> list[asyncio.Task[Answer]]:
    """Sends (key, text) one after the other, each in the lane before the next."""
    sent: list[asyncio.Task[Answer]] = []
    lanes = parts.gateway.lanes
    for i, (key, text) in enumerate(requests):
        body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
        sent.append(asyncio.ensure_future(parts.call(body, key=key)))
        await until(lambda i=i: lanes.waiting() + len(gate.order) == i + 1 or sent[-1].done())  # type: ignore[misc]
    return sent


class TestTurns:
    def test_no_more_than_the_replicas_take_and_fair_between_tenants(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            async with rig(tmp_path, [gate], terms={"concurrency": 1}) as (parts, _, __):
                flood = [(KEY, f"a{i}") for i in range(6)]
                sent = await fill(parts, gate, *flood, (BOB_KEY, "b0"), (BOB_KEY, "b1"), (NIGHT_KEY, "n0"))
                assert parts.gateway.readiness()[1]["queued"] == 8
                gate.open.set()
                assert [answer.status for answer in await asyncio.gather(*sent)] == [200] * 9
                assert gate.most == 1
                # Bob's two are not behind acme's five that wait; the batch key's goes last.
                assert set(gate.order[1:5]) == {"a1", "b0", "a2", "b1"}
                assert gate.order[-1] == "n0"
                assert parts.gateway.lanes.waiting() == 0

        run(test())

    def test_a_full_queue_turns_the_flood_away_and_says_when_to_come_back(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            async with rig(tmp_path, [gate], terms={"concurrency": 1, "queue": 2}) as (parts, _, __):
                sent = await fill(parts, gate, (KEY, "a0"), (KEY, "a1"), (KEY, "a2"))
                late = await parts.call(key=KEY)
                assert (late.status, late.error["code"]) == (503, "endpoint_busy")
                assert int(late.headers["retry-after"]) >= 1
                bob = asyncio.ensure_future(parts.call(key=BOB_KEY))
                assert (await sent[2]).status == 503  # acme's newest made room for another tenant
                gate.open.set()
                assert [(await one).status for one in (sent[0], sent[1], bob)] == [200] * 3
                assert len(await parts.records(3)) == 3  # what was never sent is not recorded

        run(test())

    def test_who_leaves_while_it_waits_frees_its_place(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            async with rig(tmp_path, [gate], terms={"concurrency": 1}) as (parts, _, __):
                [first] = await fill(parts, gate, (KEY, "a0"))
                reader, writer = await parts.connect()
                writer.write(post(chat()))
                await until(lambda: parts.gateway.lanes.waiting() == 1)
                writer.close()
                await until(lambda: parts.gateway.lanes.waiting() == 0)
                gate.open.set()
                assert (await first).status == 200
                assert (await parts.call()).status == 200
                assert len(gate.order) == 2
                del reader

        run(test())

    def test_a_reservation_keeps_places_and_refuses_beyond(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            reserved = [{"tenant_id": "ten_bob", "slots": 1, "overflow": "refuse"}]
            terms = {"concurrency": 2, "reserved": reserved}
            async with rig(tmp_path, [gate], terms=terms) as (parts, _, __):
                sent = await fill(parts, gate, (KEY, "a0"), (KEY, "a1"))
                assert gate.order == ["a0"]  # the second place is bob's
                sent += await fill_one(parts, gate, BOB_KEY, "b0")
                beyond = await parts.call(key=BOB_KEY)
                assert (beyond.status, beyond.error["code"]) == (429, "reservation_used_up")
                assert "retry-after" in beyond.headers
                gate.open.set()
                assert [(await one).status for one in sent] == [200] * 3

        run(test())

    def test_the_wait_is_bounded(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            async with rig(tmp_path, [gate], terms={"concurrency": 1, "wait_s": 0.01}) as (parts, _, __):
                [first, second] = await fill(parts, gate, (KEY, "a0"), (KEY, "a1"))
                parts.gateway.lanes.sweep(parts.gateway.loop.time() + 1, lambda app: True)
                assert (await second).status == 503
                gate.open.set()
                assert (await first).status == 200

        run(test())

    def test_a_busy_endpoint_falls_back(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            terms = {"concurrency": 1, "queue": 0}
            async with rig(tmp_path, [gate], {"small": answer_usual}, traffic=SMALL, terms=terms) as (parts, _, __):
                [first] = await fill(parts, gate, (KEY, "a0"))
                assert (await parts.call()).headers["x-finmaas-endpoint"] == "acme/risk/small"
                gate.open.set()
                assert (await first).status == 200

        run(test())


async def fill_one(parts: Rig, gate: Gate, key: str, text: str) -> list[asyncio.Task[Answer]]:
    before = len(gate.order)
    body = {"model": "chat", "messages": [{"role": "user", "content": text}]}
    sent = asyncio.ensure_future(parts.call(body, key=key))
    await until(lambda: len(gate.order) == before + 1)
    return [sent]


class TestDeadline:
    def test_504_with_the_reason_and_the_engine_hears_of_it(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [hang]) as (parts, _, replicas):
                answer = await parts.send(post(chat(), headers="x-request-timeout: 0.05\r\n"))
                assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
                assert "waiting for the model" in answer.error["message"]
                await asyncio.wait_for(replicas[0].closed.wait(), 2)

        run(test())

    def test_in_the_queue(self, tmp_path: Path) -> None:
        async def test() -> None:
            gate = Gate()
            async with rig(tmp_path, [gate], terms={"concurrency": 1}) as (parts, _, __):
                [first] = await fill(parts, gate, (KEY, "a0"))
                answer = await parts.send(post(chat(), headers="x-request-timeout: 0.05\r\n"))
                assert answer.status in (503, 504)
                assert parts.gateway.lanes.waiting() == 0
                gate.open.set()
                assert (await first).status == 200
                assert len(await parts.records(1)) == 1

        run(test())

    def test_mid_stream(self, tmp_path: Path) -> None:
        async def stall(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunked(events(["Hel"])[0]))
            await asyncio.Event().wait()

        async def test() -> None:
            async with rig(tmp_path, [stall]) as (parts, _, __):
                answer = await parts.send(post(chat(stream=True), headers="x-request-timeout: 0.1\r\n"))
                assert answer.events[-1]["error"]["code"] == "deadline_exceeded"
                [record] = await parts.records(1)
                assert (record["status"], record["completion_tokens"]) == (504, 1)

        run(test())

    def test_a_timeout_that_is_none_is_refused(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual]) as (parts, _, __):
                answer = await parts.send(post(chat(), headers="x-request-timeout: soon\r\n"))
                assert answer.status == 400
                assert "x-request-timeout" in answer.error["message"]

        run(test())


class TestReplicas:
    def test_one_that_fails_is_left_alone_and_tried_again_by_one(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [overloaded, answer_usual]) as (parts, _, replicas):
                assert {(await parts.call(chat(user=f"{i}", seed=i))).status for i in range(20)} == {200}
                bad = next(one for one in parts.gateway.replicas.of("ep_chat") if one.port == replicas[0].port)
                tries = len(replicas[0].requests)
                if tries >= 3:
                    assert bad.failed_until > parts.gateway.loop.time()
                assert tries <= 4

        run(test())

    def test_an_upstream_that_ignores_cancellation_holds_nothing(self, tmp_path: Path) -> None:
        async def ignore(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async def test() -> None:
            async with rig(tmp_path, [ignore], terms={"concurrency": 1}) as (parts, _, replicas):
                for _ in range(3):
                    reader, writer = await parts.connect()
                    writer.write(post(chat()))
                    seen = len(replicas[0].requests)
                    await until(lambda seen=seen: len(replicas[0].requests) > seen)  # type: ignore[misc]
                    writer.close()
                    await until(lambda: parts.gateway.running == 0)
                    del reader
                lane = parts.gateway.lanes.find("ep_chat")
                assert lane is not None
                assert lane.running == 0
                assert [r["finish"] for r in await parts.records(3)] == ["client_left"] * 3

        run(test())

    def test_prompts_with_one_beginning_meet_one_replica(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with rig(tmp_path, [answer_usual] * 3) as (parts, _, replicas):
                for i in range(10):
                    system = {"role": "system", "content": "You are a careful clerk. " * 40}
                    body = {"model": "chat", "messages": [system, {"role": "user", "content": str(i)}]}
                    assert (await parts.call(body)).status == 200
                assert sorted(len(one.requests) for one in replicas) == [0, 0, 10]

        run(test())


class TestStaleness:
    def test_a_cut_off_gateway_refuses_who_asked_for_that(self, tmp_path: Path) -> None:
        async def test() -> None:
            tenants = [{"tenant_id": "ten_bob", "max_staleness_s": 60}]
            async with rig(tmp_path, [answer_usual], tenants=tenants) as (parts, _, __):
                holder = parts.gateway.snapshots
                reader, writer = await parts.connect()  # kept: what was learnt of its head must not outlive the bound
                writer.write(post(chat(), key=BOB_KEY))
                assert (await read_answer(reader)).status == 200
                holder._confirmed -= 61
                writer.write(post(chat(), key=BOB_KEY))
                refused = await read_answer(reader)
                assert (refused.status, refused.error["code"]) == (503, "gateway_cut_off")
                assert "max_staleness_s" in refused.error["message"]
                assert (await parts.call()).status == 200  # others are served from the copy
                holder.confirm()
                assert (await parts.call(key=BOB_KEY)).status == 200
                writer.close()

        run(test())
