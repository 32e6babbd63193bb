"""Fetching a model version onto a node, from a control plane that the test plays."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finmaas_core.errors import BadSignature, Corrupt, EnvironmentFault, InvalidInput, NotFound, Unavailable
from finmaas_registry.keys import MemorySigningKey
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.signing import sign_version
from finmaas_serving.model_pull import check_model, pull_model

WEIGHTS = b"weights" * 1000
TOKEN = "fmn_test"


class Node:
    """A control plane with one model version, and the log of what it was asked."""

    def __init__(self) -> None:
        self.kind = "full"
        self.ref = "default/default/m@1"
        self.digest: str | None = None
        self.signature: str | None = None
        self.blobs = {hashlib.sha256(WEIGHTS).hexdigest(): WEIGHTS}
        self.asked: list[str] = []

    def answer(self, path: str, token: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if token != f"Bearer {TOKEN}":
            return 401, b"{}"
        if path == "/api/v1/node/model-versions/mdv_1":
            files = [{"path": "model.safetensors", "sha256": digest, "size": len(WEIGHTS)} for digest in self.blobs]
            entries = [FileEntry(str(f["path"]), str(f["sha256"]), len(WEIGHTS)) for f in files]
            about = {"id": "mdv_1", "ref": self.ref, "kind": self.kind, "files": files, "signature": self.signature}
            return 200, json.dumps(about | {"digest": self.digest or make_manifest(entries).digest}).encode()
        blob = self.blobs.get(path.removeprefix("/api/v1/blobs/"))
        return (404, b"{}") if blob is None else (200, blob)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    plane = Node()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = plane.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the library's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token_file = tmp_path / "cluster.token"
    token_file.write_text(TOKEN)
    monkeypatch.setenv("FINMAAS_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("FINMAAS_CLUSTER_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("FINMAAS_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("FINMAAS_TRUST_ROOT", "FINMAAS_REQUIRE_SIGNATURE"):
        monkeypatch.delenv(name, raising=False)
    yield plane
    server.shutdown()
    server.server_close()


class TestPullModel:
    def test_the_files_of_the_version_lie_in_one_folder(self, node: Node) -> None:
        assert (pull_model("mdv_1") / "model.safetensors").read_bytes() == WEIGHTS

    def test_a_second_call_fetches_no_bytes(self, node: Node) -> None:
        pull_model("mdv_1")
        node.asked.clear()
        pull_model("mdv_1")
        assert [path for path in node.asked if "/blobs/" in path] == []

    def test_bytes_that_do_not_match_their_digest_are_refused(self, node: Node, tmp_path: Path) -> None:
        node.blobs = dict.fromkeys(node.blobs, WEIGHTS[:-1] + b"X")
        with pytest.raises(Corrupt):
            pull_model("mdv_1")
        assert not (tmp_path / "cache" / "models" / "mdv_1").exists()

    def test_an_unknown_version_is_named(self, node: Node) -> None:
        with pytest.raises(NotFound, match="mdv_9"):
            pull_model("mdv_9")


class TestSignatures:
    """What a node with a trust root serves, and what it refuses."""

    ring = MemorySigningKey()

    @pytest.fixture(autouse=True)
    def _trust(self, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "root.pem").write_bytes(self.ring.public_key())
        monkeypatch.setenv("FINMAAS_TRUST_ROOT", str(tmp_path / "root.pem"))
        node.signature = sign_version(self.ring, node.ref, self.files()).bundle

    def files(self, weights: bytes = WEIGHTS) -> list[FileEntry]:
        return [FileEntry("model.safetensors", hashlib.sha256(weights).hexdigest(), len(WEIGHTS))]

    def test_a_signed_version_is_laid_out(self, node: Node) -> None:
        check_model("mdv_1")
        assert (pull_model("mdv_1") / "model.safetensors").read_bytes() == WEIGHTS

    def test_an_unsigned_one_is_refused_before_a_byte_is_fetched(self, node: Node) -> None:
        node.signature = None
        with pytest.raises(BadSignature, match="bears no signature"):
            check_model("mdv_1")
        with pytest.raises(BadSignature):
            pull_model("mdv_1")
        assert [path for path in node.asked if "/blobs/" in path] == []

    def test_a_foreign_signature_is_refused(self, node: Node) -> None:
        node.signature = sign_version(MemorySigningKey(), node.ref, self.files()).bundle
        with pytest.raises(BadSignature, match="any trusted key"):
            pull_model("mdv_1")

    def test_a_row_that_names_other_bytes_is_refused_though_they_match_their_digest(self, node: Node) -> None:
        other = WEIGHTS[:-1] + b"X"
        node.blobs = {hashlib.sha256(other).hexdigest(): other}
        with pytest.raises(BadSignature, match=r"model\.safetensors changed"):
            pull_model("mdv_1")

    def test_a_signature_of_another_version_is_refused(self, node: Node) -> None:
        node.ref = "default/default/m@2"
        with pytest.raises(BadSignature, match="made for default/default/m@1"):
            pull_model("mdv_1")

    def test_a_byte_changed_on_the_way_is_refused(self, node: Node) -> None:
        node.blobs = dict.fromkeys(node.blobs, WEIGHTS[:-1] + b"X")
        with pytest.raises(Corrupt, match="arrived with the digest"):
            pull_model("mdv_1")

    def test_a_byte_changed_in_the_cache_is_refused(self, node: Node) -> None:
        path = pull_model("mdv_1") / "model.safetensors"
        path.write_bytes(WEIGHTS[:-1] + b"X")
        with pytest.raises(Corrupt, match="was changed on this disk"):
            pull_model("mdv_1")

    def test_the_policy_can_be_turned_off_and_on(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        node.signature = None
        monkeypatch.setenv("FINMAAS_REQUIRE_SIGNATURE", "0")
        check_model("mdv_1")
        monkeypatch.setenv("FINMAAS_REQUIRE_SIGNATURE", "yes")
        monkeypatch.delenv("FINMAAS_TRUST_ROOT")
        with pytest.raises(EnvironmentFault, match="has no trust root"):
            check_model("mdv_1")


class TestManifest:
    def test_a_list_of_files_with_another_digest_is_refused_without_a_trust_root(self, node: Node) -> None:
        node.digest = "0" * 64
        with pytest.raises(Corrupt, match="list of files"):
            check_model("mdv_1")


class TestCheckModel:
    def test_a_version_that_is_there_passes_and_fetches_nothing(self, node: Node) -> None:
        check_model("mdv_1")
        assert node.asked == ["/api/v1/node/model-versions/mdv_1"]

    def test_an_adapter_cannot_be_served_alone(self, node: Node) -> None:
        node.kind = "adapter"
        with pytest.raises(InvalidInput, match="adapter"):
            check_model("mdv_1")

    def test_a_refused_token_says_so(self, node: Node, tmp_path: Path) -> None:
        (tmp_path / "cluster.token").write_text("fmn_wrong")
        with pytest.raises(Unavailable, match="refuses this node"):
            check_model("mdv_1")

    def test_a_node_without_settings_names_what_it_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FINMAAS_CLUSTER_TOKEN_FILE", raising=False)
        monkeypatch.setenv("FINMAAS_API_URL", "http://127.0.0.1:1")
        with pytest.raises(EnvironmentFault, match="FINMAAS_CLUSTER_TOKEN_FILE"):
            check_model("mdv_1")
