"""HTTP as others read it: h11 as the client, heads that come again beside the parser alone, TLS, hostile bytes."""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import ssl
from pathlib import Path
from typing import Any

import h11
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gateway_parts import (
    KEY,
    STREAM_HEAD,
    FakeReplica,
    Rig,
    answer_usual,
    chat,
    chunked,
    completion,
    events,
    json_bytes,
    post,
    read_answer,
    run,
    running_gateway,
    snapshot_document,
    until,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finmaas_core.errors import Corrupt, EnvironmentFault
from finmaas_serving.gateway import protocol, upstream
from finmaas_serving.gateway.server import listen
from finmaas_serving.gateway.sse import StreamRewriter
from finmaas_serving.gateway.tls import Certificate, open_certificate

Headers = list[tuple[str, str]]
BAD_AFTER_GOOD = [
    "content-length: 2\r\ntransfer-encoding: chunked\r\n",
    "content-length: 2\r\ncontent-length: 3\r\n",
    "content-length: 2, 3\r\n",
    "content-length: +2\r\n",
    "content-length : 2\r\n",
    "content-length: 2\r\n folded\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "transfer-encoding: x\r\n",
    "content-length: 2\n",
    "content-length: \x0b2\r\n",
]


async def ask_by_h11(rig: Rig, *bodies: dict[str, Any]) -> list[tuple[int, bytes]]:
    """Requests that h11 writes, one after the other on one connection, and what h11 makes of the answers."""
    reader, writer = await rig.connect()
    client, found = h11.Connection(h11.CLIENT), []
    for body in bodies:
        raw = json.dumps(body).encode()
        headers: Headers = [("Host", "x"), ("Authorization", f"Bearer {KEY}"), ("Content-Length", str(len(raw)))]
        head = h11.Request(method="POST", target="/v1/chat/completions", headers=headers)
        for event in (head, h11.Data(data=raw), h11.EndOfMessage()):
            writer.write(client.send(event) or b"")
        status, answer = 0, b""
        while True:
            got = client.next_event()
            if got is h11.NEED_DATA:
                client.receive_data(await reader.read(65536))
            elif isinstance(got, h11.Response):
                status = got.status_code
            elif isinstance(got, h11.Data):
                answer += bytes(got.data)
            elif isinstance(got, h11.EndOfMessage):
                break
        found.append((status, answer))
        client.start_next_cycle()
    writer.close()
    return found


class TestAsH11Reads:
    def test_whole_answers_and_streams_on_one_connection(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                bodies = [chat(), chat(stream=True), chat(), chat(model="nothing"), chat(), chat(stream=True)]
                found = await ask_by_h11(rig, *bodies)
                assert [status for status, _ in found] == [200, 200, 200, 404, 200, 200]
                assert all(b"Hello" in answer for answer in (found[0][1], found[2][1], found[4][1]))
                assert found[1][1].endswith(b"data: [DONE]\n\n")
                assert found[5][1] == found[1][1]
                await until(lambda: rig.gateway.running == 0)
                assert len(await rig.records(5)) == 5

        run(test())


class TestAfterAGoodRequest:
    """The head of the connection is known by now: what differs must still be parsed, and judged."""

    @pytest.mark.parametrize("lines", BAD_AFTER_GOOD)
    def test_smuggling_is_400_and_closes(self, tmp_path: Path, lines: str) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, [replica]):
                reader, writer = await rig.connect()
                for _ in range(2):
                    writer.write(post(chat()))
                    assert (await read_answer(reader)).status == 200
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{lines}\r\n"
                writer.write(head.encode("latin-1") + b"{}" + post(chat()))
                assert b"HTTP/1.1 400" in await reader.read()
                assert len(replica.requests) == 2
                writer.close()

        run(test())

    def test_a_revoked_or_expired_key_is_refused(self, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                reader, writer = await rig.connect()
                for _ in range(2):
                    writer.write(post(chat()))
                    assert (await read_answer(reader)).status == 200
                rig.gateway.snapshots.take(json.dumps(snapshot_document(2, keys=[])).encode())
                writer.write(post(chat()))
                assert (await read_answer(reader)).status == 401
                expiring = snapshot_document(3)
                now = datetime.datetime.now(datetime.UTC).timestamp()
                expiring["keys"][0]["expires_at"] = now + 0.2
                rig.gateway.snapshots.take(json.dumps(expiring).encode())
                writer.write(post(chat()))
                assert (await read_answer(reader)).status == 200
                while True:
                    writer.write(post(chat()))
                    if (await read_answer(reader)).status == 401:
                        break
                    assert datetime.datetime.now(datetime.UTC).timestamp() < now + 5
                writer.close()

        run(test())

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.one_of(
                st.integers(0, 12).map(lambda n: post(chat(user="u" * n))),
                st.sampled_from(
                    [post(chat(stream=True)), post(b"{"), post(chat(model="nothing")), post(chat(), key="no")]
                ),
                st.just(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"),
                st.just(post(chat(), headers="x-request-id: mine\r\n")),
            ),
            min_size=2,
            max_size=6,
        ),
        st.lists(st.integers(1, 400), max_size=8),
    )
    def test_means_the_same_as_without_known_heads(
        self, tmp_path_factory: pytest.TempPathFactory, requests: list[bytes], cuts: list[int]
    ) -> None:
        async def answers() -> tuple[list[bytes], list[Any]]:
            async with running_gateway(tmp_path_factory.mktemp("same"), answer_usual) as (rig, [replica]):
                reader, writer = await rig.connect()
                found, left = [], list(cuts)
                for request in requests:
                    # Some come in pieces; not the one that is refused by its head, after which the connection closes.
                    while left and left[0] < len(request) and b"Bearer no\r\n" not in request:
                        cut = left.pop(0)
                        writer.write(request[:cut])
                        await asyncio.sleep(0)
                        request = request[cut:]
                    writer.write(request)
                    answer = await read_answer(reader)
                    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
                    found.append(f"{answer.status} {headers}".encode() + answer.body)
                writer.close()
                for seen in replica.requests:
                    seen.pop("cache_salt")
                return found, replica.requests

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(protocol, "learn_head", lambda *_: None)
            patched.setattr(upstream, "learn_head", lambda *_: None)
            patched.setattr(upstream, "split_chunks", lambda _: None)
            parsed = run(answers())
        assert run(answers()) == parsed


class TestReplicasThatMisbehave:
    @pytest.mark.parametrize(
        "tail",
        [b"zz\r\nhello\r\n", b"5\r\nhelloXX", b"-5\r\nhello\r\n", b"fffffffffffffffff\r\n", b"0x5\r\nhello\r\n"],
    )
    def test_broken_chunks_after_good_ones_end_the_stream_with_an_error(self, tmp_path: Path, tail: bytes) -> None:
        async def breaks(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            for piece in (STREAM_HEAD, *map(chunked, events(["Hel", "lo"])[:2]), tail):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.close()

        async def test() -> None:
            async with running_gateway(tmp_path, breaks) as (rig, _):
                answer = await rig.call(chat(stream=True))
                assert b"Hel" in answer.body
                assert not answer.whole
                assert b"upstream_failed" in answer.body
                assert (await rig.records(1))[0]["finish"] == "upstream_failed"

        run(test())

    def test_bytes_behind_an_answer_are_nobodys(self, tmp_path: Path) -> None:
        async def says_more(_: FakeReplica, __: dict[str, Any], writer: asyncio.StreamWriter) -> None:
            writer.write(json_bytes(200, completion("mine")) + b"HTTP/1.1 200 OK\r\ncontent-le")

        async def test() -> None:
            async with running_gateway(tmp_path, says_more) as (rig, [replica]):
                for n in range(3):
                    answer = await rig.call()
                    assert (answer.status, answer.json["choices"][0]["message"]["content"]) == (200, "mine")
                    assert replica.connections == n + 1

        run(test())


class TestStreamRewriter:
    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(st.binary(max_size=40) | st.sampled_from([b"data: {", b"\n\n", b"data: [DONE]\n\n", b": ping\n\n"]))
    )
    def test_any_bytes_are_events_or_corrupt(self, pieces: list[bytes]) -> None:
        rewriter = StreamRewriter("a/b/c", "c")
        try:
            for piece in pieces:
                rewriter.feed(piece)
        except Corrupt:
            return

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.lists(st.integers(1, 60), max_size=12))
    def test_cuts_do_not_show(self, texts: list[str], cuts: list[int]) -> None:
        whole = b"".join(events(texts))
        rewriter, out, at = StreamRewriter("acme/risk/chat", "chat"), b"", 0
        for cut in [*cuts, len(whole)]:
            out += rewriter.feed(whole[at : at + cut])
            at += cut
        said = [json.loads(line) for line in re.findall(rb"data: (\{.*\})\n\n", out)]
        assert [choice["delta"]["content"] for event in said for choice in event["choices"]] == texts
        assert rewriter.done


class TestTls:
    def make(self, folder: Path, name: str = "localhost") -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        cert = (
            x509.CertificateBuilder()
            .subject_name(names)
            .issuer_name(names)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        paths = folder / "cert.pem", folder / "key.pem"
        paths[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return paths

    def test_calls_and_streams_over_tls(self, tmp_path: Path) -> None:
        async def test() -> None:
            paths = self.make(tmp_path)
            tls = open_certificate(*paths)
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                server = await listen(rig.gateway, "127.0.0.1", 0, tls=tls)
                port = server.sockets[0].getsockname()[1]
                context = ssl.create_default_context(cafile=str(paths[0]))
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", port, ssl=context, server_hostname="localhost"
                )
                assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
                for body in (chat(), chat(stream=True), chat()):
                    writer.write(post(body))
                    answer = await read_answer(reader)
                    assert (answer.status, answer.whole) == (200, True)
                    assert b"Hel" in answer.body
                writer.close()
                plain_reader, plain_writer = await asyncio.open_connection("127.0.0.1", port)
                plain_writer.write(post(chat()))
                assert b"HTTP/1.1 200" not in await plain_reader.read()
                plain_writer.close()
                server.close()

        run(test())

    def test_a_renewed_certificate_is_taken_up_and_half_a_renewal_is_not(self, tmp_path: Path) -> None:
        cert, key = self.make(tmp_path)
        tls = Certificate(cert, key)
        assert not tls.refresh()
        good = key.read_bytes()
        key.write_text("not a key")
        assert not tls.refresh()
        key.write_bytes(good)
        self.make(tmp_path, "other")
        assert tls.refresh()

    @pytest.mark.parametrize("wrong", ["missing", "alone", "not pem"])
    def test_what_cannot_be_used_is_named(self, tmp_path: Path, wrong: str) -> None:
        cert, key = self.make(tmp_path)
        if wrong == "missing":
            key.unlink()
        if wrong == "not pem":
            key.write_text("nonsense")
        with pytest.raises(EnvironmentFault, match=r"cert|FINMAAS_GATEWAY_TLS"):
            open_certificate(cert, None if wrong == "alone" else key)
