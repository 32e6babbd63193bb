from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from finmaas_core.errors import BadRow, FinmaasError, NotAuthenticated, NotFound, Unavailable, all_error_classes
from finmaas_platform.sdk.jobs import Jobs
from finmaas_platform.sdk.objects import Tenant
from finmaas_platform.sdk.transport import Transport

Handler = Callable[[httpx.Request], httpx.Response]
TENANT = {"id": "ten_1", "name": "a", "state": "active", "created_at": "2026-01-01T00:00:00Z", "from_the_future": 1}


def make_transport(handler: Handler, patience_s: float = 5.0) -> Transport:
    http = httpx.Client(base_url="http://maas", transport=httpx.MockTransport(handler))
    return Transport("http://maas", "fma_x", http, patience_s=patience_s)


class Flaky:
    """Answers after so many failures; remembers the requests and the bodies that it took."""

    def __init__(self, failures: list[Exception | httpx.Response], answer: httpx.Response) -> None:
        self._failures = failures
        self._answer = answer
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        if not self._failures:
            return self._answer
        failure = self._failures.pop(0)
        if isinstance(failure, Exception):
            raise failure
        return failure


class TestRetries:
    def test_a_lost_answer_is_asked_again_with_the_same_key(self) -> None:
        server = Flaky([httpx.ReadError("gone"), httpx.ConnectError("down")], httpx.Response(201, json={"id": 1}))
        assert make_transport(server).write("POST", "/jobs", {"a": 1}) == {"id": 1}
        assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 1
        assert server.bodies == [b'{"a":1}'] * 3

    def test_two_writes_have_two_keys(self) -> None:
        server = Flaky([], httpx.Response(201, json={}))
        transport = make_transport(server)
        transport.write("POST", "/jobs", {})
        transport.write("POST", "/jobs", {})
        assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 2

    def test_an_upload_starts_from_its_beginning(self) -> None:
        server = Flaky([httpx.WriteError("gone")], httpx.Response(201, json={}))

        def body() -> Iterator[bytes]:
            yield b"ab"
            yield b"cd"

        make_transport(server).upload("PUT", "/blobs/x", body, 4)
        assert server.bodies == [b"abcd", b"abcd"]
        assert server.requests[1].headers["Content-Length"] == "4"

    def test_an_address_where_nobody_listens_fails_at_once(self) -> None:
        server = Flaky([httpx.ConnectError("refused")], httpx.Response(200, json={}))
        with pytest.raises(Unavailable, match="nothing answers at http://maas"):
            make_transport(server).get("/whoami")
        assert len(server.requests) == 1

    def test_patience_ends(self) -> None:
        server = Flaky([httpx.ReadError("gone")] * 100, httpx.Response(200))
        with pytest.raises(Unavailable, match="broke"):
            make_transport(server, patience_s=0.0).get("/whoami")

    def test_a_503_with_retry_after_is_tried_again(self) -> None:
        server = Flaky([httpx.Response(503, headers={"Retry-After": "0"})], httpx.Response(200, json={"ok": True}))
        assert make_transport(server).get("/whoami") == {"ok": True}

    def test_a_503_without_it_stands(self) -> None:
        problem = {"code": "unavailable", "detail": "the database is away; wait"}
        server = Flaky([httpx.Response(503, json=problem)], httpx.Response(200))
        with pytest.raises(Unavailable, match="database is away"):
            make_transport(server).get("/whoami")


class TestProblems:
    @pytest.mark.parametrize("cls", all_error_classes(), ids=lambda cls: cls.code)
    def test_every_code_comes_back_as_its_class(self, cls: type[FinmaasError]) -> None:
        problem = {"type": "x", "title": "t", "status": 400, "code": cls.code, "detail": "what; do", "line": 3}
        transport = make_transport(Flaky([], httpx.Response(400, json=problem)))
        with pytest.raises(FinmaasError) as caught:
            transport.get("/x")
        assert type(caught.value) is cls
        assert caught.value.message == "what; do"
        assert caught.value.details == {"line": 3, "status": 400}

    def test_a_page_of_a_proxy_is_told_by_its_status(self) -> None:
        with pytest.raises(NotAuthenticated, match="answered 401"):
            make_transport(Flaky([], httpx.Response(401, text="<html>"))).get("/x")

    def test_details_of_a_bad_row_stay(self) -> None:
        problem = {"code": "bad_row", "detail": "x.csv line 3: …", "file": "x.csv", "line": 3}
        with pytest.raises(BadRow) as caught:
            make_transport(Flaky([], httpx.Response(422, json=problem))).get("/x")
        assert caught.value.details["line"] == 3

    def test_a_head_that_finds_nothing_is_no_error(self) -> None:
        assert make_transport(Flaky([], httpx.Response(404))).exists("/blobs/x") is False
        assert make_transport(Flaky([], httpx.Response(200))).exists("/blobs/x") is True
        with pytest.raises(NotFound):
            make_transport(Flaky([], httpx.Response(404))).get("/blobs/x")


class TestPages:
    def test_follows_the_cursor_and_stops_at_the_limit(self) -> None:
        asked: list[dict[str, str]] = []

        def serve(request: httpx.Request) -> httpx.Response:
            asked.append(dict(request.url.params))
            start = int(request.url.params.get("cursor", "0"))
            size = min(2, int(request.url.params["limit"]))
            items = [{**TENANT, "name": f"t{i}"} for i in range(start, min(start + size, 5))]
            after = start + len(items)
            return httpx.Response(200, json={"items": items, "next_cursor": str(after) if after < 5 else None})

        transport = make_transport(serve)
        assert [t.name for t in transport.pages(Tenant, "/tenants")] == ["t0", "t1", "t2", "t3", "t4"]
        assert [t.name for t in transport.pages(Tenant, "/tenants", limit=3, state=None)] == ["t0", "t1", "t2"]
        assert "state" not in asked[-1]


class TestLogs:
    def test_a_broken_stream_is_taken_up_where_it_broke(self) -> None:
        text = "eins\nzwei\n三\nvier".encode()
        offsets: list[int] = []

        def serve(request: httpx.Request) -> httpx.Response:
            offset = int(request.url.params["offset"])
            offsets.append(offset)
            if offset == 0:

                def broken() -> Iterator[bytes]:
                    yield text[:11]
                    raise httpx.ReadError("gone")

                return httpx.Response(200, content=broken())
            return httpx.Response(200, content=text[offset:])

        transport = make_transport(serve)
        assert list(Jobs(transport).logs("job_1", follow=True)) == ["eins", "zwei", "三", "vier"]
        assert offsets == [0, 11]

    def test_an_unknown_job_is_not_found(self) -> None:
        transport = make_transport(lambda _: httpx.Response(404, json={"code": "not_found", "detail": "no job"}))
        with pytest.raises(NotFound):
            list(Jobs(transport).logs("job_1"))
