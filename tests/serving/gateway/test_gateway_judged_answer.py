"""Answers that a model judges before their client gets them, whole and as streams, in every shape."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    STREAM_HEAD,
    FakeReplica,
    Rig,
    chat,
    chunked,
    completion,
    events,
    grant,
    json_bytes,
    limited,
    post,
    read_head,
    run,
    running_gateway,
    snapshot_document,
    until,
)
from shape_parts import response_events, sse, text_item

from finmaas_core.errors import InvalidInput
from finmaas_serving.gateway.judged_answer import OVERLAP_CHARS, Said
from finmaas_serving.guard.policy import Guard, read_policy

JUDGE = "acme/risk/cold"  # an endpoint of the test's snapshot
LONG = [f"word{number:02d} " for number in range(40)]  # 280 characters: several windows of 100


def document(**moderation: Any) -> dict[str, Any]:
    policy = {"moderation": {"model": "cold", "block": ["bad"], "requests": False, "answers": True, **moderation}}
    return snapshot_document(policies=[{"project_id": "prj_risk", "digest": "d", "document": policy}])


class Engine:
    """A replica that serves both: the judge calls `bad` what holds a word of `bad`; the model says `pieces`."""

    def __init__(self, pieces: list[str], bad: str = "", verdict: Any = None, answer: bytes = b"") -> None:
        self.pieces = pieces
        self.bad = bad
        self.verdict = verdict
        self.answer = answer
        self.judged: list[str] = []
        self.may_judge = asyncio.Event()
        self.may_judge.set()

    async def __call__(self, _: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["model"] == JUDGE:
            text = request["messages"][-1]["content"]
            self.judged.append(text)
            await self.may_judge.wait()
            if isinstance(self.verdict, int):
                writer.write(json_bytes(self.verdict, {"error": {"message": f"too long: {text}"}}))
                return
            label = f"bad: {text}" if self.bad and self.bad in text else "fine"
            writer.write(json_bytes(200, {**completion(label), "model": JUDGE}))
        elif self.answer:
            writer.write(self.answer)
        elif not request.get("stream"):
            writer.write(json_bytes(200, completion("".join(self.pieces))))
        else:
            writer.write(STREAM_HEAD)
            for event in events(self.pieces):
                writer.write(chunked(event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")


def serve_judge(rig: Rig, replica: FakeReplica) -> None:
    address = ("127.0.0.1", replica.port)
    rig.gateway.replicas.replace({"ep_chat": [address], "ep_cold": [address]})


def is_put_off(rig: Rig) -> bool:
    """Whether the engine is through with the one call there is, and its record waits for the judge."""
    [connection] = rig.gateway.connections
    judged: Any = connection._call
    return bool(judged.call._put_off)


def text_of(answer: Any) -> str:
    return "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in answer.events
        if isinstance(event, dict) and event.get("choices")
    )


class TestWhole:
    def test_what_the_judge_lets_through_arrives_and_the_judge_is_counted(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(["hello ", "there"])
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call()
                assert answer.json["choices"][0]["message"]["content"] == "hello there"
                assert engine.judged == ["hello there"]
                records = await rig.records(2)
                assert [(one["endpoint_id"], one["finish"]) for one in records] == [
                    ("ep_cold", "complete"),
                    ("ep_chat", "complete"),
                ]
                assert records[0]["request_id"] == records[1]["request_id"] + "-judge-1"

        run(test())

    @pytest.mark.parametrize(
        ("verdict", "bad", "status", "code"),
        [
            (None, "there", 400, "content_policy_violation"),
            (500, "", 503, "endpoint_not_ready"),
            (404, "", 503, "endpoint_not_ready"),
        ],
    )
    def test_what_it_does_not_let_through_does_not(
        self, tmp_path: Path, verdict: Any, bad: str, status: int, code: str
    ) -> None:
        async def test() -> None:
            engine = Engine(["hello ", "there"], bad, verdict)
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call()
                assert (answer.status, answer.error["code"], b"there" in answer.body) == (status, code, False)
                assert "answer" in answer.error["message"]
                await until(lambda: not rig.gateway.running)
                assert rig.gateway.spool._reserved == 0
                [record] = [one for one in await rig.records(2) if one["endpoint_id"] == "ep_chat"]
                assert (record["finish"], record["completion_tokens"] > 0) == ("withheld", True)

        run(test())

    def test_requests_and_answers_may_both_be_judged(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(["hello"])
            async with running_gateway(tmp_path, engine, document=document(requests=True)) as (rig, [replica]):
                serve_judge(rig, replica)
                assert (await rig.call()).status == 200
                assert engine.judged == ["hi", "hello"]

        run(test())

    def test_every_text_of_an_answer_is_judged(self, tmp_path: Path) -> None:
        answer = completion("seen")
        function = {"name": "dial", "arguments": '{"to": "them"}'}
        answer["choices"][0]["message"] |= {
            "reasoning_content": "thought",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }

        async def test() -> None:
            engine = Engine([], answer=json_bytes(200, answer))
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                assert (await rig.call()).json["choices"][0]["message"]["content"] == "seen"
                assert engine.judged == ['seen\nthought\ndial\n{"to": "them"}']

        run(test())

    def test_numbers_are_not_judged(self, tmp_path: Path) -> None:
        body = {"object": "list", "model": "acme/risk/chat", "data": [{"index": 0, "embedding": [0.5]}]}

        async def test() -> None:
            engine = Engine([], answer=json_bytes(200, body))
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                assert (await rig.call({"model": "chat", "input": "x"}, path="/v1/embeddings")).status == 200
                assert not engine.judged

        run(test())


class TestStreams:
    def test_windows_pass_one_after_the_other(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(LONG)
            async with running_gateway(tmp_path, engine, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call(chat(True))
                assert (answer.status, answer.whole, answer.events[-1]) == (200, True, "[DONE]")
                assert text_of(answer) == "".join(LONG)
                assert set("".join(LONG).split()) <= set(" ".join(engine.judged).split())
                assert len(engine.judged[0]) >= 100

        run(test())

    def test_a_window_is_held_until_it_is_judged(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(LONG)
            engine.may_judge.clear()
            async with running_gateway(tmp_path, engine, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                reader, writer = await rig.connect()
                writer.write(post(chat(True)))
                head = asyncio.ensure_future(read_head(reader))
                await until(lambda: bool(engine.judged))
                await until(lambda: is_put_off(rig))
                assert not head.done()
                engine.may_judge.set()
                assert (await head)[0] == 200
                assert b"word39" in await reader.readuntil(b"[DONE]")
                writer.close()

        run(test())

    def test_a_bad_first_window_is_a_refusal(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(LONG, bad="word02")
            async with running_gateway(tmp_path, engine, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call(chat(True))
                assert (answer.status, answer.error["code"]) == (400, "content_policy_violation")
                assert b"word0" not in answer.body
                assert rig.gateway.running == 0

        run(test())

    def test_a_bad_later_window_ends_the_stream_and_the_engine(self, tmp_path: Path) -> None:
        async def endless(replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if request["model"] == JUDGE:
                text = request["messages"][-1]["content"]
                writer.write(json_bytes(200, {**completion("bad" if "word30" in text else "fine"), "model": JUDGE}))
                return
            writer.write(STREAM_HEAD)
            for event in events(LONG)[:-2]:
                writer.write(chunked(event))
            await writer.drain()
            await asyncio.Event().wait()

        async def test() -> None:
            async with running_gateway(tmp_path, endless, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call(chat(True))
                assert answer.status in (200, 400)
                assert (b"word30" in answer.body, b"content_policy_violation" in answer.body) == (False, True)
                await until(lambda: rig.gateway.running == 0)
                records = {one["endpoint_id"]: one["finish"] for one in await rig.records(2)}
                assert records["ep_chat"] == "withheld"
                await replica.closed.wait()

        run(test())

    def test_a_judge_that_fails_lets_nothing_more_through(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(LONG, verdict=500)
            async with running_gateway(tmp_path, engine, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call(chat(True))
                assert (answer.status, b"word" in answer.body) == (503, False)

        run(test())

    def test_an_engine_that_dies_ends_the_stream_with_its_error(self, tmp_path: Path) -> None:
        async def dying(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if request["model"] == JUDGE:
                writer.write(json_bytes(200, {**completion("fine"), "model": JUDGE}))
                return
            writer.write(STREAM_HEAD + chunked(events(["unjudged"])[0]))
            await writer.drain()
            writer.close()

        async def test() -> None:
            async with running_gateway(tmp_path, dying, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                answer = await rig.call(chat(True))
                assert (answer.whole, b"upstream_failed" in answer.body, b"unjudged" in answer.body) == (
                    False,
                    True,
                    False,
                )

        run(test())

    def test_a_client_that_leaves_ends_engine_and_judge(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(LONG)
            engine.may_judge.clear()
            async with running_gateway(tmp_path, engine, document=document(window_chars=100)) as (rig, [replica]):
                serve_judge(rig, replica)
                _, writer = await rig.connect()
                writer.write(post(chat(True)))
                await until(lambda: bool(engine.judged))
                writer.close()
                await until(lambda: rig.gateway.running == 0)

        run(test())

    @pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
    def test_named_events(self, tmp_path: Path, path: str) -> None:
        text = "".join(LONG)
        if path == "/v1/responses":
            stream = sse(response_events([text_item(text)]))
            body: dict[str, Any] = {"model": "chat", "stream": True, "input": "hi"}
        else:
            message = {
                "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "acme/risk/chat",
                "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 0},
            }  # fmt: skip
            pieces = [
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in LONG
            ]
            end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 40}}
            stream = sse(
                [
                    {"type": "message_start", "message": message},
                    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                    *pieces,
                    {"type": "content_block_stop", "index": 0},
                    end,
                    {"type": "message_stop"},
                ]
            )
            body = {"model": "chat", "stream": True, "max_tokens": 99, "messages": [{"role": "user", "content": "hi"}]}

        async def test() -> None:
            for bad in ("", "word39"):
                engine = Engine([], bad, answer=STREAM_HEAD + chunked(stream) + b"0\r\n\r\n")
                folder = tmp_path / (bad or "good")
                folder.mkdir()
                async with running_gateway(folder, engine, document=document()) as (rig, [replica]):
                    serve_judge(rig, replica)
                    answer = await rig.call(body, path=path)
                    assert (answer.status, b"word" in answer.body) == ((400, False) if bad else (200, True))
                    assert engine.judged[0].split() == text.split()  # once, though the stream tells it several times

        run(test())


class TestRecords:
    """The record waits for the verdict, says what became of the answer, once, and is written before its last byte."""

    @pytest.mark.parametrize(("bad", "finish"), [("", "complete"), ("word39", "withheld")])
    @pytest.mark.parametrize("stream", [True, False])
    def test_it_says_what_the_judge_said_at_the_end(self, tmp_path: Path, stream: bool, bad: str, finish: str) -> None:
        async def test() -> None:
            engine = Engine(LONG, bad=bad)
            engine.may_judge.clear()
            limit = {**limited("output_tokens", "day", 1000), "policies": document(window_chars=100)["policies"]}
            async with running_gateway(tmp_path, engine, document=limit) as (rig, [replica]):
                serve_judge(rig, replica)
                slice_ = grant(rig, 1000, None)
                call = asyncio.ensure_future(rig.call({**chat(stream), "max_tokens": 100}))
                await until(lambda: bool(engine.judged) and is_put_off(rig))
                assert rig.gateway.spool.last == 0  # nothing is written
                engine.may_judge.set()
                assert (bad or "word39").encode() in (await call).body or finish == "withheld"
                await until(lambda: not rig.gateway.running)
                records = [one for one in await rig.records(rig.gateway.spool.last) if one["endpoint_id"] == "ep_chat"]
                assert [one["finish"] for one in records] == [finish]
                assert records[0]["charges"] == [[1, records[0]["completion_tokens"]]]
                judges = [one for one in await rig.records(rig.gateway.spool.last) if one["endpoint_id"] == "ep_cold"]
                spent = sum(one["completion_tokens"] for one in (*records, *judges))
                assert (slice_.reserved, 1000 - slice_.idle) == (0, spent)
                assert rig.gateway.spool._reserved == 0

        run(test())

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_judge_that_fails_at_the_end_leaves_nothing_reserved(self, tmp_path: Path, stream: bool) -> None:
        async def test() -> None:
            engine = Engine(LONG)
            engine.may_judge.clear()
            limit = {**limited("output_tokens", "day", 1000), "policies": document(window_chars=1000)["policies"]}
            async with running_gateway(tmp_path, engine, document=limit) as (rig, [replica]):
                serve_judge(rig, replica)
                slice_ = grant(rig, 1000, None)
                call = asyncio.ensure_future(rig.call({**chat(stream), "max_tokens": 100}))
                await until(lambda: bool(engine.judged) and is_put_off(rig))
                engine.verdict = 503
                engine.may_judge.set()
                answer = await call
                assert (answer.status, b"word" in answer.body) == (503, False)  # the judge's error repeats the text
                await until(lambda: not rig.gateway.running)
                records = await rig.records(rig.gateway.spool.last)
                [record] = [one for one in records if one["endpoint_id"] == "ep_chat"]
                assert record["finish"] == "withheld"
                assert record["completion_tokens"] > 0  # the engine did the work
                assert record["charges"] == [[1, record["completion_tokens"]]]
                spent = sum(one["completion_tokens"] for one in records)
                assert (slice_.reserved, 1000 - slice_.idle) == (0, spent)
                assert rig.gateway.spool._reserved == 0

        run(test())

    def test_a_client_that_leaves_while_the_judge_thinks_is_counted_once(self, tmp_path: Path) -> None:
        async def test() -> None:
            engine = Engine(["hello ", "there"])
            engine.may_judge.clear()
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                _, writer = await rig.connect()
                writer.write(post(chat()))
                await until(lambda: bool(engine.judged) and is_put_off(rig))
                writer.close()
                await until(lambda: not rig.gateway.running)
                records = [one for one in await rig.records(2) if one["endpoint_id"] == "ep_chat"]
                assert [(one["finish"], one["completion_tokens"] > 0) for one in records] == [("client_left", True)]
                assert rig.gateway.spool._reserved == 0

        run(test())

    @pytest.mark.parametrize("stream", [True, False])
    def test_nothing_of_the_end_leaves_when_it_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
    ) -> None:
        def broken(*_: object) -> None:
            raise OSError(5, "Input/output error")

        async def test() -> None:
            engine = Engine(["hello ", "there"])
            engine.may_judge.clear()
            async with running_gateway(tmp_path, engine, document=document()) as (rig, [replica]):
                serve_judge(rig, replica)
                call = asyncio.ensure_future(rig.call(chat(stream)))
                await until(lambda: bool(engine.judged) and is_put_off(rig))
                rig.gateway.spool._offset = rig.gateway.spool._segment_bytes - 900  # room for the judge's record
                monkeypatch.setattr(Path, "rename", broken)
                engine.may_judge.set()
                answer = await call
                assert (b"there" in answer.body, b"[DONE]" in answer.body) == (False, False)
                assert b"gateway_full" in answer.body
                monkeypatch.undo()

        run(test())


class TestSaid:
    def test_the_judge_sees_the_end_of_the_window_before(self) -> None:
        said = Said()
        said.note({"choices": [{"index": 0, "delta": {"content": "a" * 300}}]})
        assert (said.fresh, said.take(), said.fresh, said.take()) == (300, "a" * 300, 0, "")
        said.note({"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]})
        assert said.take() == "a" * OVERLAP_CHARS + "b"

    def test_choices_are_apart(self) -> None:
        said = Said()
        for number, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y")):
            said.note({"choices": [{"index": number, "delta": {"content": text}}]})
        assert said.take() == "ab\nxy"


@pytest.mark.parametrize("changes", [{"requests": False}, {"window_chars": 1}, {"window_chars": 10**9}])
def test_a_moderation_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="moderation"):
        Guard(read_policy({"moderation": {"model": "judge", "block": ["bad"], **changes}}))
