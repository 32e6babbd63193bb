"""Approval signs; what was changed since, anywhere, is told."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finmaas_core.errors import BadSignature, Corrupt
from finmaas_core.settings import Settings
from finmaas_platform.db.approvals import ModelSignatureRow
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.models import ModelVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.sdk.client import Client
from finmaas_registry.keys import MemorySigningKey
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
URL = "/api/v1/models/default/default/tiny"
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + bytes(8)
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": WEIGHTS}


@pytest.fixture
def sdk(client: TestClient, engineer: Headers) -> Client:
    token = engineer["Authorization"].removeprefix("Bearer ")
    return Client(url="http://testserver", token=token, http=client)


def put(client: TestClient, headers: Headers, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Puts the blobs and returns the `files` of a version."""
    entries = []
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        client.put(f"/api/v1/blobs/{digest}", content=content, headers=headers)
        entries.append({"path": path, "sha256": digest, "size": len(content)})
    return entries


@pytest.fixture
def approved(client: TestClient, engineer: Headers, make_principal: Callable[..., Headers]) -> dict[str, Any]:
    """`tiny@1`, approved."""
    client.post(f"{URL}/versions", json={"files": put(client, engineer, FILES)}, headers=engineer)
    assert client.post(f"{URL}/versions/1/validate", json={}, headers=engineer).status_code == 200
    answer = client.post(f"{URL}/versions/1/approve", json={}, headers=make_principal("approver"))
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def verify(client: TestClient, headers: Headers) -> Any:
    return client.get(f"{URL}/versions/1/verification", headers=headers).json()


@pytest.mark.usefixtures("approved")
class TestVerification:
    def test_holds_after_the_approval(self, client: TestClient, engineer: Headers, node: Headers) -> None:
        found = verify(client, engineer)
        assert (found["passed"], found["signature"], found["trust_root"], found["faults"]) == (True, "valid", "own", [])
        bundle = client.get(f"{URL}/versions/1/signature", headers=engineer)
        assert bundle.headers["content-type"].startswith("application/vnd.dev.sigstore.bundle")
        version_id = client.get(f"{URL}/versions/1", headers=engineer).json()["id"]
        assert client.get(f"/api/v1/node/model-versions/{version_id}", headers=node).json()["signature"] == bundle.text

    def test_a_byte_changed_in_the_store_is_told(
        self, client: TestClient, engineer: Headers, store: MemoryStore
    ) -> None:
        digest = hashlib.sha256(WEIGHTS).hexdigest()
        store._blobs[digest] = WEIGHTS[:-1] + b"X"
        found = verify(client, engineer)
        assert (found["passed"], len(found["faults"])) == (False, 1)
        assert "model.safetensors holds other bytes" in found["faults"][0]

    def test_a_byte_changed_in_the_row_is_told_though_its_digest_was_changed_too(
        self, client: TestClient, engineer: Headers, deps: Deps, store: MemoryStore, approved: dict[str, Any]
    ) -> None:
        other = store.put([b"[]"])
        files = [f if f["path"] != "config.json" else f | {"sha256": other.digest} for f in approved["files"]]
        with unit_of_work(deps.sessions) as session:
            session.get_one(ModelVersionRow, approved["id"]).files = files
        found = verify(client, engineer)
        assert (found["passed"], found["signature"], len(found["faults"])) == (False, "invalid", 2)
        assert "config.json changed" in found["faults"][1]

    def test_a_changed_signature_is_told(
        self, client: TestClient, engineer: Headers, deps: Deps, approved: dict[str, Any]
    ) -> None:
        with unit_of_work(deps.sessions) as session:
            row = session.get_one(ModelSignatureRow, approved["id"])
            bundle = json.loads(row.bundle)
            sig = bundle["dsseEnvelope"]["signatures"][0]["sig"]
            bundle["dsseEnvelope"]["signatures"][0]["sig"] = sig[:20] + ("A" if sig[20] != "A" else "B") + sig[21:]
            row.bundle = json.dumps(bundle)
        assert verify(client, engineer)["signature"] == "invalid"

    def test_another_trust_root_does_not_know_the_key(
        self, client: TestClient, engineer: Headers, deps: Deps, tmp_path: Path
    ) -> None:
        (tmp_path / "root.pem").write_bytes(MemorySigningKey().public_key())
        object.__setattr__(deps, "settings", deps.settings.model_copy(update={"trust_root": tmp_path / "root.pem"}))
        found = verify(client, engineer)
        assert (found["passed"], found["trust_root"]) == (False, "configured")
        assert "any trusted key" in found["faults"][0]

    def test_another_tenant_finds_nothing(self, client: TestClient, stranger: Headers) -> None:
        for path in ("signature", "verification"):
            assert client.get(f"{URL}/versions/1/{path}", headers=stranger).status_code == 404


class TestApproval:
    def test_does_not_sign_a_list_of_files_that_was_changed(
        self, client: TestClient, engineer: Headers, deps: Deps, make_principal: Callable[..., Headers]
    ) -> None:
        (entry,) = put(client, engineer, {"config.json": b"{}"})
        others = put(client, engineer, FILES)
        made = client.post(f"{URL}/versions", json={"files": others}, headers=engineer).json()
        client.post(f"{URL}/versions/1/validate", json={}, headers=engineer)
        with unit_of_work(deps.sessions) as session:
            session.get_one(ModelVersionRow, made["id"]).files = [entry]
        answer = client.post(f"{URL}/versions/1/approve", json={}, headers=make_principal("approver"))
        assert (answer.status_code, answer.json()["code"]) == (422, "corrupt")


class TestPull:
    def test_brings_the_signature_and_checks_it(
        self, sdk: Client, approved: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "root.pem").write_text(sdk.models.trust.public_key())
        monkeypatch.setenv("FINMAAS_TRUST_ROOT", str(tmp_path / "root.pem"))
        version = sdk.models.download("tiny@1", tmp_path / "pulled")
        assert sdk.models.trust.check_folder(version, tmp_path / "pulled")
        assert "dsseEnvelope" in (tmp_path / "pulled" / "model.sig").read_text()
        (tmp_path / "pulled" / "config.json").write_text("[]")
        with pytest.raises(BadSignature, match=r"config\.json is not what"):
            sdk.models.trust.check_folder(version, tmp_path / "pulled")

    def test_refuses_a_row_that_was_changed_and_bytes_changed_on_the_way(
        self,
        sdk: Client,
        approved: dict[str, Any],
        deps: Deps,
        store: MemoryStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "root.pem").write_text(sdk.models.trust.public_key())
        monkeypatch.setenv("FINMAAS_TRUST_ROOT", str(tmp_path / "root.pem"))
        store._blobs[hashlib.sha256(WEIGHTS).hexdigest()] = WEIGHTS[:-1] + b"X"
        with pytest.raises(Corrupt, match="other bytes than its digest"):
            sdk.models.download("tiny@1", tmp_path / "pulled")
        with unit_of_work(deps.sessions) as session:
            session.get_one(ModelVersionRow, approved["id"]).files = approved["files"][:2]
        with pytest.raises(BadSignature, match=r"model\.safetensors changed|tokenizer\.json changed"):
            sdk.models.download("tiny@1", tmp_path / "other")
        assert not (tmp_path / "other").exists()

    def test_refuses_an_unsigned_one_where_a_trust_root_is_set(
        self, sdk: Client, approved: dict[str, Any], deps: Deps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "root.pem").write_text(sdk.models.trust.public_key())
        with unit_of_work(deps.sessions) as session:
            session.delete(session.get_one(ModelSignatureRow, approved["id"]))
        sdk.models.download("tiny@1", tmp_path / "free")
        monkeypatch.setenv("FINMAAS_TRUST_ROOT", str(tmp_path / "root.pem"))
        with pytest.raises(BadSignature, match="bears no signature"):
            sdk.models.download("tiny@1", tmp_path / "pulled")


class TestSettings:
    def test_a_trust_root_asks_for_signatures_unless_it_was_decided_otherwise(self, tmp_path: Path) -> None:
        assert not Settings(home=tmp_path).requires_signature
        assert Settings(home=tmp_path, trust_root=tmp_path / "r.pem").requires_signature
        assert not Settings(home=tmp_path, trust_root=tmp_path / "r.pem", require_signature=False).requires_signature
