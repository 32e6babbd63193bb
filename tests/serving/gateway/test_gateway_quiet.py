"""Errors that engines and providers write: what of their words reaches a client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    PEPPER,
    STREAM_HEAD,
    FakeReplica,
    chat,
    chunked,
    completion,
    events,
    json_bytes,
    run,
    running_gateway,
    snapshot_document,
)
from shape_parts import response, sse

from finmaas_core.sealing import seal_secret
from finmaas_serving.gateway.external import PURPOSE
from finmaas_serving.gateway.quiet import OUTSIDE, UNSCREENED

PHONE = "13800138000"
WORDS = f"cannot parse the prompt: call {PHONE} back"
MASK = {"rules": [{"rule": "cn_mobile", "output": "mask"}]}
BLOCK = {"rules": [{"rule": "cn_mobile", "output": "block"}]}
INPUT = {"rules": [{"rule": "cn_mobile", "input": "mask"}]}


def guarded(policy: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    policies = [] if policy is None else [{"project_id": "prj_risk", "digest": "d", "document": policy}]
    return snapshot_document(policies=policies, **more)


def refusing(status: int = 400) -> Any:
    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        error = {"message": WORDS, "type": "BadRequestError", "param": f"call {PHONE}", "code": status}
        writer.write(json_bytes(status, {"error": error}))

    return script


def breaking(tail: bytes) -> Any:
    """A stream that tells of an error after its first event."""

    async def script(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunked(tail) + b"0\r\n\r\n")

    return script


def first_of_chat() -> bytes:
    return events(["Hello"])[0]


class TestEngine:
    @pytest.mark.parametrize(
        ("policy", "told"),
        [
            (None, WORDS),
            (INPUT, WORDS),
            (MASK, "cannot parse the prompt: call [手机号] back"),
            (BLOCK, UNSCREENED),
        ],
    )
    def test_a_refusal(self, tmp_path: Path, policy: dict[str, Any] | None, told: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, refusing(), document=guarded(policy)) as (rig, _):
                answer = await rig.call()
                assert (answer.status, answer.error["message"]) == (400, told)
                assert (PHONE in answer.body.decode()) == (told == WORDS)

        run(test())

    def test_of_a_shape_that_no_screen_reads(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, refusing(), document=guarded(MASK)) as (rig, _):
                answer = await rig.call({"model": "chat", "input": "hi"}, path="/v1/embeddings")
                assert (answer.status, answer.error["message"], answer.error["param"]) == (400, UNSCREENED, None)

        run(test())

    def test_in_a_stream_of_a_chat(self, tmp_path: Path) -> None:
        error = {"error": {"message": WORDS, "type": "InternalServerError", "param": None, "code": 500}}
        tail = first_of_chat() + b"data: " + json.dumps(error, ensure_ascii=False).encode() + b"\n\ndata: [DONE]\n\n"

        async def test() -> None:
            for policy in (None, MASK):
                async with running_gateway(tmp_path, breaking(tail), document=guarded(policy)) as (rig, _):
                    answer = await rig.call(chat(True))
                    said, failed, *_, done = answer.events
                    assert said["choices"][0]["delta"]["content"] in ("Hello", "Hel")
                    assert (PHONE in failed["error"]["message"], done) == (policy is None, "[DONE]")
                    assert (failed["error"]["type"], failed["error"]["code"]) == ("InternalServerError", 500)

        run(test())

    @pytest.mark.parametrize(
        ("path", "event"),
        [
            (
                "/v1/responses",
                {"type": "error", "code": "server_error", "message": WORDS, "param": None, "sequence_number": 1},
            ),
            (
                "/v1/responses",
                {
                    "type": "response.failed",
                    "response": response([], status="failed", error={"code": "server_error", "message": WORDS}),
                },
            ),
            ("/v1/messages", {"type": "error", "error": {"type": "api_error", "message": WORDS}}),
        ],
    )
    def test_in_a_stream_of_named_events(self, tmp_path: Path, path: str, event: dict[str, Any]) -> None:
        body = {"model": "chat", "stream": True, "max_tokens": 9}
        body |= {"input": "hi"} if "resp" in path else {"messages": [{"role": "user", "content": "hi"}]}

        async def test() -> None:
            for policy in (None, MASK):
                async with running_gateway(tmp_path, breaking(sse([event])), document=guarded(policy)) as (rig, _):
                    answer = await rig.call(body, path=path)
                    assert (answer.status, PHONE in answer.body.decode()) == (200, policy is None)
                    assert ("[手机号]" in answer.body.decode()) == (policy is not None)

        run(test())


class TestOutside:
    def document(self, port: int) -> dict[str, Any]:
        sealed = seal_secret(PEPPER.encode(), PURPOSE, "sk-outside")
        one = {"provider_id": "prv_1", "name": "partner", "base_url": f"http://127.0.0.1:{port}/v1", "sealed": sealed}
        document = snapshot_document(providers=[{**one, "projects": ["prj_risk"]}])
        document["routes"][0]["traffic"] = {
            "digest": "t",
            "fallbacks": [{"provider_id": "prv_1", "model": "big-1"}],
        }
        return document

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_provider_s_words_never_pass(self, tmp_path: Path, stream: bool) -> None:
        error = {"error": {"message": "account bank-7 of Acme is over its limit", "type": "billing_error"}}

        async def outside(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            if stream:
                tail = first_of_chat() + b"data: " + json.dumps(error).encode() + b"\n\n"
                writer.write(STREAM_HEAD + chunked(tail) + b"0\r\n\r\n")
            else:
                writer.write(json_bytes(400, error))

        async def refuse(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.close()

        async def test() -> None:
            replica = FakeReplica(outside)
            server = await asyncio.start_server(replica.serve, "127.0.0.1", 0)
            document = self.document(server.sockets[0].getsockname()[1])
            async with running_gateway(tmp_path, refuse, document=document) as (rig, _):
                answer = await rig.call(chat(stream))
                assert (OUTSIDE in answer.body.decode(), "bank-7" in answer.body.decode()) == (True, False)
                assert len(replica.requests) == 1
            server.close()

        run(test())


def test_an_answer_of_a_fallback_is_not_kept_as_the_first_target_s(tmp_path: Path) -> None:
    async def main(replica: FakeReplica, _: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Fails twice (the one replica is tried anew), then answers."""
        await answer_or_fail(replica, writer)

    async def answer_or_fail(replica: FakeReplica, writer: asyncio.StreamWriter) -> None:
        if len(replica.requests) == 1:
            writer.write(json_bytes(500, {"error": {"message": "boom"}}))
        else:
            writer.write(json_bytes(200, completion("of the first")))

    async def small(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(json_bytes(200, completion("of the fallback", model="acme/risk/cold")))

    async def test() -> None:
        document = guarded({"cache": {"ttl_s": 60}})
        document["routes"][0]["traffic"] = {"digest": "t", "fallbacks": [{"endpoint_id": "ep_cold"}]}
        beside = FakeReplica(small)
        server = await asyncio.start_server(beside.serve, "127.0.0.1", 0)
        async with running_gateway(tmp_path, main, document=document) as (rig, [replica]):
            found = {"ep_chat": replica.port, "ep_cold": server.sockets[0].getsockname()[1]}
            rig.gateway.replicas.replace({app: [("127.0.0.1", port)] for app, port in found.items()})
            said = [(await rig.call(chat())).json["choices"][0]["message"]["content"] for _ in range(3)]
            assert said == ["of the fallback", "of the first", "of the first"]
            assert len(replica.requests) == 2  # the third answer was kept
        server.close()

    run(test())
