"""A model that judges requests first."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    FakeReplica,
    chat,
    completion,
    json_bytes,
    post,
    run,
    running_gateway,
    snapshot_document,
    until,
)

from finmaas_core.errors import InvalidInput
from finmaas_serving.gateway.cache import texts_of
from finmaas_serving.guard.policy import Guard, read_policy

JUDGE = "acme/risk/cold"  # an endpoint of the test's snapshot


def judged(**moderation: Any) -> dict[str, Any]:
    policy = {"moderation": {"model": "cold", "block": ["Offensive"], **moderation}}
    return snapshot_document(policies=[{"project_id": "prj_risk", "digest": "d", "document": policy}])


def judging(verdict: Any) -> Any:
    """A replica that serves both: as the judge it gives a verdict, as the model it answers."""

    async def script(_: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        if request["model"] == JUDGE:
            if isinstance(verdict, int):
                writer.write(json_bytes(verdict, {"error": {"message": "boom"}}))
            else:
                writer.write(json_bytes(200, {**completion(verdict), "model": JUDGE}))
            return
        writer.write(json_bytes(200, completion("hello")))

    return script


def asked(replica: FakeReplica) -> list[str]:
    return [request["model"] for request in replica.requests]


class TestModeration:
    def test_what_the_judge_lets_through_is_answered_and_both_are_counted(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, judging("neutral\n"), document=judged()) as (rig, [replica]):
                rig.gateway.replicas.replace(
                    {"ep_chat": [("127.0.0.1", replica.port)], "ep_cold": [("127.0.0.1", replica.port)]}
                )
                answer = await rig.call(
                    chat(messages=[{"role": "user", "content": "hi"}, {"role": "user", "content": "you"}])
                )
                assert (answer.status, asked(replica)) == (200, [JUDGE, "acme/risk/chat"])
                judge = replica.requests[0]
                assert (judge["messages"], judge["max_tokens"]) == ([{"role": "user", "content": "hi\nyou"}], 16)
                records = await rig.records(2)
                assert [record["endpoint_id"] for record in records] == ["ep_cold", "ep_chat"]
                assert records[0]["request_id"] == records[1]["request_id"] + "-judge"

        run(test())

    @pytest.mark.parametrize(
        ("verdict", "status", "code"),
        [
            ("OFFENSIVE", 400, "content_policy_violation"), ("", 400, "content_policy_violation"),
            ("offensive\nS1,S2", 400, "content_policy_violation"), ("'Offensive'.", 400, "content_policy_violation"),
            ("offensive: rude", 400, "content_policy_violation"), ("是：offensive", 400, "content_policy_violation"),
            (500, 503, "endpoint_not_ready"), (404, 503, "endpoint_not_ready"),
        ],
    )  # fmt: skip
    def test_what_it_does_not_let_through_reaches_no_other_model(
        self, tmp_path: Path, verdict: Any, status: int, code: str
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, judging(verdict), document=judged()) as (rig, [replica]):
                rig.gateway.replicas.replace(
                    {"ep_chat": [("127.0.0.1", replica.port)], "ep_cold": [("127.0.0.1", replica.port)]}
                )
                refused = await rig.call(chat(True))
                assert (refused.status, refused.json["error"]["code"]) == (status, code)
                assert "acme/risk/chat" not in asked(replica)

        run(test())

    def test_a_verdict_that_was_cut_off_is_none(self, tmp_path: Path) -> None:
        async def thinking(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            answer = completion("<think>The user asks")
            answer["choices"][0]["finish_reason"] = "length"
            writer.write(json_bytes(200, {**answer, "model": JUDGE}))

        async def test() -> None:
            async with running_gateway(tmp_path, thinking, document=judged()) as (rig, [replica]):
                rig.gateway.replicas.replace(
                    {"ep_chat": [("127.0.0.1", replica.port)], "ep_cold": [("127.0.0.1", replica.port)]}
                )
                refused = await rig.call(chat())
                assert (refused.status, b"more than a label" in refused.body) == (503, True)
                assert asked(replica) == [JUDGE]

        run(test())

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/completions", {"prompt": [9906, 1917]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}),
        ],
    )  # fmt: skip
    def test_what_no_judge_can_read_is_refused(self, tmp_path: Path, path: str, body: dict[str, Any]) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, judging("neutral"), document=judged()) as (rig, [replica]):
                rig.gateway.replicas.replace(
                    {"ep_chat": [("127.0.0.1", replica.port)], "ep_cold": [("127.0.0.1", replica.port)]}
                )
                refused = await rig.call({"model": "chat", **body}, path=path)
                assert (refused.status, b"cannot read" in refused.body) == (400, True)
                assert not replica.requests

        run(test())

    def test_a_judge_that_is_not_there_lets_nothing_through(self, tmp_path: Path) -> None:
        async def test() -> None:
            for document in (judged(), judged(model="acme/fraud/hidden")):
                async with running_gateway(tmp_path, judging("fine"), document=document) as (rig, [replica]):
                    assert (await rig.call()).status == 503
                    assert not replica.requests

        run(test())

    def test_a_client_that_leaves_while_it_is_judged_ends_the_judging(self, tmp_path: Path) -> None:
        begun = asyncio.Event()

        async def slow(_: FakeReplica, __: dict[str, Any], ___: asyncio.StreamWriter) -> None:
            begun.set()
            await asyncio.sleep(30)

        async def test() -> None:
            async with running_gateway(tmp_path, slow, document=judged()) as (rig, [replica]):
                rig.gateway.replicas.replace(
                    {"ep_chat": [("127.0.0.1", replica.port)], "ep_cold": [("127.0.0.1", replica.port)]}
                )
                _, writer = await rig.connect()
                writer.write(post(chat()))
                await begun.wait()
                writer.close()
                await until(lambda: replica.closed.is_set())
                assert rig.gateway.running == 0
                assert asked(replica) == [JUDGE]

        run(test())


@pytest.mark.parametrize("moderation", [{"model": "cold"}, {"block": ["bad"]}])
def test_half_a_moderation_is_refused(moderation: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="moderation wants both"):
        Guard(read_policy({"moderation": moderation}))


def test_a_text_in_the_place_of_a_kind_a_role_or_a_name_is_read_too() -> None:
    properties = {"type": {"description": "one"}, "role": "two words", "how to do three": {"type": "object"}}
    assert list(texts_of({"tools": [{"type": "function", "properties": properties}]})) == [
        "one", "two words", "how to do three",
    ]  # fmt: skip
