"""Responses, Anthropic's messages, rerank and score through the gateway: forwarding, usage, refusals, guardrails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    KEY,
    STREAM_HEAD,
    FakeReplica,
    chunked,
    json_bytes,
    key_hash,
    post,
    run,
    running_gateway,
    snapshot_document,
    usage,
)
from shape_parts import (
    answers,
    message,
    message_events,
    read_events,
    reasoning_item,
    response,
    response_events,
    sse,
    text_item,
    told_message,
    told_response,
)

RESPONSES, MESSAGES, RERANK, SCORE = "/v1/responses", "/v1/messages", "/v1/rerank", "/v1/score"
PHONE = "13800138000"


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "chat", "input": "hi", **more}


def say(**more: Any) -> dict[str, Any]:
    return {"model": "chat", "max_tokens": 16, "messages": [{"role": "user", "content": "hi"}], **more}


def guarded(**document: Any) -> dict[str, Any]:
    return snapshot_document(policies=[{"project_id": "prj_risk", "digest": "d1", "document": document}])


def masked(input_: str = "mask", output: str = "mask", **more: Any) -> dict[str, Any]:
    return guarded(rules=[{"rule": "cn_mobile", "input": input_, "output": output}], **more)


class TestResponses:
    def test_whole_and_streamed(self, tmp_path: Path) -> None:
        items = [reasoning_item("hm"), text_item("Hello 你好")]
        script = answers(response(items), response_events(items))

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, [replica]):
                whole = await rig.call(ask(), path=RESPONSES)
                assert (whole.status, whole.json["model"]) == (200, "chat")
                assert b" /ep_chat/v1/responses " in replica.heads[0]
                streamed = read_events((await rig.call(ask(stream=True), path=RESPONSES)).body)
                assert told_response(streamed) == [("reasoning", "hm"), ("message", "Hello 你好")]
                assert {event["response"]["model"] for event in streamed if "response" in event} == {"chat"}
                assert "stream_options" not in replica.requests[-1]
                for record in await rig.records(2):
                    counts = [record[f"{name}_tokens"] for name in ("prompt", "completion", "cached")]
                    assert (counts, record["counted_by"], record["finish"]) == ([7, 3, 4], "engine", "complete")
                    assert record["path"] == RESPONSES

        run(test())

    def test_a_name_that_a_client_wrote_stays(self, tmp_path: Path) -> None:
        echo = response([], metadata={"model": "acme/risk/chat"})

        async def test() -> None:
            async with running_gateway(tmp_path, answers(echo, [])) as (rig, _):
                told = (await rig.call(ask(), path=RESPONSES)).json
                assert (told["metadata"]["model"], told["model"]) == ("acme/risk/chat", "chat")

        run(test())

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("store", True),
            ("previous_response_id", "resp_1"),
            ("conversation", "conv_1"),
            ("background", True),
            ("prompt", {"id": "pmpt_1"}),
            ("store", "yes"),
        ],
    )
    def test_nothing_is_stored(self, tmp_path: Path, field: str, value: Any) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answers(response([]), [])) as (rig, [replica]):
                answer = await rig.call(ask(**{field: value}), path=RESPONSES)
                assert (answer.status, answer.error["param"]) == (400, field)
                assert f"`{field}`" in answer.error["message"]
                assert (await rig.call(ask(store=False, previous_response_id=None), path=RESPONSES)).status == 200
                assert len(replica.requests) == 1
                fetched = await rig.get("/v1/responses/resp_1")
                assert (fetched.status, fetched.error["code"]) == (404, "not_stored")

        run(test())

    def test_a_stream_that_breaks_off_says_so_and_counts_what_was_said(self, tmp_path: Path) -> None:
        events = response_events([text_item("Hello")])[:7]

        async def script(_: FakeReplica, __: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunked(sse(events)))
            await writer.drain()
            writer.close()

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, _):
                answer = await rig.call(ask(stream=True), path=RESPONSES)
                told = read_events(answer.body)
                assert (told[-1]["type"], told[-1]["code"], answer.whole) == ("error", "upstream_failed", False)
                [record] = await rig.records(1)
                pieces = sum(event["type"].endswith("delta") for event in events)
                assert (record["completion_tokens"], record["counted_by"]) == (pieces, "gateway")

        run(test())

    @pytest.mark.parametrize(
        "garbage",
        [
            b'data: {"type":"response.created"}\n\n',
            b'event: response.created\ndata: {"type":"other"}\n\n',
            b'event: response.created\ndata: {"type":"response.created","response":5}\n\n',
            b"event: response.completed\ndata: {\n\n",
            b"\xff\xfe\n\n",
        ],
    )
    def test_garbage_in_the_stream_is_not_passed_on(self, tmp_path: Path, garbage: bytes) -> None:
        async def script(_: FakeReplica, __: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunked(garbage) + b"0\r\n\r\n")

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, _):
                assert (await rig.call(ask(stream=True), path=RESPONSES)).status == 502

        run(test())


class TestMessages:
    def test_whole_and_streamed(self, tmp_path: Path) -> None:
        blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Hello 你好"}]
        script = answers(message(blocks), message_events(blocks))

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, [replica]):
                whole = await rig.call(say(), path=MESSAGES)
                assert (whole.status, whole.json["model"]) == (200, "chat")
                streamed = read_events((await rig.call(say(stream=True), path=MESSAGES)).body)
                assert streamed[0]["message"]["model"] == "chat"
                assert told_message(streamed) == [("thinking", "hm"), ("text", "Hello 你好")]
                assert replica.requests[-1]["cache_salt"] == rig.gateway.cache_salt_of("ten_acme")
                for record in await rig.records(2):
                    counts = [record[f"{name}_tokens"] for name in ("prompt", "completion", "cached")]
                    assert (counts, record["counted_by"], record["finish"]) == ([7, 3, 4], "engine", "complete")

        run(test())

    def test_the_key_may_come_as_anthropics_clients_send_it(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answers(message([]), [])) as (rig, [replica]):
                for headers, key, status in (
                    (f"x-api-key: {KEY}\r\n", None, 200),
                    (f"x-api-key: {KEY}\r\n", KEY, 200),
                    ("x-api-key: fmk_wrong\r\n", None, 401),
                    ("x-api-key: fmk_wrong\r\n", KEY, 400),
                    ("", None, 401),
                ):
                    answer = await rig.send(post(say(), path=MESSAGES, key=key, headers=headers))
                    assert answer.status == status, (headers, key)
                assert all(KEY.encode() not in head for head in replica.heads)

        run(test())

    @pytest.mark.parametrize(
        ("request_", "status", "kind"),
        [
            (post(say(model="none"), path=MESSAGES), 404, "not_found_error"),
            (post(say(), path=MESSAGES, key="fmk_wrong"), 401, "authentication_error"),
            (post(b"{", path=MESSAGES), 400, "invalid_request_error"),
            (post(say(), path=MESSAGES).replace(b"POST", b"GET"), 405, "invalid_request_error"),
            (post(say(model="cold"), path=MESSAGES), 503, "overloaded_error"),
        ],
    )
    def test_errors_have_anthropics_shape(self, tmp_path: Path, request_: bytes, status: int, kind: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answers(message([]), [])) as (rig, _):
                answer = await rig.send(request_)
                assert (answer.status, answer.json["type"], answer.json["error"]["type"]) == (status, "error", kind)

        run(test())

    def test_an_engines_error_in_the_stream_ends_it(self, tmp_path: Path) -> None:
        error = {"type": "error", "error": {"type": "internal_error", "message": "boom"}}
        events = [*message_events([{"type": "text", "text": "Hello"}])[:3], error]

        async def test() -> None:
            async with running_gateway(tmp_path, answers(message([]), events)) as (rig, _):
                answer = await rig.call(say(stream=True), path=MESSAGES)
                assert read_events(answer.body)[-1] == error
                [record] = await rig.records(1)
                assert (record["finish"], record["prompt_tokens"]) == ("upstream_failed", 7)

        run(test())

    def test_a_client_that_leaves_is_counted_by_what_it_got(self, tmp_path: Path) -> None:
        events = message_events([{"type": "text", "text": "Hello"}])[:4]

        async def script(_: FakeReplica, __: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM_HEAD + chunked(sse(events)))
            await asyncio.Event().wait()

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, [replica]):
                reader, writer = await rig.connect()
                writer.write(post(say(stream=True), path=MESSAGES))
                await reader.readuntil(b"content_block_delta")
                writer.close()
                await replica.closed.wait()
                [record] = await rig.records(1)
                assert (record["finish"], record["counted_by"]) == ("client_left", "gateway")
                assert (record["prompt_tokens"], record["completion_tokens"]) == (7, 2)

        run(test())

    def test_tokens_are_counted_without_use(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answers({"input_tokens": 9}, [])) as (rig, _):
                answer = await rig.call(say(), path=f"{MESSAGES}/count_tokens")
                assert answer.json == {"input_tokens": 9}
                [record] = await rig.records(1)
                assert (record["prompt_tokens"], record["counted_by"]) == (0, "engine")

        run(test())


class TestScores:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            (RERANK, {"model": "chat", "query": "a", "documents": ["b", "c"]}),
            (SCORE, {"model": "chat", "text_1": "a", "text_2": ["b", "c"]}),
        ],
    )
    def test_forwarded_and_counted(self, tmp_path: Path, path: str, body: dict[str, Any]) -> None:
        whole = {"id": "x", "model": "acme/risk/chat", "usage": usage(5, 0), "results": []}

        async def test() -> None:
            async with running_gateway(tmp_path, answers(whole, [])) as (rig, [replica]):
                assert (await rig.call(body, path=path)).json["model"] == "chat"
                assert replica.requests[0]["cache_salt"] == rig.gateway.cache_salt_of("ten_acme")
                [record] = await rig.records(1)
                assert (record["prompt_tokens"], record["completion_tokens"], record["path"]) == (5, 0, path)
                refused = await rig.call({**body, "stream": True}, path=path)
                assert (refused.status, refused.error["param"]) == (400, "stream")

        run(test())

    @pytest.mark.parametrize(("status", "body"), [(404, {"error": {"message": "Not Found"}}), (501, {"message": "no"})])
    def test_a_model_that_does_not_rank_says_so(self, tmp_path: Path, status: int, body: dict[str, Any]) -> None:
        async def script(_: FakeReplica, __: Any, writer: asyncio.StreamWriter) -> None:
            writer.write(json_bytes(status, body))

        async def test() -> None:
            async with running_gateway(tmp_path, script) as (rig, _):
                answer = await rig.call({"model": "chat", "query": "a", "documents": []}, path=RERANK)
                assert (answer.status, answer.error["code"]) == (400, "unsupported_path")

        run(test())


REMOTE = [
    (RESPONSES, ask(input=[{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]),
     "input[0].content[0].image_url"),
    (RESPONSES, ask(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}]),
     "input[0].content[0].file_id"),
    (RESPONSES, ask(input=[{"role": "user", "content": [{"type": "input_file", "file_url": "https://x/y"}]}]),
     "input[0].content[0].file_url"),
    (RESPONSES, ask(input=[{"type": "function_call_output", "call_id": "c",
                            "output": [{"type": "input_image", "image_url": "http://x"}]}]),
     "input[0].output[0].image_url"),
    (RESPONSES, ask(input=[{"type": "item_reference", "id": "msg_1"}]), "input[0].id"),
    (RESPONSES, ask(tools=[{"type": "mcp", "server_label": "x", "server_url": "https://x"}]), "tools[0].server_url"),
    (MESSAGES, say(messages=[{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}]}]), "messages[0].content[0].source"),
    (MESSAGES, say(messages=[{"role": "user", "content": [
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}]), "messages[0].content[0].source"),
    (MESSAGES, say(messages=[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [
        {"type": "image", "source": {"type": "url", "url": "http://x"}}]}]}]),
     "messages[0].content[0].content[0].source"),
    (RERANK, {"model": "chat", "query": "a", "documents": [{"content": [
        {"type": "image_url", "image_url": {"url": "http://x"}}]}]}, "documents[0].content[0].image_url"),
    (SCORE, {"model": "chat", "text_1": {"content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
             "text_2": "b"}, "text_1.content[0].image_url"),
]  # fmt: skip


class TestIsolation:
    @pytest.mark.parametrize(("path", "body", "where"), REMOTE)
    @pytest.mark.parametrize("escaped", [False, True])
    def test_nothing_is_fetched_for_a_client(
        self, tmp_path: Path, path: str, body: dict[str, Any], where: str, escaped: bool
    ) -> None:
        raw = json.dumps(body)
        for word in ("_url", "file_id", "item_reference", "source") if escaped else ():
            raw = raw.replace(word, f"\\u{ord(word[0]):04x}{word[1:]}")

        async def test() -> None:
            async with running_gateway(tmp_path, answers({}, [])) as (rig, [replica]):
                answer = await rig.call(raw.encode(), path=path)
                assert answer.status == 400
                assert where in answer.json["error"]["message"]
                assert replica.requests == []

        run(test())

    @pytest.mark.parametrize(
        ("path", "body", "whole"),
        [
            (RESPONSES, ask(), response([])),
            (MESSAGES, say(), message([])),
            (RERANK, {"model": "chat", "query": "a", "documents": ["b"]}, {"model": "acme/risk/chat"}),
        ],
    )
    def test_what_the_gateway_decides_is_not_the_clients(
        self, tmp_path: Path, path: str, body: dict[str, Any], whole: dict[str, Any]
    ) -> None:
        mine = {
            "priority": -9, "cache_salt": "mine", "request_id": "req_of_another", "session_id": "s",
            "kv_transfer_params": {"remote_host": "10.0.0.1"}, "ec_transfer_params": {"remote_host": "10.0.0.1"},
        }  # fmt: skip

        async def test() -> None:
            async with running_gateway(tmp_path, answers(whole, [])) as (rig, [replica]):
                assert (await rig.call({**body, **mine}, path=path)).status == 200
                [seen] = replica.requests
                assert seen["model"] == "acme/risk/chat"
                assert seen["cache_salt"] == rig.gateway.cache_salt_of("ten_acme")
                assert mine.keys() & seen.keys() == {"cache_salt"}

        run(test())

    def test_images_in_the_request_pass(self, tmp_path: Path) -> None:
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
        tool_use = {"type": "tool_use", "id": "t", "name": "open", "input": {"page_url": "https://example.com"}}
        body = say(messages=[{"role": "user", "content": [image]}, {"role": "assistant", "content": [tool_use]}])
        part = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}

        async def test() -> None:
            async with running_gateway(tmp_path, answers(message([]) | response([]), [])) as (rig, _):
                assert (await rig.call(body, path=MESSAGES)).status == 200
                assert (await rig.call(ask(input=[{"role": "user", "content": [part]}]), path=RESPONSES)).status == 200

        run(test())

    def test_a_key_reaches_as_far_as_its_methods(self, tmp_path: Path) -> None:
        document = snapshot_document()
        document["keys"][0] |= {"hash": key_hash(KEY), "methods": ["messages"]}

        async def test() -> None:
            async with running_gateway(tmp_path, answers(message([]), []), document=document) as (rig, _):
                assert (await rig.call(say(), path=MESSAGES)).status == 200
                for path in (RESPONSES, RERANK, SCORE, "/v1/chat/completions"):
                    assert (await rig.call(ask(), path=path)).status == 403, path

        run(test())


class TestGuardrails:
    def test_responses_both_ways(self, tmp_path: Path) -> None:
        items = [reasoning_item(f"call {PHONE}"), text_item(f"请拨打{PHONE}，谢谢")]
        script = answers(response(items), response_events(items))
        body = ask(input=[{"role": "user", "content": [{"type": "input_text", "text": PHONE}]}], instructions=PHONE)

        async def test() -> None:
            async with running_gateway(tmp_path, script, document=masked()) as (rig, [replica]):
                for stream in (False, True):
                    answer = await rig.call({**body, "stream": stream}, path=RESPONSES)
                    assert answer.status == 200
                    assert PHONE.encode() not in answer.body
                    assert "请拨打[手机号]，谢谢".encode() in answer.body.replace(b" ", b"") or stream
                    seen = replica.requests[-1]
                    assert (seen["instructions"], seen["input"][0]["content"][0]["text"]) == ("[手机号]", "[手机号]")
                told = read_events(answer.body)
                assert told_response(told) == [("reasoning", "call [手机号]"), ("message", "请拨打[手机号]，谢谢")]
                assert [event["sequence_number"] for event in told] == list(range(len(told)))

        run(test())

    def test_messages_both_ways(self, tmp_path: Path) -> None:
        blocks = [
            {"type": "text", "text": f"请拨打{PHONE}，谢谢"},
            {"type": "tool_use", "id": "t", "name": "dial", "input": {"phone": PHONE}},
        ]
        script = answers(message(blocks), message_events(blocks))
        body = say(system=PHONE, messages=[{"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t", "content": PHONE}]}])  # fmt: skip

        async def test() -> None:
            async with running_gateway(tmp_path, script, document=masked()) as (rig, [replica]):
                for stream in (False, True):
                    answer = await rig.call({**body, "stream": stream}, path=MESSAGES)
                    assert answer.status == 200
                    assert PHONE.encode() not in answer.body
                    assert replica.requests[-1]["system"] == "[手机号]"
                    assert replica.requests[-1]["messages"][0]["content"][0]["content"] == "[手机号]"
                told = told_message(read_events(answer.body))
                assert told[0] == ("text", "请拨打[手机号]，谢谢")
                assert json.loads(told[1][1]) == {"phone": "[手机号]"}

        run(test())

    @pytest.mark.parametrize(
        ("path", "body", "where"),
        [
            (RESPONSES, ask(unknown=1), "unknown"),
            (RESPONSES, ask(input=[{"type": "computer_call_output"}]), "input[0]"),
            (RESPONSES, ask(input=[{"role": "user", "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,AA=="}]}]), "input[0].content[0]"),
            (RESPONSES, ask(input=[{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]),
             "input[0].encrypted_content"),
            (RESPONSES, ask(tools=[{"type": "web_search"}]), "tools[0]"),
            (RESPONSES, ask(tools=5), "tools"),
            (RESPONSES, ask(input=5), "input"),
            (MESSAGES, say(unknown=1), "unknown"),
            (MESSAGES, say(messages=[{"role": "user", "content": [{"type": "document"}]}]), "messages[0].content[0]"),
            (MESSAGES, say(messages=[{"role": "user", "content": [{"type": "redacted_thinking", "data": "x"}]}]),
             "messages[0].content[0]"),
            (MESSAGES, say(tools=[{"type": "bash_20250124", "name": "bash"}]), "tools[0]"),
            (MESSAGES, say(messages={}), "messages"),
            (RERANK, {"model": "chat", "query": "a", "documents": [[1, 2]]}, "documents[0]"),
            (SCORE, {"model": "chat", "queries": 5, "items": ["b"]}, "queries"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_checked_is_refused_by_name(
        self, tmp_path: Path, path: str, body: dict[str, Any], where: str
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answers({}, []), document=masked()) as (rig, [replica]):
                answer = await rig.call(body, path=path)
                assert answer.status == 400
                assert f"`{where}" in answer.json["error"]["message"]
                assert replica.requests == []

        run(test())

    def test_scores_are_screened_on_their_way_in(self, tmp_path: Path) -> None:
        async def test() -> None:
            whole = {"model": "acme/risk/chat", "results": []}
            async with running_gateway(tmp_path, answers(whole, []), document=masked()) as (rig, [replica]):
                body = {"model": "chat", "query": PHONE, "documents": [f"a {PHONE}"]}
                assert (await rig.call(body, path=RERANK)).status == 200
                assert (replica.requests[0]["query"], replica.requests[0]["documents"]) == ("[手机号]", ["a [手机号]"])

        run(test())

    def test_withheld_streams_end_as_their_clients_expect(self, tmp_path: Path) -> None:
        document = masked("off", "block")
        (tmp_path / "r").mkdir()
        (tmp_path / "m").mkdir()
        items, blocks = [text_item(f"拨{PHONE}。more")], [{"type": "text", "text": f"拨{PHONE}。more"}]

        async def test() -> None:
            async with running_gateway(
                tmp_path / "r", answers(response(items), response_events(items)), document=document
            ) as (rig, _):
                told = read_events((await rig.call(ask(stream=True), path=RESPONSES)).body)
                assert "[withheld by policy: cn_mobile]" in str(told[-1])
                assert told[-1]["type"] == "response.incomplete"
                assert told[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
                whole = await rig.call(ask(), path=RESPONSES)
                assert whole.json["status"] == "incomplete"
                assert b"1380" not in whole.body
                assert b"[withheld by policy: cn_mobile]" in whole.body
                assert [record["finish"] for record in await rig.records(2)] == ["withheld", "withheld"]
            async with running_gateway(
                tmp_path / "m", answers(message(blocks), message_events(blocks)), document=document
            ) as (rig, _):
                told = read_events((await rig.call(say(stream=True), path=MESSAGES)).body)
                assert [event["type"] for event in told][-2:] == ["message_delta", "message_stop"]
                assert told[-2]["delta"]["stop_reason"] == "refusal"
                assert (await rig.call(say(), path=MESSAGES)).json["stop_reason"] == "refusal"
                assert PHONE not in str(told)
                assert "[withheld by policy: cn_mobile]" in str(told)

        run(test())

    def test_a_broken_policy_closes_every_shape(self, tmp_path: Path) -> None:
        document = guarded(rules=[{"rule": "no_such_rule"}])

        async def test() -> None:
            async with running_gateway(tmp_path, answers({}, []), document=document) as (rig, [replica]):
                for path, body in ((RESPONSES, ask()), (MESSAGES, say()), (RERANK, {"model": "chat"})):
                    assert (await rig.call(body, path=path)).status == 503
                assert replica.requests == []

        run(test())
