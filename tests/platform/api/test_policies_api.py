"""Guardrail policies over REST and the SDK: who may set them, what is refused, how they reach gateways, proofs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finmaas_core.errors import InvalidInput
from finmaas_platform.deps import Deps
from finmaas_platform.sdk.saved_answers import read_answer
from finmaas_serving.gateway.screen import provenance_key, seal
from finmaas_serving.gateway.snapshot import read_snapshot
from finmaas_serving.guard.policy import Guard

Headers = dict[str, str]
API = "/api/v1"
ONE = f"{API}/policies/default/default"
MASK_PHONES = {"rules": [{"rule": "cn_mobile", "input": "mask"}]}


class TestPolicies:
    def test_reach_gateways_compiled_and_audited(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        assert client.get(ONE, headers=admin).status_code == 404
        strict = client.get(f"{API}/policies/presets/strict", headers=admin).json()
        made = client.put(ONE, json=strict, headers=admin)
        assert (made.status_code, made.json()["document"], made.headers["ETag"]) == (200, strict, '"1"')
        snapshot = read_snapshot(client.get(f"{API}/gateway/snapshot", headers=gateway).content)
        [guard] = snapshot.guards.values()
        assert isinstance(guard, Guard)
        assert guard.mark
        events = client.get(f"{API}/audit-events", headers=admin).json()["items"]
        assert events[0]["action"] == "policy.set"
        assert client.delete(ONE, headers=admin).status_code == 204
        assert read_snapshot(client.get(f"{API}/gateway/snapshot", headers=gateway).content).guards == {}
        assert client.delete(ONE, headers=admin).status_code == 404

    def test_the_same_document_changes_nothing(self, client: TestClient, admin: Headers, gateway: Headers) -> None:
        def number() -> int:
            return int(client.get(f"{API}/gateway/snapshot", headers=gateway).json()["number"])

        client.put(ONE, json=MASK_PHONES, headers=admin)
        before = number()
        assert client.put(ONE, json=MASK_PHONES, headers=admin).json()["version"] == 1
        assert number() == before

    def test_if_match_protects_what_another_changed(self, client: TestClient, admin: Headers) -> None:
        client.put(ONE, json=MASK_PHONES, headers=admin)
        client.put(ONE, json={}, headers=admin)
        late = client.put(ONE, json=MASK_PHONES, headers={**admin, "If-Match": '"1"'})
        assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            ({"rules": [{"rule": "nothing"}]}, "no rule 'nothing'"),
            ({"rules": [{"rule": "email", "input": "eat"}]}, "Invalid enum value 'eat'"),
            ({"rulez": []}, "unknown field `rulez`"),
            ({"custom": [{"name": "mine", "pattern": "(", "max_length": 3}]}, "rule mine"),
        ],
    )
    def test_what_cannot_be_used_is_named(
        self, client: TestClient, admin: Headers, document: Any, message: str
    ) -> None:
        answer = client.put(ONE, json=document, headers=admin)
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
        assert client.get(ONE, headers=admin).status_code == 404

    def test_only_keepers_may_set_and_other_tenants_see_nothing(
        self, client: TestClient, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        client.put(ONE, json=MASK_PHONES, headers=admin)
        developer = make_principal(role="app-developer", tenant="default")
        assert client.put(ONE, json={}, headers=developer).status_code == 403
        assert client.get(ONE, headers=developer).status_code == 200
        client.post(f"{API}/tenants", json={"name": "other"}, headers=admin)
        stranger = make_principal(role="tenant-admin", tenant="other")
        assert client.get(ONE, headers=stranger).status_code == 404
        assert client.put(ONE, json={}, headers=stranger).status_code == 404
        assert client.get(f"{API}/policies", headers=stranger).json()["items"] == []

    def test_a_trial_shows_hits_and_what_is_left(self, client: TestClient, admin: Headers) -> None:
        body = {"text": "我是王伟，手机13800138000"}
        trial = client.post(f"{API}/policies/trials", json=body, headers=admin).json()
        assert [hit["rule"] for hit in trial["hits"]] == ["cn_name", "cn_mobile"]
        assert trial["text"] == "我是[姓名]，手机[手机号]"
        blocked = {"text": "稳赚不赔", "direction": "output"}
        assert client.post(f"{API}/policies/trials", json=blocked, headers=admin).json()["text"] is None


class TestProofs:
    def answer(self, deps: Deps, text: str) -> dict[str, Any]:
        claim = {"ai_generated": True, "content": [{"index": 0, "sha256": hashlib.sha256(text.encode()).hexdigest()}]}
        provenance = {**claim, "mac": seal(provenance_key(deps.secrets.pepper.encode()), claim)}
        return {"choices": [{"index": 0, "message": {"content": text}}], "provenance": provenance}

    def verdict(self, client: TestClient, admin: Headers, answer: str) -> str:
        provenance, texts = read_answer(answer)
        content = [
            {"index": index, "sha256": hashlib.sha256(text.encode()).hexdigest()} for index, text in texts.items()
        ]
        body = {"provenance": provenance, "content": content}
        return str(client.post(f"{API}/provenance/proofs", json=body, headers=admin).json()["verdict"])

    def test_an_answer_as_it_left_is_genuine_whole_or_streamed(
        self, client: TestClient, admin: Headers, deps: Deps
    ) -> None:
        answer = self.answer(deps, "你好")
        assert self.verdict(client, admin, json.dumps(answer)) == "genuine"
        deltas = [{"choices": [{"index": 0, "delta": {"content": part}}]} for part in ("你", "好")]
        deltas[-1]["provenance"] = answer["provenance"]
        stream = "".join(f"data: {json.dumps(delta)}\n\n" for delta in deltas) + "data: [DONE]\n\n"
        assert self.verdict(client, admin, stream) == "genuine"

    def test_a_changed_text_or_claim_is_altered(self, client: TestClient, admin: Headers, deps: Deps) -> None:
        answer = self.answer(deps, "你好")
        answer["choices"][0]["message"]["content"] = "再见"
        assert self.verdict(client, admin, json.dumps(answer)) == "altered"
        answer = self.answer(deps, "你好")
        answer["provenance"]["ai_generated"] = False
        assert self.verdict(client, admin, json.dumps(answer)) == "altered"

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"choices": []}', "data: {\n\n"])
    def test_what_is_no_answer_is_named(self, text: str) -> None:
        with pytest.raises(InvalidInput):
            read_answer(text)
