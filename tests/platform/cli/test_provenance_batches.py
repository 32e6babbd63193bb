"""From a delivered claim to a proof that can be checked without the platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.provenance import ProvenanceBatchRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.provenance import Batch, BatchProof, check_proof, claim_digest
from finmaas_platform.reconcile.provenance import ProvenanceSealer
from finmaas_platform.services.provenance import read_signing_key, seal_claims, show_batch
from finmaas_serving.gateway.screen import provenance_key, seal

Headers = dict[str, str]
API = "/api/v1"
TEXT_DIGEST = "ab" * 32


def make_claim(deps: Deps, number: int) -> dict[str, Any]:
    claim = {
        "ai_generated": True, "at": "2026-01-01T00:00:00+00:00", "content": [{"index": 0, "sha256": TEXT_DIGEST}],
        "generator": "finmaas", "model": "a/b/c", "model_version": "a/b/m@1", "request_id": f"req_{number}",
    }  # fmt: skip
    return {**claim, "mac": seal(provenance_key(deps.secrets.pepper.encode()), claim)}


def deliver(client: TestClient, gateway: Headers, deps: Deps, claims: list[dict[str, Any]]) -> None:
    with deps.sessions() as session:
        project = session.scalars(select(ProjectRow).limit(1)).one()
    records = [
        {
            "seq": seq, "request_id": claim["request_id"], "at": "2026-01-01T00:00:00Z", "key_id": "key_1",
            "project_id": project.id, "tenant_id": project.tenant_id, "endpoint_id": "ep_1", "model_version_id": None,
            "path": "/v1/chat/completions", "status": 200, "stream": False, "prompt_tokens": 1, "completion_tokens": 1,
            "cached_tokens": 0, "ttft_ms": 1.0, "duration_ms": 1.0, "replica": None, "finish": "complete",
            "counted_by": "engine", "claims": [claim_digest(claim)],
        }
        for seq, claim in enumerate(claims, 1)
    ]  # fmt: skip
    answer = client.post(f"{API}/gateway/usage", json={"gateway_id": "gw", "records": records}, headers=gateway)
    assert answer.status_code == 200, answer.text


def prove(client: TestClient, admin: Headers, claim: dict[str, Any]) -> dict[str, Any]:
    body = {"provenance": claim, "content": [{"index": 0, "sha256": TEXT_DIGEST}]}
    proof: dict[str, Any] = client.post(f"{API}/provenance/proofs", json=body, headers=admin).json()
    return proof


def read_proof(shown: dict[str, Any]) -> BatchProof:
    proof = shown["proof"]
    return BatchProof(Batch(**proof["batch"]), proof["signature"], proof["place"], tuple(proof["path"]))


@pytest.fixture
def sealer(deps: Deps) -> ProvenanceSealer:
    sealer = ProvenanceSealer(deps)
    sealer.prepare()
    return sealer


class TestBatches:
    def test_a_claim_is_proven_once_its_batch_is_sealed(
        self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps, sealer: ProvenanceSealer
    ) -> None:
        claims = [make_claim(deps, number) for number in range(5)]
        deliver(client, gateway, deps, claims)
        before = prove(client, admin, claims[3])
        assert (before["verdict"], before["proof"]) == ("genuine", None)
        sealer.run_once()
        key = load_pem_public_key(client.get(f"{API}/provenance/key", headers=admin).json()["public_key"].encode())
        for claim in claims:
            check_proof(claim, read_proof(prove(client, admin, claim)), key)  # type: ignore[arg-type]

    def test_a_repeated_delivery_seals_nothing_twice_and_batches_are_chained(
        self, client: TestClient, gateway: Headers, deps: Deps, sealer: ProvenanceSealer
    ) -> None:
        claims = [make_claim(deps, number) for number in range(4)]
        deliver(client, gateway, deps, claims[:2])
        sealer.run_once()
        deliver(client, gateway, deps, claims[:2])
        sealer.run_once()
        deliver(client, gateway, deps, claims)
        sealer.run_once()
        with deps.sessions() as session:
            first, second = session.scalars(select(ProvenanceBatchRow).order_by(ProvenanceBatchRow.number))
        assert (first.count, second.count) == (2, 2)
        assert second.previous == show_batch(first).digest

    def test_a_sealer_that_dies_before_its_commit_leaves_nothing(
        self, client: TestClient, gateway: Headers, deps: Deps, sealer: ProvenanceSealer
    ) -> None:
        deliver(client, gateway, deps, [make_claim(deps, 1)])
        key = read_signing_key(deps.settings.paths)

        def die() -> None:
            with unit_of_work(deps.sessions) as session:
                assert seal_claims(session, key, deps.clock.now()) == 1
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            die()
        sealer.run_once()
        with deps.sessions() as session:
            assert session.scalar(select(func.count()).select_from(ProvenanceBatchRow)) == 1


class TestCommands:
    def test_a_saved_proof_is_checked_without_the_platform(
        self,
        client: TestClient,
        gateway: Headers,
        deps: Deps,
        sealer: ProvenanceSealer,
        finmaas: Callable[..., Any],
        tmp_path: Path,
    ) -> None:
        import hashlib

        claim = make_claim(deps, 1)
        claim["content"] = [{"index": 0, "sha256": hashlib.sha256(b"hello").hexdigest()}]
        del claim["mac"]
        claim["mac"] = seal(provenance_key(deps.secrets.pepper.encode()), claim)
        answer, proof, key = tmp_path / "answer.json", tmp_path / "proof.json", tmp_path / "key.pem"
        answer.write_text(json.dumps({"provenance": claim, "choices": [{"index": 0, "message": {"content": "hello"}}]}))
        deliver(client, gateway, deps, [claim])
        assert "not sealed yet" in finmaas("policy", "verify", str(answer), "--save", str(proof)).err
        sealer.run_once()
        assert finmaas("policy", "verify", str(answer), "--save", str(proof)).code == 0
        key.write_text(finmaas("policy", "provenance-key").out)
        checked = finmaas("policy", "check-proof", str(proof), "--key", str(key))
        assert (checked.code, "genuine: in batch 1" in checked.err) == (0, True)
        proof.write_text(proof.read_text().replace("a/b/m@1", "a/b/m@2"))
        assert finmaas("policy", "check-proof", str(proof), "--key", str(key)).code == 3
        key.write_text("nonsense")
        assert "cannot be read" in finmaas("policy", "check-proof", str(proof), "--key", str(key)).err
