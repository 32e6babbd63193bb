"""The gateway's pure parts: who may call what, which replica, the body, the errors, the snapshot on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_parts import EPOCH_2020, EXPIRED_KEY, KEY, PEPPER, key_hash, snapshot_document
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import Corrupt, InvalidInput, NotAllowed, NotAuthenticated, all_error_classes
from finmaas_core.ids import new_id
from finmaas_serving.gateway.body import OVERRIDDEN, engine_body, read_body
from finmaas_serving.gateway.errors import OPENAI_ERRORS, problem_of
from finmaas_serving.gateway.router import authorise, check_scope, hash_key, read_timeout
from finmaas_serving.gateway.routes import created_at
from finmaas_serving.gateway.snapshot import Key, SnapshotFile, SnapshotHolder, read_snapshot
from finmaas_serving.gateway.upstream import ReplicaBook

SNAPSHOT = read_snapshot(json.dumps(snapshot_document()).encode())


class TestAuthorise:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_finds_the_key(self, scheme: str) -> None:
        assert authorise(SNAPSHOT, PEPPER.encode(), f"{scheme} {KEY}".encode(), 0).key_id == "key_good"

    def test_expiry_is_a_moment(self) -> None:
        header = f"Bearer {EXPIRED_KEY}".encode()
        assert authorise(SNAPSHOT, PEPPER.encode(), header, EPOCH_2020 - 0.001).key_id == "key_expired"
        with pytest.raises(NotAuthenticated, match="expired"):
            authorise(SNAPSHOT, PEPPER.encode(), header, EPOCH_2020)

    @pytest.mark.parametrize(
        "header", [None, b"", b"Bearer", b"Basic Zm9v", KEY.encode(), b"Bearer \xff", b"Bearer x y"]
    )
    def test_others_are_refused(self, header: bytes | None) -> None:
        with pytest.raises(NotAuthenticated):
            authorise(SNAPSHOT, PEPPER.encode(), header, 0)

    def test_hash_is_that_of_the_control_plane(self) -> None:
        assert hash_key(PEPPER.encode(), KEY.encode()) == key_hash(KEY)


class TestReadTimeout:
    @pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("0.25", 0.25), ("1e9", 3600), ("inf", 3600)])
    def test_seconds_within_bounds(self, text: str, seconds: float) -> None:
        assert read_timeout(text.encode(), 3600) == seconds

    @pytest.mark.parametrize("text", ["", "0", "-1", "soon", "nan", "5s", "\xff"])
    def test_others_are_refused(self, text: str) -> None:
        with pytest.raises(InvalidInput, match="x-request-timeout"):
            read_timeout(text.encode("latin-1"), 3600)


class TestReplicaBook:
    def test_replicas_that_stay_keep_their_load(self) -> None:
        book = ReplicaBook()
        book.replace({"a": [("h", 1), ("h", 2)]})
        kept, gone = book.of("a")
        kept.in_flight = 5
        book.replace({"a": [("h", 3), ("h", 1)]})
        assert [(r.port, r.in_flight) for r in book.of("a")] == [(3, 0), (1, 5)]
        assert (kept.gone, gone.gone) == (False, True)
        assert book.of("b") == []


JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
OWN = {"model", "stream", "stream_options", "n", "prompt", "messages", "store", *OVERRIDDEN}


USUAL = st.fixed_dictionaries(
    {
        "messages": st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "content": TEXT})),
        "model": st.sampled_from(["chat", "模型", "messages"]),
    },
    optional={
        "stream": st.booleans(),
        "stream_options": st.none() | st.just({"include_usage": True}),
        "max_tokens": st.integers(0, 10**6),
        "temperature": st.floats(0, 2),
        "stop": st.lists(TEXT, max_size=2),
        "user": TEXT,
        "n": st.integers(0, 3),
    },
)


class TestBody:
    @given(st.dictionaries(st.text().filter(lambda name: name not in OWN), JSON, max_size=5), st.booleans())
    def test_all_other_fields_travel_untouched(self, fields: dict[str, Any], stream: bool) -> None:
        raw = json.dumps({**fields, "model": "chat", "stream": stream}, indent=1).encode()
        sent = json.loads(engine_body(read_body(raw), "t/p/e"))
        expected = {**fields, "model": "t/p/e", "stream": stream}
        if stream:
            expected["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        assert sent == expected

    def test_the_last_of_repeated_fields_is_both_checked_and_sent(self) -> None:
        body = read_body(b'{"model":"a","model":"b"}')
        assert body.model == "b"
        assert engine_body(body, "t/p/e").count(b"model") == 1

    @given(USUAL, st.booleans())
    def test_the_usual_chat_is_sent_as_any_other(self, fields: dict[str, Any], spaced: bool) -> None:
        raw = json.dumps(fields, ensure_ascii=spaced, separators=None if spaced else (",", ":")).encode()
        body, read_by_field = read_body(raw), read_body(raw)
        assert (body.usual is None) == ("stream_options" in fields and fields["stream_options"] is None)
        read_by_field.usual = None
        sent = engine_body(body, "t/p/e", "salt")
        assert json.loads(sent) == json.loads(engine_body(read_by_field, "t/p/e", "salt"))
        assert json.loads(sent)["messages"] == fields["messages"]
        assert sent.count(b'"model":') == sent.count(b'"cache_salt":') == 1

    @pytest.mark.parametrize(
        "raw",
        [
            '{"messages":[],"model":"a","model":"chat"}',
            '{"messages":[],"model":"chat","model":"chat"}',
            '{"messages":[],"mod\\u0065l":"chat","model":"chat"}',
            '{"messages":[{"role":"user","content":"\\"model\\":\\"chat\\""}],"model":"chat"}',
            ' {"messages":[],"model" : "chat"}',
            '{"messages":[{"role":"user","content":"model"}],"model":"chat"}',
        ],
    )
    def test_the_model_is_named_where_it_stands(self, raw: str) -> None:
        sent = engine_body(read_body(raw.encode()), "t/p/e", "salt")
        assert json.loads(sent) == {**json.loads(raw), "model": "t/p/e", "cache_salt": "salt"}
        assert b'"model":"chat"' not in sent.replace(b'\\"', b"")

    @pytest.mark.parametrize("name", ["cache_salt", "priority", "c\\u0061che_salt", "request_id"])
    def test_what_the_gateway_decides_is_not_usual(self, name: str) -> None:
        body = read_body(f'{{"messages":[],"model":"chat","{name}":"mine"}}'.encode())
        assert body.usual is None
        assert b"mine" not in engine_body(body, "t/p/e", "salt")

    @pytest.mark.parametrize(
        ("prompt", "n", "choices"),
        [
            ('"x"', 1, 1),
            ('["x","y"]', 1, 2),
            ('["x","y"]', 3, 6),
            ("[1,2,3]", 2, 2),
            ("[[1],[2,3]]", 1, 2),
            ("[]", 1, 1),
        ],
    )
    def test_choices(self, prompt: str, n: int, choices: int) -> None:
        body = read_body(f'{{"model":"a","stream":true,"prompt": {prompt},"n":{n}}}'.encode())
        assert (body.samples, body.choices) == (n, choices)

    @given(st.binary())
    def test_any_bytes_are_read_or_refused(self, raw: bytes) -> None:
        with pytest.raises(InvalidInput):
            read_body(b"{" + raw)


class TestErrors:
    def test_every_error_has_its_openai_shape(self) -> None:
        own = [cls for cls in all_error_classes() if cls.__module__ == "finmaas_core.errors"]
        assert {cls.code for cls in own} == set(OPENAI_ERRORS)
        for cls in own:
            body = json.loads(problem_of(cls("what")).body())
            assert set(body["error"]) == {"message", "type", "param", "code"}


class TestSnapshotHolder:
    def holder(self, folder: Path, token: str = "fmg_1") -> SnapshotHolder:
        return SnapshotHolder(SnapshotFile(folder / "snapshot", token))

    def test_comes_back_from_disk(self, tmp_path: Path) -> None:
        assert not self.holder(tmp_path).load_from_disk()
        assert self.holder(tmp_path).take(json.dumps(snapshot_document(7)).encode())
        again = self.holder(tmp_path)
        assert again.load_from_disk()
        assert (again.current.number, again.source) == (7, "disk")
        assert (tmp_path / "snapshot").stat().st_mode & 0o777 == 0o600

    def test_an_older_number_is_refused(self, tmp_path: Path) -> None:
        holder = self.holder(tmp_path)
        assert holder.take(json.dumps(snapshot_document(7)).encode())
        assert not holder.take(json.dumps(snapshot_document(6, keys=[])).encode())
        assert len(holder.current.keys) == 4

    @given(st.integers(0, 3000), st.integers(1, 255))
    def test_a_changed_byte_is_noticed(self, tmp_path_factory: pytest.TempPathFactory, at: int, flip: int) -> None:
        folder = tmp_path_factory.mktemp("snapshot")
        self.holder(folder).take(json.dumps(snapshot_document()).encode())
        data = bytearray((folder / "snapshot").read_bytes())
        at %= len(data)
        if at == 64:  # the line end between the two parts carries nothing
            return
        data[at] ^= flip
        (folder / "snapshot").write_bytes(data)
        with pytest.raises(Corrupt):
            self.holder(folder).load_from_disk()

    def test_another_token_does_not_open_it(self, tmp_path: Path) -> None:
        self.holder(tmp_path).take(json.dumps(snapshot_document()).encode())
        with pytest.raises(Corrupt):
            self.holder(tmp_path, "fmg_2").load_from_disk()

    @pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"number":"x","issued_at":""}'])
    def test_nonsense_is_refused_and_the_old_one_stays(self, tmp_path: Path, raw: bytes) -> None:
        holder = self.holder(tmp_path)
        holder.take(json.dumps(snapshot_document()).encode())
        with pytest.raises(Corrupt):
            holder.take(raw)
        assert holder.current.number == 1


class TestCreatedAt:
    def test_is_read_from_the_id(self) -> None:
        assert abs(created_at(new_id("endpoint")) - time.time()) < 60
        assert created_at("ep_chat") == 0


class TestCheckScope:
    def key(self, **scope: Any) -> Key:
        return Key(hash="h", key_id="k", project_id="p", project="t/p", tenant_id="t", **scope)

    @pytest.mark.parametrize(
        ("scope", "path", "peer", "allowed"),
        [
            ({}, "/v1/chat/completions", "203.0.113.7", True),
            ({"methods": ("embeddings",)}, "/v1/embeddings", "203.0.113.7", True),
            ({"methods": ("embeddings",)}, "/v1/chat/completions", "203.0.113.7", False),
            ({"methods": ("embeddings",)}, "/v1/models", "203.0.113.7", False),
            ({"methods": ("models",)}, "/v1/models/chat", "203.0.113.7", True),
            ({"networks": ("10.0.0.0/8",)}, "/v1/models", "10.255.0.1", True),
            ({"networks": ("10.0.0.0/8",)}, "/v1/models", "::ffff:10.255.0.1", True),
            ({"networks": ("10.0.0.0/8", "2001:db8::/32")}, "/v1/models", "2001:db8::1", True),
            ({"networks": ("10.0.0.0/8",)}, "/v1/models", "11.0.0.1", False),
            ({"networks": ("10.0.0.0/8",)}, "/v1/models", "", False),
        ],
    )
    def test_by_method_and_network(self, scope: dict[str, Any], path: str, peer: str, allowed: bool) -> None:
        if allowed:
            check_scope(self.key(**scope), path, peer)
        else:
            with pytest.raises(NotAllowed):
                check_scope(self.key(**scope), path, peer)
