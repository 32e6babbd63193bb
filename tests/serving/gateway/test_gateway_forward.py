"""Files and batches on their way through a gateway: what is forwarded, and what is not. Not uploads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_parts import KEY, answer_usual, key_hash, post, run, running_gateway, snapshot_document, until

from finmaas_serving.gateway.batch_pass import find_batch_key, make_batch_pass
from finmaas_serving.gateway.forward import methods_of
from finmaas_serving.gateway.snapshot import Key


def control_plane(answer: Any) -> httpx.AsyncClient:
    headers = {"authorization": "Bearer fmg_token"}
    return httpx.AsyncClient(base_url="http://cp", headers=headers, transport=httpx.MockTransport(answer))


class TestForward:
    def test_path_query_body_and_key_go_and_nothing_else(self, tmp_path: Path) -> None:
        seen: list[httpx.Request] = []

        async def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={"id": "file_1"})

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                rig.gateway.control_plane = control_plane(answer)
                headers = "content-type: application/json; a=b\r\nx-finmaas-key: key_of_another\r\ncookie: a\r\n"
                told = await rig.send(post(b"{}", path="/v1/batches", headers=headers))
                assert told.json == {"id": "file_1"}
                await rig.get("/v1/files?limit=2&after=file_1")
                first, second = seen
                assert (first.url.path, first.content) == ("/api/v1/gateway/openai/batches", b"{}")
                assert first.headers["x-finmaas-key"] == "key_good"
                assert first.headers["authorization"] == "Bearer fmg_token"
                assert first.headers["content-type"] == "application/json; a=b"
                assert "cookie" not in first.headers
                assert (second.method, second.url.query) == ("GET", b"limit=2&after=file_1")

        run(test())

    @pytest.mark.parametrize(
        ("told", "status", "code", "param"),
        [
            (httpx.Response(422, json={"code": "bad_input", "detail": "no", "param": "purpose"}), 400,
             "invalid_request", "purpose"),
            (httpx.Response(404, json={"code": "not_found", "detail": "no", "openai_code": "not_found"}), 404,
             "not_found", None),
            (httpx.Response(409, json={"code": "conflict", "detail": "no"}), 409, "conflict", None),
            (httpx.Response(500, json={"code": "internal", "detail": "no"}), 503, "control_plane_away", None),
            (httpx.Response(502, text="<html>"), 503, "control_plane_away", None),
            (httpx.ConnectError("refused"), 503, "control_plane_away", None),
        ],
    )  # fmt: skip
    def test_refusals_in_openais_words(
        self, tmp_path: Path, told: Any, status: int, code: str, param: str | None
    ) -> None:
        async def answer(_: httpx.Request) -> httpx.Response:
            if isinstance(told, Exception):
                raise told
            return httpx.Response(told.status_code, content=told.content)

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                rig.gateway.control_plane = control_plane(answer)
                answered = await rig.get("/v1/batches")
                assert (answered.status, answered.error["code"], answered.error["param"]) == (status, code, param)
                assert (await rig.call()).status == 200  # calls of models go on

        run(test())

    def test_without_a_control_plane_it_says_so(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                assert (await rig.get("/v1/files")).error["code"] == "control_plane_away"

        run(test())

    def test_a_file_comes_as_a_stream_and_stops_when_its_reader_leaves(self, tmp_path: Path) -> None:
        made = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal made
            while made < 1_000_000:
                made += 1
                yield b"x" * 65536
                await asyncio.sleep(0)

        async def small() -> AsyncIterator[bytes]:
            yield b"abc"

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/small/content"):
                return httpx.Response(200, content=small(), headers={"content-type": "application/octet-stream"})
            return httpx.Response(200, content=chunks(), headers={"content-type": "application/octet-stream"})

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                rig.gateway.control_plane = control_plane(answer)
                assert (await rig.get("/v1/files/small/content")).body == b"abc"
                reader, writer = await rig.connect()
                head = f"GET /v1/files/big/content HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n"
                writer.write(head.encode())
                await reader.readexactly(100_000)
                for _ in range(2000):  # it reads no further, so little more is fetched
                    await asyncio.sleep(0)
                assert made < 1500
                writer.close()
                await until(lambda: not rig.gateway.connections)
                before = made
                for _ in range(100):
                    await asyncio.sleep(0)
                assert made <= before + 1

        run(test())

    @pytest.mark.parametrize(
        "path",
        ["/v1/files/..", "/v1/files/a/b", "/v1/files/%2e%2e", "/v1/files/", "/v1/batches/a/stop", "/v1/filesx",
         "/v1/files/a%2Fcontent"],
    )  # fmt: skip
    def test_other_paths_are_not_there(self, tmp_path: Path, path: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                assert (await rig.get(path)).error["code"] == "unknown_url"
                assert methods_of(path) is None

        run(test())

    def test_a_key_reaches_as_far_as_its_methods(self, tmp_path: Path) -> None:
        document = snapshot_document()
        document["keys"][0] |= {"hash": key_hash(KEY), "methods": ["files"]}

        async def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={})

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, _):
                rig.gateway.control_plane = control_plane(answer)
                assert (await rig.get("/v1/files")).status == 200
                assert (await rig.get("/v1/batches")).status == 403
                assert (await rig.get("/v1/files", key=None)).status == 401

        run(test())


class TestBatchPass:
    def test_stands_for_the_key_and_names_the_request(self, tmp_path: Path) -> None:
        document = snapshot_document()
        document["keys"][0] |= {"networks": ["10.0.0.0/8"]}  # binds where the batch is made, not where it runs
        made = make_batch_pass("pepper", key_hash(KEY), "batch_1.7", 10**10)

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, [replica]):
                for _ in range(2):
                    answer = await rig.call(key=made)
                    assert (answer.status, answer.headers["x-request-id"]) == (200, "batch_1.7")
                records = await rig.records(2)
                assert {(record["request_id"], record["key_id"]) for record in records} == {("batch_1.7", "key_good")}
                assert b"x-request-id: batch_1.7" in replica.heads[0]
                document["keys"] = document["keys"][1:]
                rig.gateway.snapshots.take(json.dumps({**document, "number": 2}).encode())
                assert (await rig.call(key=made)).status == 401  # the key was revoked

        run(test())

    def test_only_who_holds_the_pepper_makes_one(self) -> None:
        key = Key(hash="a" * 64, key_id="k", project_id="p", project="p", tenant_id="t")
        made = make_batch_pass("pepper", key.hash, "batch_1.7", 1000).encode()

        def find(credential: bytes, now: float = 1000, keys: dict[str, Key] | None = None) -> Key | None:
            return find_batch_key({key.hash: key} if keys is None else keys, b"pepper", credential, now)

        found = find(made)
        assert found is not None
        assert (found.line, found.key_id) == ("batch_1.7", "k")
        assert find(made, 1901) is None
        assert find(made, keys={}) is None
        assert find(make_batch_pass("other", key.hash, "batch_1.7", 1000).encode()) is None
        for at in range(0, len(made), 7):
            assert find(made[:at] + (b"1" if made[at : at + 1] != b"1" else b"2") + made[at + 1 :]) is None
        for other in (b"", b"fmb_", made[:-1], made + b"0", made.upper()):
            assert find(other) is None
