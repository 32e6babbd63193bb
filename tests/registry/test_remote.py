from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from finmaas_core.errors import NotFound, StoreFull, Unavailable
from finmaas_registry.remote import RemoteBlobs
from finmaas_registry.store import Stored

DATA = b"0123456789" * 50_000
DIGEST = hashlib.sha256(DATA).hexdigest()
Handler = Callable[[httpx.Request], httpx.Response]


class FlakyServer:
    """Answers blob requests; every odd call goes wrong in the way it is told to."""

    def __init__(self, fault: Callable[[httpx.Request], httpx.Response | None]) -> None:
        self.fault = fault
        self.blobs: dict[str, bytes] = {}
        self.calls: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(f"{request.method} {request.headers.get('Range', '')}".strip())
        if len(self.calls) % 2 and (answer := self.fault(request)):
            return answer
        digest = request.url.path.rpartition("/")[2]
        assert request.headers["Authorization"] == "Bearer fmj_x"
        if request.method == "PUT":
            self.blobs[digest] = request.read()
            return httpx.Response(201, json={})
        if digest not in self.blobs:
            return httpx.Response(404, json={"code": "not_found", "detail": "no such blob"})
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        content = b"" if request.method == "HEAD" else self.blobs[digest][start:]
        return httpx.Response(206 if start else 200, content=content)


def away(_request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def busy(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(503, json={"code": "unavailable", "detail": "starting"})


def breaks_off(request: httpx.Request) -> httpx.Response | None:
    if request.method != "GET":
        return None

    def half() -> Iterator[bytes]:
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        yield DATA[start : start + 200_000]
        raise httpx.ReadError("reset")

    return httpx.Response(206 if "Range" in request.headers else 200, content=half())


def remote(handler: Handler, patience_s: float = 60) -> tuple[RemoteBlobs, list[float]]:
    pauses: list[float] = []
    http = httpx.Client(transport=httpx.MockTransport(handler), base_url="http://api")
    return RemoteBlobs("http://api", "fmj_x", http=http, patience_s=patience_s, sleep=pauses.append), pauses


class TestRemoteBlobs:
    @pytest.mark.parametrize("fault", [away, busy, breaks_off])
    def test_rides_out_faults(self, tmp_path: Path, fault: Handler) -> None:
        server = FlakyServer(fault)
        blobs, _ = remote(server)
        (tmp_path / "file").write_bytes(DATA)
        assert not blobs.has(DIGEST)
        assert blobs.put(tmp_path / "file") == Stored(DIGEST, len(DATA))
        assert server.blobs == {DIGEST: DATA}
        assert blobs.has(DIGEST)
        assert b"".join(blobs.fetch(DIGEST)) == DATA

    def test_a_broken_stream_goes_on_where_it_broke(self) -> None:
        server = FlakyServer(breaks_off)
        server.blobs[DIGEST] = DATA
        assert b"".join(remote(server)[0].fetch(DIGEST)) == DATA
        assert server.calls[0] == "GET"
        assert server.calls[1].startswith("GET bytes=")
        assert server.calls[1] != "GET bytes=0-"

    def test_does_not_send_what_is_there(self, tmp_path: Path) -> None:
        server = FlakyServer(lambda _request: None)
        server.blobs[DIGEST] = DATA
        (tmp_path / "file").write_bytes(DATA)
        remote(server)[0].put(tmp_path / "file")
        assert server.calls == ["HEAD"]

    def test_patience_ends(self) -> None:
        blobs, pauses = remote(away, patience_s=3)
        with pytest.raises(Unavailable, match="is it running"):
            blobs.has(DIGEST)
        assert pauses == [0.1, 0.2, 0.4, 0.8]

    def test_an_unknown_blob_is_named_at_once(self) -> None:
        blobs, pauses = remote(FlakyServer(lambda _request: None))
        with pytest.raises(NotFound, match="no such blob"):
            next(blobs.fetch(DIGEST))
        assert pauses == []

    def test_a_full_store_is_not_waited_for(self, tmp_path: Path) -> None:
        def full(request: httpx.Request) -> httpx.Response:
            if request.method == "HEAD":
                return httpx.Response(404)
            return httpx.Response(507, json={"code": "store_full", "detail": "no room"})

        (tmp_path / "file").write_bytes(DATA)
        with pytest.raises(StoreFull, match="no room"):
            remote(full)[0].put(tmp_path / "file")
