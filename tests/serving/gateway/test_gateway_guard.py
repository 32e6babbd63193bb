"""Guardrails and marks on calls through the gateway."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

from gateway_parts import (
    ENGINE_MODEL,
    KEY,
    PEPPER,
    STREAM_HEAD,
    Answer,
    FakeReplica,
    Rig,
    chat,
    chunked,
    completion,
    events,
    json_bytes,
    run,
    running_gateway,
    snapshot_document,
    until,
    usage,
)

from finmaas_serving.gateway.screen import provenance_key, seal

PHONE = "13800138000"


def with_policy(**document: Any) -> dict[str, Any]:
    policy = {"project_id": "prj_risk", "digest": "d1", "document": document}
    return snapshot_document(policies=[policy])


def rules(*uses: tuple[str, str, str]) -> list[dict[str, str]]:
    return [{"rule": rule, "input": input_, "output": output} for rule, input_, output in uses]


def says(text: str, **choice: Any) -> Any:
    """A replica that answers `text`, whole or in pieces of two characters."""

    async def script(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if not request.get("stream"):
            answer = completion(text)
            answer["choices"][0].update(choice)
            answer["choices"][0]["message"]["annotations"] = None
            writer.write(json_bytes(200, answer))
            return
        pieces = events([text[at : at + 2] for at in range(0, len(text), 2)])
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": ENGINE_MODEL}
        last = {**base, "choices": [end], "usage": usage(7, 3)}
        pieces.insert(-2, b"data: " + json.dumps(last, separators=(",", ":")).encode() + b"\n\n")
        writer.write(STREAM_HEAD + b"".join(chunked(piece) for piece in pieces) + b"0\r\n\r\n")

    return script


def text_of(answer: Answer) -> str:
    if answer.headers["content-type"].startswith("application/json"):
        content: str = answer.json["choices"][0]["message"]["content"]
        return content
    deltas = [event["choices"][0]["delta"] for event in answer.events[:-1] if event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


class TestMasks:
    def test_requests_and_answers_streamed_or_whole(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "mask", "mask")))

        async def test() -> None:
            async with running_gateway(tmp_path, says(f"请拨打{PHONE}，谢谢"), document=document) as (rig, [replica]):
                for stream in (False, True):
                    body = chat(stream, messages=[{"role": "user", "content": f"我的号码{PHONE}"}])
                    answer = await rig.call(body)
                    assert replica.requests[-1]["messages"][0]["content"] == "我的号码[手机号]"
                    assert text_of(answer) == "请拨打[手机号]，谢谢"
                    assert PHONE.encode() not in answer.body
                assert [record["completion_tokens"] for record in await rig.records(2)] == [3, 9]

        run(test())

    def test_what_replace_took_out_comes_back(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "replace", "mask")))

        async def test() -> None:
            async with running_gateway(tmp_path, says("回拨<cn_mobile_1>，或13900139000。"), document=document) as (
                rig,
                [replica],
            ):
                for stream in (False, True):
                    answer = await rig.call(chat(stream, messages=[{"role": "user", "content": PHONE}]))
                    assert replica.requests[-1]["messages"][0]["content"] == "<cn_mobile_1>"
                    assert text_of(answer) == f"回拨{PHONE}，或[手机号]。"

        run(test())

    def test_logprobs_would_tell_and_so_leave(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "off", "mask")))
        script = says(PHONE, logprobs={"content": [{"token": PHONE}]}, token_ids=[1])

        async def test() -> None:
            async with running_gateway(tmp_path, script, document=document) as (rig, _):
                answer = await rig.call(chat(logprobs=True))
                assert "annotations" not in answer.json["choices"][0]["message"]  # unknown, so it cannot be checked
                assert PHONE.encode() not in answer.body
                assert answer.json["choices"][0]["logprobs"] is None

        run(test())

    def test_arguments_of_tools_come_whole_and_masked(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "off", "mask")))
        pieces = ['{"phone": "13', "80013", '8000"}']

        async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": ENGINE_MODEL}
            calls = [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "dial", "arguments": ""}}]
            calls += [{"index": 0, "function": {"arguments": piece}} for piece in pieces]
            choices = [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None} for call in calls]
            choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
            for choice in choices:
                event = {**base, "choices": [choice], "usage": usage(7, 3)}
                replies.append(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
            writer.write(STREAM_HEAD + b"".join(map(chunked, [*replies, b"data: [DONE]\n\n"])) + b"0\r\n\r\n")

        replies: list[bytes] = []

        async def test() -> None:
            async with running_gateway(tmp_path, script, document=document) as (rig, _):
                answer = await rig.call(chat(True))
                [call] = answer.events[-2]["choices"][0]["delta"]["tool_calls"]
                assert (call["id"], call["function"]["name"]) == ("call_1", "dial")
                assert json.loads(call["function"]["arguments"]) == {"phone": "[手机号]"}
                assert PHONE.encode() not in answer.body

        run(test())


class TestRefuses:
    def test_a_blocked_request_never_reaches_the_replica(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cloud_key", "block", "off")))

        async def test() -> None:
            async with running_gateway(tmp_path, says("x"), document=document) as (rig, [replica]):
                body = chat(messages=[{"role": "user", "content": "AKIAIOSFODNN7EXAMPLE"}])
                answer = await rig.call(body)
                assert (answer.status, answer.error["code"]) == (400, "content_policy_violation")
                assert answer.error["param"] == "messages[0].content"
                assert replica.requests == []
                assert (await rig.call()).status == 200

        run(test())

    def test_a_refused_answer_is_withheld_and_the_engine_stopped(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("promised_return", "off", "block")), notice="不予显示 {x}（{rule}）")

        async def goes_on(replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if not request.get("stream"):
                writer.write(json_bytes(200, completion("本产品保本保息。")))
                return
            writer.write(
                STREAM_HEAD + b"".join(chunked(event) for event in events(["本产品", "保本", "保息", "。放心"])[:4])
            )
            await asyncio.Event().wait()

        async def test() -> None:
            async with running_gateway(tmp_path, goes_on, document=document) as (rig, [replica]):
                whole, streamed = await rig.call(), await rig.call(chat(True))
                for answer in (whole, streamed):
                    assert "保本" not in answer.body.decode()
                    assert "不予显示 {x}（promised_return）" in answer.body.decode()
                    assert "content_filter" in answer.body.decode()
                assert streamed.events[-1] == "[DONE]"
                assert streamed.whole
                await until(lambda: replica.closed.is_set())
                assert [record["finish"] for record in await rig.records(2)] == ["withheld", "withheld"]

        run(test())

    def test_a_policy_that_cannot_be_read_closes_the_door(self, tmp_path: Path) -> None:
        async def test() -> None:
            document = with_policy(rules=[], from_a_newer_release=True)
            async with running_gateway(tmp_path, says("x"), document=document) as (rig, [replica]):
                answer = await rig.call()
                assert answer.status == 503
                assert "from_a_newer_release" in answer.error["message"]
                assert replica.requests == []

        run(test())

    def test_an_answer_that_cannot_be_screened_is_not_sent(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "off", "mask")))

        async def odd(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            answer = completion("x")
            answer["choices"] = [{"index": 0, "message": [PHONE]}]
            writer.write(json_bytes(200, answer))

        async def test() -> None:
            async with running_gateway(tmp_path, odd, document=document) as (rig, _):
                answer = await rig.call()
                assert answer.status == 502
                assert PHONE.encode() not in answer.body

        run(test())

    def test_another_projects_policy_does_not_touch_a_call(self, tmp_path: Path) -> None:
        document = with_policy(rules=rules(("cn_mobile", "block", "mask")))
        document["policies"][0]["project_id"] = "prj_fraud"

        async def test() -> None:
            async with running_gateway(tmp_path, says(PHONE), document=document) as (rig, _):
                answer = await rig.call(chat(messages=[{"role": "user", "content": PHONE}]))
                assert text_of(answer) == PHONE

        run(test())


class TestMarks:
    async def _check(self, rig: Rig, body: dict[str, Any], text: str) -> None:
        answer = await rig.call(body)
        assert text_of(answer) == text
        stated = answer.json if "choices" in answer.body.decode()[:2000] and not body.get("stream") else None
        found = stated or next(event for event in reversed(answer.events[:-1]) if "provenance" in event)
        claim = dict(found["provenance"])
        assert claim["content"] == [{"index": 0, "sha256": hashlib.sha256(text.encode()).hexdigest()}]
        assert claim["request_id"] == answer.headers["x-request-id"]
        assert (claim["model"], claim["model_version"]) == ("acme/risk/chat", "acme/risk/m@1")
        mac = claim.pop("mac")
        assert mac == seal(provenance_key(PEPPER.encode()), claim)

    def test_text_for_people_and_provenance_for_machines(self, tmp_path: Path) -> None:
        document = with_policy(marks={"text": "（AI生成）", "provenance": True}, disclaimer="投资有风险。")

        async def test() -> None:
            async with running_gateway(tmp_path, says("今天天气好。"), document=document) as (rig, _):
                for stream in (False, True):
                    await self._check(rig, chat(stream), "今天天气好。\n\n投资有风险。（AI生成）")
                with_tools = chat(tools=[{"type": "function", "function": {"name": "f"}}])
                await self._check(rig, with_tools, "今天天气好。\n\n投资有风险。（AI生成）")  # it answers in prose
                structured = chat(response_format={"type": "json_object"})
                await self._check(rig, structured, "今天天气好。")

        run(test())

    def test_a_disclaimer_that_is_there_is_not_repeated(self, tmp_path: Path) -> None:
        document = with_policy(disclaimer="投资有风险。")

        async def test() -> None:
            async with running_gateway(tmp_path, says("提示：投资有风险。好。"), document=document) as (rig, _):
                for stream in (False, True):
                    assert text_of(await rig.call(chat(stream), key=KEY)) == "提示：投资有风险。好。"

        run(test())
