from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from s3_server import own_prefix

from finmaas_core.errors import Corrupt, EnvironmentFault, InvalidInput, NotFound, StoreFull, Unavailable
from finmaas_registry import s3_client
from finmaas_registry.s3_client import S3Address, make_client, patiently
from finmaas_registry.s3_store import PART_BYTES, READ_BYTES, WHOLE_BYTES, S3Store
from finmaas_registry.sealing import PLAIN, Codec
from finmaas_registry.store import read_chunks


@pytest.fixture
def address(s3_address: S3Address) -> S3Address:
    return own_prefix(s3_address)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "PAUSES_S", (0.01, 0.01, 0.01))


class Relay:
    """A TCP relay to the server that cuts every connection after so many bytes of answers, `cuts` times in all."""

    def __init__(self, target: str, after_bytes: int, cuts: int) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._after_bytes, self.cuts_left = after_bytes, cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                passed += len(data)
                if counts and passed > self._after_bytes and self.cuts_left > 0:
                    self.cuts_left -= 1
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


class TestFaults:
    def test_a_connection_that_breaks_mid_transfer_is_taken_up_again(self, address: S3Address) -> None:
        data = os.urandom(3 * READ_BYTES)
        digest, _ = S3Store(address).put([data])
        relay = Relay(address.endpoint, after_bytes=READ_BYTES // 2, cuts=2)
        store = S3Store(replace(address, endpoint=relay.endpoint))
        assert b"".join(store.open(digest)) == data
        assert relay.cuts_left == 0

    def test_a_store_that_stays_down_mid_transfer_is_unavailable(self, address: S3Address) -> None:
        digest, _ = S3Store(address).put([os.urandom(3 * READ_BYTES)])
        relay = Relay(address.endpoint, after_bytes=READ_BYTES // 2, cuts=1000)
        with pytest.raises(Unavailable, match="does not answer"):
            b"".join(S3Store(replace(address, endpoint=relay.endpoint)).open(digest))

    def test_nobody_there_is_unavailable(self, address: S3Address) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            gone = replace(address, endpoint=f"http://127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(Unavailable, match="is it running"):
            S3Store(gone).stat("0" * 64)

    def test_a_wrong_secret_names_the_setting(self, address: S3Address) -> None:
        with pytest.raises(EnvironmentFault, match="FINMAAS_S3_SECRET_KEY"):
            S3Store(replace(address, secret_key=SecretStr("wrong"))).put([b"x"])

    def test_a_missing_bucket_names_the_setting(self, address: S3Address) -> None:
        with pytest.raises(EnvironmentFault, match="FINMAAS_S3_BUCKET"):
            S3Store(replace(address, bucket="no-such-bucket")).put([b"x"])

    @pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://x", "http://x/path"])
    def test_refuses_an_endpoint_that_is_no_address(self, address: S3Address, endpoint: str) -> None:
        with pytest.raises(InvalidInput, match="s3_endpoint"):
            make_client(replace(address, endpoint=endpoint))

    @pytest.mark.parametrize(("status", "code"), [(507, "XMinioStorageFull"), (403, "QuotaExceeded")])
    def test_a_full_bucket_is_named(self, address: S3Address, status: int, code: str) -> None:
        with serve_error(status, code) as endpoint, pytest.raises(StoreFull, match="no room"):
            S3Store(replace(address, endpoint=endpoint)).put([b"x"])

    def test_keys_are_not_shown(self, address: S3Address) -> None:
        assert address.secret_key.get_secret_value() not in repr(address)

    def test_what_passes_is_tried_again_and_the_rest_is_not(self) -> None:
        tries: list[int] = []

        def fail() -> None:
            tries.append(1)
            raise StoreFull("full")

        with pytest.raises(StoreFull):
            patiently(fail)
        assert len(tries) == 1


# A program of its own, so that it can be killed in the middle of an upload.
UPLOAD = """
import os, sys, time
from pydantic import SecretStr
from finmaas_registry.s3_client import S3Address
from finmaas_registry.s3_store import PART_BYTES, S3Store
endpoint, bucket, access, secret, prefix, path, digest = sys.argv[1:]
store = S3Store(S3Address(endpoint, bucket, SecretStr(access), SecretStr(secret), prefix=prefix))
def chunks():
    with open(path, "rb") as file:
        for number in range(8):
            yield file.read(PART_BYTES)
    while len(store._find_upload(prefix + digest)[1]) < 8:
        time.sleep(0.01)
    print("eight", flush=True)
    sys.stdin.read()
store.put_expected(digest, chunks())
"""


class TestOneRequest:
    """Blobs up to WHOLE_BYTES: the server compares them with the digest that was signed."""

    def test_the_server_refuses_other_bytes(self, address: S3Address) -> None:
        store, digest = S3Store(address), hashlib.sha256(b"right").hexdigest()
        assert store._server_compares
        with pytest.raises(Corrupt, match="not those of"):
            store.put_expected(digest, [b"wr", b"ong"])
        assert store.stat(digest) is None

    def test_a_server_that_takes_anything_is_not_trusted(
        self, address: S3Address, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = S3Store(address)
        put = store._client._put_object
        monkeypatch.setattr(
            store._client, "_put_object", lambda bucket, key, chunks, _: put(bucket, key, b"".join(chunks))
        )
        assert not store._server_compares
        with pytest.raises(Corrupt, match="have the digest"):
            store.put_expected("0" * 64, [b"wrong"])
        assert [*store.list()] == [hashlib.sha256(b"finmaas").hexdigest()]

    @pytest.mark.parametrize("compares", [True, False])
    def test_whoever_names_a_blob_that_is_there_must_have_its_bytes(self, address: S3Address, compares: bool) -> None:
        store = S3Store(address)
        digest, _ = store.put([b"another tenant's"])
        store.__dict__["_server_compares"] = compares
        with pytest.raises(Corrupt):
            store.put_expected(digest, [b"a guess"])

    def test_an_empty_blob(self, address: S3Address) -> None:
        store = S3Store(address)
        assert store.put_expected(hashlib.sha256().hexdigest(), []).size == 0
        assert b"".join(store.open(hashlib.sha256().hexdigest())) == b""


class TestParts:
    def test_a_killed_upload_is_taken_up_where_it_was(
        self, address: S3Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = os.urandom(10 * PART_BYTES)
        path, digest = tmp_path / "large", hashlib.sha256(data).hexdigest()
        path.write_bytes(data)
        keys = [address.access_key.get_secret_value(), address.secret_key.get_secret_value()]
        argv = [
            sys.executable,
            "-c",
            UPLOAD,
            address.endpoint,
            address.bucket,
            *keys,
            address.prefix,
            str(path),
            digest,
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as upload:
            assert upload.stdout is not None
            assert upload.stdout.readline() == b"eight\n"
            upload.kill()
        store = S3Store(address)
        assert store.stat(digest) is None
        sent: list[int] = []
        send = store._client._upload_part
        monkeypatch.setattr(store._client, "_upload_part", lambda *args: sent.append(args[5]) or send(*args))
        with path.open("rb") as file:
            store.put_expected(digest, read_chunks(file))
        assert sorted(sent) == [9, 10]
        assert b"".join(store.open(digest)) == data

    def test_two_writers_of_the_same_parts_both_succeed(self, address: S3Address) -> None:
        data = os.urandom(WHOLE_BYTES + 2 * PART_BYTES)
        digest = hashlib.sha256(data).hexdigest()
        inner: list[int] = []

        def chunks() -> Iterator[bytes]:
            yield data[: 2 * PART_BYTES]
            inner.append(S3Store(address).put_expected(digest, [data]).size)
            yield data[2 * PART_BYTES :]

        store = S3Store(address)
        assert store.put_expected(digest, chunks()).size == len(data) == inner[0]
        assert b"".join(store.open(digest)) == data

    def test_sweeps_only_old_uploads(self, address: S3Address, monkeypatch: pytest.MonkeyPatch) -> None:
        store = S3Store(address)
        store._client._create_multipart_upload(address.bucket, f"{address.prefix}{'1' * 64}", {})
        assert store.sweep() == 0
        monkeypatch.setattr("finmaas_registry.s3_store.STALE_UPLOAD", timedelta(seconds=-1))
        assert store.sweep() == 1
        assert store.sweep() == 0


class TestRetention:
    def test_a_retained_blob_cannot_be_removed(self, address: S3Address) -> None:
        store = S3Store(address)
        digest, _ = store.put([b"released"])
        if not store.retain(digest, datetime.now(UTC) + timedelta(seconds=30)):
            pytest.fail("the server of the tests has object lock, but the bucket was made without it")
        kept = store.delete(digest)
        assert kept is not None
        assert kept > datetime.now(UTC)
        assert b"".join(store.open(digest)) == b"released"

    def test_what_was_stored_before_encryption_is_locked_too(self, address: S3Address, sealed: Codec) -> None:
        digest, _ = S3Store(address).put([b"plain"])
        store = S3Store(address, (sealed, PLAIN))
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=30)
        assert store.retain(digest, until)
        assert store.delete(digest) == until
        with pytest.raises(NotFound):
            store.retain("0" * 64, until)


class serve_error:  # noqa: N801
    """A server that answers every request with one S3 error."""

    def __init__(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(status)
                self.send_header("Content-Type", "application/xml")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.send_response(404)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
