"""Files and batches as gateways ask for them: scope, validation, refusals that name the field."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message, Receive

from finmaas_core.clock import FakeClock
from finmaas_platform.api.middleware import MAX_BODY_BYTES
from finmaas_platform.deps import Deps
from finmaas_platform.reconcile.batches import BatchReconciler
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
API = "/api/v1"
OPENAI = f"{API}/gateway/openai"


@pytest.fixture
def make_key(client: TestClient, admin: Headers, gateway: Headers) -> Callable[..., Headers]:
    def make(project: str = "default/default", **body: Any) -> Headers:
        made = client.post(f"{API}/api-keys", json={"project": project, "name": "k", **body}, headers=admin).json()
        return {**gateway, "X-Finmaas-Key": made["id"]}

    return make


@pytest.fixture
def key(make_key: Callable[..., Headers]) -> Headers:
    return make_key()


def line(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body} | changes


def upload(client: TestClient, key: Headers, content: bytes | str, **form: str) -> Any:
    raw = content.encode() if isinstance(content, str) else content
    form = {"purpose": "batch", **form}
    return client.post(f"{OPENAI}/files", files={"file": ("in.jsonl", raw)}, data=form, headers=key)


FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


async def ask(client: TestClient, headers: Headers, receive: Receive) -> int:
    """The status of an upload whose body comes from `receive`."""
    told: list[Message] = []

    async def send(message: Message) -> None:
        told.append(message)

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": f"{OPENAI}/files", "headers": raw}
    await client.app({**scope, "query_string": b""}, receive, send)
    status: int = told[0]["status"]
    return status


def batch_of(client: TestClient, key: Headers, content: bytes | str, **body: Any) -> Any:
    file_id = upload(client, key, content).json()["id"]
    wanted = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **body}
    return client.post(f"{OPENAI}/batches", json=wanted, headers=key)


def validated(client: TestClient, deps: Deps, key: Headers, content: bytes | str) -> dict[str, Any]:
    made = batch_of(client, key, content).json()
    BatchReconciler(deps).run_once()
    shown: dict[str, Any] = client.get(f"{OPENAI}/batches/{made['id']}", headers=key).json()
    return shown


class TestFiles:
    def test_live_from_upload_to_deletion(self, client: TestClient, key: Headers) -> None:
        made = upload(client, key, "x\n" * 1000).json()
        assert (made["object"], made["bytes"], made["filename"], made["purpose"]) == ("file", 2000, "in.jsonl", "batch")
        path = f"{OPENAI}/files/{made['id']}"
        assert client.get(path, headers=key).json() == made
        assert client.get(f"{path}/content", headers=key).text == "x\n" * 1000
        assert client.get(f"{OPENAI}/files", headers=key).json()["data"] == [made]
        assert client.delete(path, headers=key).json() == {"id": made["id"], "object": "file", "deleted": True}
        assert client.get(path, headers=key).status_code == 404
        assert client.get(f"{OPENAI}/files", headers=key).json()["data"] == []

    @pytest.mark.parametrize(
        ("form", "param"),
        [
            ({"purpose": "fine-tune"}, "purpose"),
            ({"other": "x"}, "other"),
            ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}, "expires_after[seconds]"),
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after[seconds]"),
        ],
    )
    def test_a_form_that_does_not_fit_names_the_field(
        self, client: TestClient, key: Headers, form: dict[str, str], param: str
    ) -> None:
        answer = upload(client, key, "x", **form)
        assert (answer.status_code, answer.json()["param"]) == (422, param)

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            ("multipart/form-data; boundary=x", b"--x\r\nnonsense"),
            ("multipart/form-data", b"abc"),
            ("multipart/form-data; boundary=\xff".encode("latin-1").decode("latin-1"), b"abc"),
            ("application/json", b"{}"),
            (
                "multipart/form-data; boundary=x",
                b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--x--',
            ),
        ],
    )
    def test_what_is_no_upload_is_refused(
        self, client: TestClient, key: Headers, content_type: str, body: bytes
    ) -> None:
        headers = {**key, "content-type": content_type.encode("latin-1")}  # type: ignore[dict-item]
        assert client.post(f"{OPENAI}/files", content=body, headers=headers).status_code in (400, 422)

    def test_too_large_is_refused_and_expired_is_gone(
        self, client: TestClient, key: Headers, deps: Deps, clock: FakeClock
    ) -> None:
        object.__setattr__(deps.settings, "max_file_bytes", 1000)
        assert upload(client, key, "x" * 1001).status_code == 422
        assert upload(client, key, "x" * 200_000).status_code == 422
        timed = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        made = upload(client, key, "x" * 1000, **timed).json()
        clock.advance(3601)
        assert client.get(f"{OPENAI}/files/{made['id']}", headers=key).status_code == 404

    def test_a_file_larger_than_what_is_held_whole_is_taken(self, client: TestClient, key: Headers) -> None:
        size = MAX_BODY_BYTES + 1
        made = upload(client, key, b"x" * size).json()
        assert made["bytes"] == size

    @pytest.mark.parametrize("ends", [True, False])
    def test_a_form_that_breaks_off_or_has_no_end_is_refused_and_leaves_nothing(
        self, client: TestClient, key: Headers, deps: Deps, store: MemoryStore, ends: bool
    ) -> None:
        object.__setattr__(deps.settings, "max_file_bytes", 1000)
        read = 0

        async def receive() -> Message:
            nonlocal read
            read += 1
            if ends and read == 3:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": FORM if read == 1 else b"x" * 1000, "more_body": True}

        headers = {**key, "content-type": "multipart/form-data; boundary=x"}
        assert asyncio.run(ask(client, headers, receive)) == 422
        assert read < 100
        assert (client.get(f"{OPENAI}/files", headers=key).json()["data"], list(store.list())) == ([], [])

    def test_a_key_that_has_ended_is_refused_before_a_byte_is_read(self, client: TestClient, gateway: Headers) -> None:
        async def receive() -> Message:
            raise AssertionError("it was read")

        headers = {**gateway, "X-Finmaas-Key": "key_none", "content-type": "multipart/form-data; boundary=x"}
        assert asyncio.run(ask(client, headers, receive)) == 401

    def test_no_other_project_sees_them(
        self, client: TestClient, key: Headers, make_key: Callable[..., Headers], make_tenant: Callable[[str], str]
    ) -> None:
        make_tenant("other")
        made, other = upload(client, key, "x").json(), make_key("other/default")
        batch = batch_of(client, key, json.dumps(line())).json()
        for method, path in (
            ("GET", f"/files/{made['id']}"),
            ("GET", f"/files/{made['id']}/content"),
            ("DELETE", f"/files/{made['id']}"),
            ("GET", f"/batches/{batch['id']}"), ("POST", f"/batches/{batch['id']}/cancel"),
        ):  # fmt: skip
            assert client.request(method, OPENAI + path, headers=other).status_code == 404, path
        assert client.get(f"{OPENAI}/files", headers=other).json()["data"] == []
        assert client.get(f"{OPENAI}/batches", headers=other).json()["data"] == []
        stolen = {"input_file_id": made["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
        assert client.post(f"{OPENAI}/batches", json=stolen, headers=other).status_code == 404

    def test_only_gateways_ask_and_only_for_living_keys(
        self, client: TestClient, key: Headers, admin: Headers, gateway: Headers
    ) -> None:
        assert client.get(f"{OPENAI}/files", headers={**key, **admin}).status_code == 403
        assert client.get(f"{OPENAI}/files", headers=gateway).status_code == 422
        assert client.get(f"{OPENAI}/files", headers={**gateway, "X-Finmaas-Key": "key_none"}).status_code == 401
        client.post(f"{API}/api-keys/{key['X-Finmaas-Key']}/revoke", headers=admin)
        assert client.get(f"{OPENAI}/files", headers=key).status_code == 401

    def test_pages(self, client: TestClient, key: Headers) -> None:
        ids = [upload(client, key, f"{i}").json()["id"] for i in range(3)]
        first = client.get(f"{OPENAI}/files", params={"limit": 2, "order": "asc"}, headers=key).json()
        assert (len(first["data"]), first["has_more"]) == (2, True)
        rest = client.get(f"{OPENAI}/files", params={"after": first["last_id"], "order": "asc"}, headers=key).json()
        assert sorted(one["id"] for one in first["data"] + rest["data"]) == sorted(ids)
        assert client.get(f"{OPENAI}/files", params={"after": "file_none"}, headers=key).status_code == 404


class TestBatches:
    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({"endpoint": "/v1/images"}, "endpoint"),
            ({"endpoint": ["x"]}, "endpoint"),
            ({"completion_window": "1h"}, "completion_window"),
            ({"input_file_id": 5}, "input_file_id"),
            ({"metadata": {"a": 1}}, "metadata.a"),
            ({"metadata": "x"}, "metadata"),
            ({"other": 1}, "other"),
        ],
    )
    def test_what_does_not_fit_names_the_field(
        self, client: TestClient, key: Headers, body: dict[str, Any], param: str
    ) -> None:
        answer = batch_of(client, key, json.dumps(line()), **body)
        assert (answer.status_code, answer.json()["param"]) == (422, param)

    @pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b'"x"', b"[" * 100_000])
    def test_a_body_that_is_no_object(self, client: TestClient, key: Headers, raw: bytes) -> None:
        assert client.post(f"{OPENAI}/batches", content=raw, headers=key).status_code == 422

    @pytest.mark.parametrize(
        ("content", "code", "number", "param"),
        [
            (b"", "empty_file", None, None),
            (b"\n \n", "empty_file", None, None),
            (b'{"custom_id": \n', "invalid_json_line", 1, None),
            (b"\n\xff\xfe\n", "invalid_utf8", 2, None),
            (b"[1]", "invalid_json_line", 1, None),
            (b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions"}', "invalid_request", 1, "body"),
            (json.dumps(line(custom_id=5)), "invalid_request", 1, "custom_id"),
            (json.dumps(line(custom_id="")), "invalid_custom_id", 1, "custom_id"),
            (json.dumps(line(custom_id="x" * 513)), "invalid_custom_id", 1, "custom_id"),
            (json.dumps(line(method="GET")), "invalid_method", 1, "method"),
            (json.dumps(line(url="/v1/embeddings")), "mismatched_endpoint", 1, "url"),
            (json.dumps(line(body={"messages": []})), "missing_model", 1, "body.model"),
            (json.dumps(line(body={"model": 5})), "missing_model", 1, "body.model"),
            (json.dumps(line(body={"model": "m", "stream": True})), "stream", 1, "body.stream"),
            (json.dumps(line(body=[])), "invalid_request", 1, "body"),
            (json.dumps(line(other=1)), "unknown_field", 1, "other"),
            (json.dumps(line()) + "\n" + json.dumps(line()), "duplicate_custom_id", 2, "custom_id"),
            (b'{"a":' * 5000, "invalid_json_line", 1, None),
        ],
    )
    def test_a_bad_input_names_line_and_field(
        self, client: TestClient, deps: Deps, key: Headers, content: bytes, code: str, number: int | None, param: str
    ) -> None:
        shown = validated(client, deps, key, content)
        assert (shown["status"], shown["failed_at"] is not None) == ("failed", True)
        [fault] = shown["errors"]["data"]
        assert (fault["code"], fault["line"], fault["param"]) == (code, number, param)
        assert number is None or f"line {number}" in fault["message"]

    def test_a_line_may_not_be_longer_than_a_request(self, client: TestClient, deps: Deps, key: Headers) -> None:
        shown = validated(client, deps, key, b"x" * (deps.settings.max_request_bytes + (1 << 20)))
        assert shown["errors"]["data"][0]["code"] == "line_too_long"

    def test_a_key_that_may_not_call_the_endpoint_makes_no_batch_of_it(
        self, client: TestClient, make_key: Callable[..., Headers]
    ) -> None:
        key = make_key(methods=["batches", "files", "embeddings"])
        assert batch_of(client, key, json.dumps(line())).status_code == 403

    def test_cancelling_twice_is_once_and_what_has_ended_cannot_be(
        self, client: TestClient, deps: Deps, key: Headers
    ) -> None:
        made = batch_of(client, key, json.dumps(line())).json()
        path = f"{OPENAI}/batches/{made['id']}"
        for _ in range(2):
            assert client.post(f"{path}/cancel", headers=key).json()["status"] == "cancelling"
        assert client.delete(f"{OPENAI}/files/{made['input_file_id']}", headers=key).status_code == 409
        BatchReconciler(deps).run_once()
        shown = client.get(path, headers=key).json()
        assert (shown["status"], shown["cancelled_at"] is not None) == ("cancelled", True)
        assert client.post(f"{path}/cancel", headers=key).status_code == 409
        assert client.delete(f"{OPENAI}/files/{made['input_file_id']}", headers=key).status_code == 200

    def test_people_see_and_end_those_of_their_tenant(
        self, client: TestClient, key: Headers, admin: Headers, engineer: Headers, stranger: Headers
    ) -> None:
        made = batch_of(client, key, json.dumps(line())).json()
        path = f"{API}/batches/{made['id']}"
        [shown] = client.get(f"{API}/batches", params={"project": "default/default"}, headers=engineer).json()["items"]
        assert (shown["id"], shown["state"], shown["project"]) == (made["id"], "validating", "default/default")
        assert client.get(path, headers=engineer).json() == shown
        assert client.get(path, headers=stranger).status_code == 404
        assert client.post(f"{path}/cancel", headers=stranger).status_code == 404
        assert client.post(f"{path}/cancel", headers=engineer).status_code == 403
        assert client.post(f"{path}/cancel", headers=admin).json()["state"] == "cancelling"

    def test_only_so_many_are_open_at_once(
        self, client: TestClient, key: Headers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_platform.services.batches.MAX_OPEN", 1)
        assert batch_of(client, key, json.dumps(line())).status_code == 200
        assert batch_of(client, key, json.dumps(line())).status_code == 409
