"""What a gateway keeps for auditors: sealed, before anything passes, once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from gateway_parts import FakeReplica, Rig, answer_usual, chat, post, run, running_gateway, snapshot_document, until

from finmaas_core.errors import StoreFull, Unavailable
from finmaas_serving.gateway import archive as archive_module
from finmaas_serving.gateway.archive import SUITE, Archive, Sealed, binding
from finmaas_serving.gateway.feeds import deliver_archive

PRIVATE = X25519PrivateKey.generate()
PUBLIC = PRIVATE.public_key().public_bytes_raw().hex()


def keeping(archive_key: str = PUBLIC, **keep: Any) -> dict[str, Any]:
    policy = {"keep": {"requests": True, "answers": True, "days": 7, **keep}}
    policies = [{"project_id": "prj_risk", "digest": "d", "document": policy}]
    return snapshot_document(policies=policies, archive_key=archive_key)


def opened(archive: Archive) -> list[tuple[str, str]]:
    """The part and text of everything that waits."""
    records = [json.loads(one) for one in archive.read(1 << 20)[0]]
    return [(record["part"], unseal(record)) for record in records]


def unseal(record: dict[str, Any]) -> str:
    bound = binding(record["kept_id"], record["tenant_id"], record["project_id"])
    return SUITE.decrypt(base64.b64decode(record["sealed"]), PRIVATE, bound).decode()


def with_archive(rig: Rig, folder: Path) -> Archive:
    rig.gateway.archive = archive = Archive(folder / "kept")
    return archive


def sealed(name: str = "r.request") -> Sealed:
    return Sealed(name, "request", "r", "t", "p", "k", "e", 1.0, 7, "")


class TestCalls:
    @pytest.mark.parametrize("stream", [False, True])
    def test_request_and_answer_are_kept_and_unreadable_on_disk(self, tmp_path: Path, stream: bool) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=keeping()) as (rig, _):
                archive = with_archive(rig, tmp_path)
                answer = await rig.call(chat(stream, messages=[{"role": "user", "content": "my balance"}]))
                (asked, request), (told, text) = opened(archive)
                assert (asked, told) == ("request", "answer")
                assert json.loads(request)["messages"][0]["content"] == "my balance"
                assert text == (answer.body.decode() if not stream else text)
                assert ("data: [DONE]" in text) is stream
                assert b"balance" not in (tmp_path / "kept" / "archive.log").read_bytes()

        run(test())

    def test_a_client_that_leaves_has_what_it_got_kept(self, tmp_path: Path) -> None:
        begun = asyncio.Event()

        async def slow(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            event = b'data: {"id":"1","model":"acme/risk/chat","choices":[{"index":0,"delta":{"content":"half"}}]}\n\n'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            writer.write(head + b"%x\r\n%b\r\n" % (len(event), event))
            begun.set()
            await asyncio.sleep(30)

        async def test() -> None:
            async with running_gateway(tmp_path, slow, document=keeping()) as (rig, _):
                archive = with_archive(rig, tmp_path)
                reader, writer = await rig.connect()
                writer.write(post(chat(True)))
                await reader.readuntil(b"half")
                writer.close()
                await until(lambda: len(opened(archive)) == 2)
                assert "half" in opened(archive)[1][1]

        run(test())

    def test_nothing_passes_where_it_cannot_be_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=keeping()) as (rig, [replica]):
                assert (await rig.call()).status == 503  # this gateway has no archive
                with_archive(rig, tmp_path)
                monkeypatch.setattr(archive_module, "MAX_WAITING_BYTES", 10)
                refused = await rig.call()
                assert (refused.status, refused.json["error"]["code"]) == (503, "gateway_full")
                assert not replica.requests

        run(test())

    def test_no_answer_leaves_that_could_not_be_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def test() -> None:
            document = keeping(requests=False)
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, [replica]):
                with_archive(rig, tmp_path)
                monkeypatch.setattr(archive_module, "MAX_WAITING_BYTES", 10)
                whole, streamed = await rig.call(), await rig.call(chat(True))
                assert (whole.status, len(replica.requests)) == (503, 2)
                assert b"gateway_full" in streamed.body

        run(test())

    def test_without_a_key_to_seal_to_nothing_passes(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=keeping("")) as (rig, _):
                with_archive(rig, tmp_path)
                assert (await rig.call()).status == 503

        run(test())

    def test_other_projects_are_not_kept(self, tmp_path: Path) -> None:
        async def test() -> None:
            document = keeping()
            document["policies"][0]["project_id"] = "prj_fraud"
            async with running_gateway(tmp_path, answer_usual, document=document) as (rig, _):
                archive = with_archive(rig, tmp_path)
                await rig.call()
                assert archive.waiting_bytes == 0

        run(test())


class TestFile:
    def test_a_torn_end_is_cut_and_what_was_whole_stays(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep(PUBLIC, sealed(), b"one")
        archive.close()
        with (tmp_path / "archive.log").open("ab") as file:
            file.write(b"\x50\0\0\0half a frame")
        again = Archive(tmp_path)
        again.keep(PUBLIC, sealed("r.answer"), b"two")
        assert opened(again) == [("request", "one"), ("request", "two")]

    def test_a_record_bound_elsewhere_cannot_be_opened(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep(PUBLIC, sealed(), b"one")
        record = json.loads(archive.read(1 << 20)[0][0])
        with pytest.raises(InvalidTag):
            unseal({**record, "project_id": "other"})

    def test_a_record_longer_than_a_batch_is_read_all_the_same(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep(PUBLIC, sealed(), b"x" * 5000)
        archive.keep(PUBLIC, sealed(), b"y")
        found, end = archive.read(100)
        assert len(found) == 1
        archive.acknowledge(end)
        assert opened(archive) == [("request", "y")]

    def test_a_disk_that_fails_keeps_nothing_half(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        archive = Archive(tmp_path)
        archive.keep(PUBLIC, sealed(), b"one")
        real = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        with pytest.raises(StoreFull):
            archive.keep(PUBLIC, sealed(), b"two")
        monkeypatch.undo()
        archive.keep(PUBLIC, sealed(), b"three")
        assert [text for _, text in opened(archive)] == ["one", "three"]


class TestDelivery:
    def test_is_repeated_until_it_is_taken_and_then_begins_anew(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=keeping()) as (rig, _):
                archive = with_archive(rig, tmp_path)
                await rig.call()
                bodies: list[dict[str, Any]] = []

                async def take(path: str, body: bytes, wait_s: float = 0) -> tuple[int, bytes]:
                    bodies.append(json.loads(body))
                    return 503 if len(bodies) == 1 else 204, b""

                with pytest.raises(Unavailable, match="503"):
                    await deliver_archive(rig.gateway, take)
                await deliver_archive(rig.gateway, take)
                assert bodies[0] == bodies[1]
                assert [record["part"] for record in bodies[1]["records"]] == ["request", "answer"]
                assert (archive.waiting_bytes, (tmp_path / "kept" / "archive.log").stat().st_size) == (0, 0)

        run(test())
