"""The cache of answers: what is kept, for whom, and how long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import (
    KEY,
    OTHER_KEY,
    FakeReplica,
    chat,
    completion,
    json_bytes,
    run,
    running_gateway,
    snapshot_document,
)

from finmaas_core.errors import InvalidInput
from finmaas_serving.gateway.cache import AnswerCache, holds_personal_data
from finmaas_serving.guard.policy import Guard, read_policy

PHONE = "13800138000"


def with_cache(*projects: str, **document: Any) -> dict[str, Any]:
    policy = {"cache": {"ttl_s": 60}, **document}
    policies = [{"project_id": f"prj_{name}", "digest": name, "document": policy} for name in projects or ("risk",)]
    return snapshot_document(policies=policies, grants=[{"project_id": "prj_fraud", "endpoint_id": "ep_chat"}])


async def counting(replica: FakeReplica, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Answers how often it was asked, so an answer that was kept is told from a new one."""
    writer.write(json_bytes(200, completion(f"answer {len(replica.requests)}, call {PHONE}")))


class TestCalls:
    def test_the_same_request_is_answered_once_by_the_engine(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, counting, document=with_cache()) as (rig, [replica]):
                first = await rig.call(chat(messages=[{"role": "user", "content": "hi"}], temperature=0))
                again = await rig.call(chat(temperature=0, messages=[{"role": "user", "content": "hi"}], user="u1"))
                other = await rig.call(chat(messages=[{"role": "user", "content": "hi"}], temperature=1))
                assert first.json["choices"] == again.json["choices"] != other.json["choices"]
                assert ("x-finmaas-cache" in first.headers, again.headers["x-finmaas-cache"]) == (False, "hit")
                assert len(replica.requests) == 2
                kept = [(r["counted_by"], r["completion_tokens"]) for r in await rig.records(3)]
                assert kept == [("engine", 3), ("cache", 0), ("engine", 3)]

        run(test())

    def test_no_project_gets_another_ones_answer(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, counting, document=with_cache("risk", "fraud")) as (rig, [replica]):
                await rig.call(chat(model="acme/risk/chat"), key=KEY)
                await rig.call(chat(model="acme/risk/chat"), key=OTHER_KEY)
                assert len(replica.requests) == 2

        run(test())

    def test_personal_data_is_not_kept_unless_it_is_masked_or_the_policy_says_so(self, tmp_path: Path) -> None:
        mask = [{"rule": "cn_mobile", "input": "mask", "output": "mask"}]
        cases = [({}, 2), ({"cache": {"ttl_s": 60, "personal_data": True}}, 1), ({"rules": mask}, 1)]

        async def test(number: int, more: dict[str, Any], asked: int) -> None:
            folder = tmp_path / str(number)
            folder.mkdir()
            async with running_gateway(folder, counting, document=with_cache(**more)) as (rig, [replica]):
                body = chat(messages=[{"role": "user", "content": f"my number is {PHONE}"}])
                answers = [await rig.call(body) for _ in range(2)]
                assert len(replica.requests) == asked
                if "rules" in more:
                    assert all(PHONE not in str(answer.json) for answer in answers)

        for number, (more, asked) in enumerate(cases):
            run(test(number, more, asked))

    def test_streams_are_not_kept(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, counting, document=with_cache()) as (rig, [replica]):
                for _ in range(2):
                    await rig.call(chat(stream=True))
                assert len(replica.requests) == 2

        run(test())


class TestAnswerCache:
    def test_an_answer_holds_until_its_time_is_up(self) -> None:
        cache = AnswerCache()
        cache.store(b"a", b"x" * 10, expires_at=5.0)
        assert (cache.find(b"a", 4.9), cache.find(b"a", 5.0), cache.size_bytes) == (b"x" * 10, None, 0)

    def test_what_was_used_longest_ago_leaves_first(self) -> None:
        cache = AnswerCache(max_bytes=25)
        for name in (b"a", b"b"):
            cache.store(name, b"x" * 10, 9.0)
        cache.find(b"a", 0.0)
        cache.store(b"c", b"x" * 10, 9.0)
        assert [cache.find(name, 0.0) is not None for name in (b"a", b"b", b"c")] == [True, False, True]

    def test_a_very_long_answer_is_not_kept(self) -> None:
        cache = AnswerCache(max_bytes=25)
        cache.store(b"a", b"x" * 26, 9.0)
        assert cache.size_bytes == 0


class TestPersonalData:
    @pytest.mark.parametrize(
        ("fields", "holds"),
        [
            ({"messages": [{"role": "user", "content": "rates?"}]}, False),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": f"call {PHONE}"}]}]}, True),
            ({"tools": [{"function": {"description": f"x\n{PHONE}"}}]}, True),
        ],
    )
    def test_is_found_in_any_text(self, fields: dict[str, Any], holds: bool) -> None:
        assert holds_personal_data(fields) is holds


def test_a_time_out_of_bounds_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"cache\.ttl_s"):
        Guard(read_policy({"cache": {"ttl_s": 1e9}}))
