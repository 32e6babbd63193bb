"""The commands against the real application."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

Run = Callable[..., Any]


class TestAdministration:
    def test_tenants_and_projects(self, finmaas: Run) -> None:
        made = finmaas("tenant", "create", "retail", "--display-name", "零售银行")
        assert made.code == 0
        assert "零售银行" in made.out
        assert finmaas("project", "create", "retail/service").code == 0
        table = finmaas("tenant", "list").out
        assert re.search(r"retail +零售银行 +active", table)
        assert [p["name"] for p in finmaas("project", "list", "--tenant", "retail", "--json").json] == [
            "default",
            "service",
        ][-1:]
        assert finmaas("tenant", "freeze", "retail", "--json").json["state"] == "frozen"
        assert finmaas("tenant", "activate", "retail", "--json").json["state"] == "active"
        assert finmaas("tenant", "show", "retail", "--json").json["display_name"] == "零售银行"
        assert finmaas("project", "show", "retail/service", "--json").json["tenant"] == "retail"

    def test_principals_and_tokens(self, finmaas: Run) -> None:
        made = finmaas("principal", "create", "li.wei", "--role", "ml-engineer", "--tenant", "default", "--json").json
        assert finmaas("principal", "role", "li.wei", "auditor", "--json").json["role"] == "auditor"
        assert finmaas("principal", "disable", "li.wei", "--json").json["disabled"] is True
        assert finmaas("principal", "enable", made["id"], "--json").json["disabled"] is False
        assert "li.wei" in finmaas("principal", "list").out
        token = finmaas("token", "create", "li.wei", "--days", "3")
        assert re.fullmatch(r"fma_\S{43}\n", token.out)
        assert "shown this once" in token.err
        listed = finmaas("token", "list", "--json").json
        assert all(item["token"] is None for item in listed)
        revoked = finmaas("token", "revoke", listed[0]["id"], "--json").json
        assert revoked["revoked_at"] is not None

    def test_keys_and_grants(self, finmaas: Run) -> None:
        made = finmaas("key", "create", "app", "--model", "intents", "--model", "faq")
        assert re.fullmatch(r"fmk_\S{43}\n", made.out)
        assert "base_url=http://127.0.0.1:9/v1" in made.err
        listed = finmaas("key", "list", "--json").json
        assert listed[0]["models"] == ["intents", "faq"]
        assert finmaas("key", "revoke", listed[0]["id"]).code == 0
        assert "revoked" in finmaas("key", "list").out
        assert finmaas("grant", "list", "--json").json == []

    def test_audit_usage_whoami(self, finmaas: Run) -> None:
        finmaas("tenant", "create", "retail")
        assert "tenant.create" in finmaas("audit", "list").out
        assert finmaas("audit", "list", "--action", "tenant.create", "--json").json[0]["action"] == "tenant.create"
        assert finmaas("usage", "summary", "--json").json == []
        assert finmaas("usage", "list", "--json").json == []
        assert "finmaas chat" in finmaas("usage", "summary").err
        assert finmaas("whoami", "--json").json["role"] == "platform-admin"
        assert "platform-admin" in finmaas("whoami").out


class TestWork:
    @pytest.fixture(autouse=True)
    def _inputs(self, finmaas: Run, rows_file: Path, model_folder: Path) -> None:
        assert finmaas("dataset", "import", str(rows_file), "--name", "rows").code == 0
        assert finmaas("model", "import", str(model_folder), "--name", "tiny").code == 0

    def test_datasets(self, finmaas: Run, rows_file: Path) -> None:
        again = finmaas("dataset", "import", str(rows_file), "--name", "rows", "--json").json
        assert (again["version"], again["rows"]) == (1, 120)
        assert "@1" in finmaas("dataset", "list").out
        assert "default/default/rows@1" in finmaas("dataset", "show", "rows").out
        assert len(finmaas("dataset", "versions", "rows", "--json").json) == 1
        assert len(finmaas("dataset", "rows", "rows@1", "-n", "5", "--json").json) == 5
        assert "转账" in finmaas("dataset", "rows", "rows", "-n", "50").out

    def test_models(self, finmaas: Run, model_folder: Path) -> None:
        assert finmaas("model", "import", str(model_folder), "--name", "tiny", "--json").json["version"] == 1
        assert "tiny" in finmaas("model", "list").out
        assert "3 files" in finmaas("model", "show", "tiny@1").out
        assert finmaas("model", "versions", "tiny", "--json").json[0]["kind"] == "full"

    def test_jobs(self, finmaas: Run) -> None:
        assert finmaas("train", "tiny", "rows", "-o", "out", "--check").err == "The spec can work.\n"
        job = finmaas("train", "tiny", "rows@1", "-o", "out", "--set", "zero_stage=3", "--no-wait", "--json").json
        assert (job["kind"], job["spec"]["zero_stage"], job["state"]) == ("training", 3, "queued")
        assert finmaas("job", "list", "--state", "queued", "--json").json[0]["id"] == job["id"]
        assert "out" in finmaas("job", "list").out
        assert "spec.zero_stage" in finmaas("job", "show", job["id"]).out
        assert finmaas("job", "metrics", job["id"], "--json").json == []
        assert finmaas("job", "attempts", job["id"], "--json").json == []
        assert finmaas("job", "logs", job["id"], "--json").json == {"lines": []}
        assert finmaas("job", "cancel", job["id"], "--json").json["state"] == "cancelled"
        watched = finmaas("job", "watch", job["id"])
        assert watched.code == 1
        assert "cancelled" in watched.out
        evaluation = finmaas("evaluate", "tiny", "rows", "--no-wait", "--json").json
        assert (evaluation["kind"], evaluation["spec"]["split"]) == ("evaluation", "test")

    def test_a_spec_file_gives_way_to_options(self, finmaas: Run, tmp_path: Path) -> None:
        spec = tmp_path / "spec.toml"
        spec.write_text("epochs = 9\nseed = 4\n")
        job = finmaas(
            "train", "tiny", "rows", "-o", "out", "--spec", str(spec), "--epochs", "2", "--no-wait", "--json"
        ).json
        assert (job["spec"]["epochs"], job["spec"]["seed"]) == (2, 4)

    def test_endpoints(self, finmaas: Run) -> None:
        made = finmaas("deploy", "tiny", "--name", "ep", "--max-model-len", "256", "--no-wait", "--json").json
        assert (made["state"], made["engine"]) == ("pending", {"max_model_len": 256})
        assert "pending" in finmaas("endpoint", "list").out
        assert "http://127.0.0.1:9/v1" in finmaas("endpoint", "show", "ep").out
        assert finmaas("endpoint", "update", "ep", "--replicas", "2", "--no-wait", "--json").json["replicas"] == 2
        assert finmaas("grant", "create", "default/default/ep", "--to", "default/default").code in (0, 1)
        assert finmaas("undeploy", "ep", "--json").json == {"deleted": "ep"}
        assert finmaas("endpoint", "delete", "ep").code == 1

    def test_chat_says_when_no_gateway_answers(self, finmaas: Run) -> None:
        finmaas("deploy", "tiny", "--name", "ep", "--no-wait")
        asked = finmaas("chat", "ep", "hello")
        assert asked.code == 1
        assert "no gateway answers" in asked.err
        assert finmaas("chat", "ep", input="").code == 2


class TestErrors:
    def test_nothing_installed(self, run: Run) -> None:
        result = run("tenant", "list")
        assert result.code == 1
        assert "finmaas up" in result.err
        assert result.out == ""

    def test_an_error_as_json(self, finmaas: Run) -> None:
        result = finmaas("model", "show", "nope", "--json")
        assert result.code == 1
        assert json.loads(result.err)["error"]["code"] == "not_found"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("nope",),
            ("train", "a", "b"),
            ("project", "show", "noslash"),
            ("dataset", "import", "/no/such/file.csv", "--name", "x"),
            ("principal", "create", "x", "--role", "king"),
            ("endpoint", "update", "ep"),
            ("train", "a", "b", "-o", "c", "--set", "nosign"),
        ],
    )
    def test_wrong_usage_is_2(self, finmaas: Run, arguments: tuple[str, ...]) -> None:
        assert finmaas(*arguments).code == 2

    def test_a_defect_is_told_without_a_traceback(self, finmaas: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise ZeroDivisionError("oops")

        monkeypatch.setattr("finmaas_platform.cli.whoami.connect", broken)
        result = finmaas("whoami")
        assert result.code == 1
        assert "ZeroDivisionError: oops" in result.err
        assert "FINMAAS_DEBUG=1" in result.err


class TestGateways:
    def test_list_and_top(self, finmaas: Run, client: TestClient, gateway: dict[str, str]) -> None:
        assert "No gateway has reported" in finmaas("gateway", "list").err
        line = {"endpoint": "default/default/chat", "project": "default/default", "by_status": {"200": 3}}
        report = {
            "started_at": 1.0, "snapshot": 4, "snapshot_age_s": 0.1, "replicas": 1, "running": 2, "connections": 5,
            "usage_waiting": 7, "draining": False, "refused": {}, "lines": [line],
        }  # fmt: skip
        client.post("/api/v1/gateway/reports", json={"gateway_id": "gw-1", "report": report}, headers=gateway)
        assert re.search(r"gw-1 +ready +4", finmaas("gateway", "list").out)
        shown = finmaas("gateway", "top", "--once", "--every", "0.5")
        assert re.search(r"default/default/chat +default +default +0\.0 +0 +– +– +0\.0 +3 +–", shown.out)
        finmaas("allowance", "set", "project", "default/default", "tokens", "day", "1000")
        told = finmaas("gateway", "top", "--every", "0.5", "--json").json["rates"][0]
        assert (told["requests"], told["left"]["left"], told["left"]["unit"]) == (3, 1000, "tokens")
        assert "100% tokens/day" in finmaas("gateway", "top", "--once", "--every", "0.5").out


class TestAllowances:
    def test_of_one_person(self, finmaas: Run) -> None:
        ann = finmaas("principal", "create", "ann", "--role", "app-developer", "--tenant", "default", "--json").json[
            "id"
        ]
        made = finmaas("allowance", "set", "person", ann, "requests", "day", "5", "--json").json
        assert (made["scope"], made["subject"], made["subject_id"], made["limit"]) == ("person", "person ann", ann, 5)
        assert re.search(r"person ann +requests +day +5 +0 +0 +5", finmaas("allowance", "list").out)


class TestBatches:
    def test_listed_shown_and_cancelled(self, finmaas: Run) -> None:
        assert finmaas("batch", "list", "--json").json == []
        assert "No batch yet" in finmaas("batch", "list").err + finmaas("batch", "list").out
        for command in ("show", "cancel"):
            refused = finmaas("batch", command, "batch_none")
            assert refused.code != 0
            assert "finmaas batch list" in refused.err
