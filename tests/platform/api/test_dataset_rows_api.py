"""Release, diff, trace and deletion requests, over imports that are real."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobRow, VersionBlobRow
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps

Headers = dict[str, str]
URL = "/api/v1/datasets/default/default/intents/versions"


def rows(*numbers: int, label: str = "a") -> str:
    lines = "".join(f"what about thing number {n},{label},c{n}\n" for n in numbers)
    return "text,label,who\n" + lines


@dataclass
class Site:
    client: TestClient
    deps: Deps
    engineer: Headers
    approver: Headers

    def send(self, content: str, **params: str) -> dict[str, Any]:
        given = {"filename": "rows.csv", "splits": "0.6,0.2,0.2", "id_column": "who", **params}
        answer = self.client.post(URL, params=given, content=content, headers=self.engineer)
        assert answer.status_code in (200, 201), answer.text
        found: dict[str, Any] = answer.json()
        return found

    def call(self, method: str, path: str, body: Any = None, headers: Headers | None = None) -> Any:
        return self.client.request(method, f"/api/v1{path}", json=body, headers=headers or self.engineer)

    def texts(self, version: int) -> list[str]:
        found: list[str] = []
        for split in ("train", "validation", "test"):
            answer = self.client.get(f"{URL}/{version}/rows?split={split}&limit=500", headers=self.engineer).json()
            found += [row["text"] for row in answer["items"]]
        return sorted(found)

    def learn(self, version_id: str) -> None:
        """A model of the version, one built on it, and an endpoint that serves the latter."""
        now = self.deps.clock.now()
        with unit_of_work(self.deps.sessions) as session:
            project = session.scalars(select(ProjectRow)).one()
            owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "test"}
            model = ModelRow(id="mdl_1", name="m", latest_version=3, **owner)
            session.add(model)
            for number, dataset, base in ((1, version_id, None), (2, None, "mdv_1"), (3, None, None)):
                session.add(
                    ModelVersionRow(
                        id=f"mdv_{number}", model=model, number=number, kind="full", description="", files=[],
                        size_bytes=1, digest="e" * 64, metrics={}, dataset_version_id=dataset, base_version_id=base,
                        **owner,
                    )
                )  # fmt: skip
                session.flush()
            session.add(
                EndpointRow(
                    id="ep_1", name="live", model_version_id="mdv_2", model_ref="default/default/m@2", replicas=1,
                    engine={}, state="ready", reason="", **owner,
                )
            )  # fmt: skip


@pytest.fixture
def site(client: TestClient, deps: Deps, engineer: Headers, make_principal: Callable[..., Headers]) -> Site:
    return Site(client, deps, engineer, make_principal("approver"))


class TestRelease:
    def test_a_clean_version_is_released_once(self, site: Site) -> None:
        assert site.send(rows(*range(40)), shape="classification")["state"] == "draft"
        report = site.call("GET", "/datasets/default/default/intents/versions/1/report").json()["report"]
        accept = [] if not any(part["rows"] for part in report["leakage"].values()) else ["leakage"]
        first = site.call("POST", "/datasets/default/default/intents/versions/1/release", {"accept": accept})
        again = site.call("POST", "/datasets/default/default/intents/versions/1/release", {"accept": []})
        assert (first.status_code, first.json()["state"]) == (200, "released"), first.text
        assert again.json() == first.json()

    def test_what_the_report_holds_against_it_is_named(self, site: Site, clock: FakeClock) -> None:
        gone = (clock.now().date() - timedelta(days=1)).isoformat()
        lines = "".join(f"mail me at u{n}@example.com,a,c{n},{gone}\n" for n in range(20))
        site.send("text,label,who,until\n" + lines, retain_until="until")
        path = "/datasets/default/default/intents/versions/1/release"
        refused = site.call("POST", path, {"accept": ["leakage"]})
        assert refused.status_code == 409
        assert "personal data or secrets in text (20 rows)" in refused.json()["detail"]
        assert "20 rows whose last day has passed" in refused.json()["detail"]
        assert site.call("POST", path, {"accept": ["leakage", "privacy", "expired"]}).status_code == 200

    def test_is_for_those_who_may(self, site: Site, make_principal: Callable[..., Headers], stranger: Headers) -> None:
        site.send(rows(*range(40)))
        path = "/datasets/default/default/intents/versions/1/release"
        assert site.call("POST", path, {}, make_principal("app-developer")).status_code == 403
        assert site.call("POST", path, {}, stranger).status_code == 404


class TestDiff:
    def test_counts_and_shows_rows(self, site: Site) -> None:
        site.send(rows(*range(30)))
        changed = rows(*range(2, 31)).replace("number 7,a", "number 7,b")
        site.send(changed)
        found = site.call("GET", "/datasets/default/default/intents/versions/1/diff?to=intents@2").json()
        assert found["counts"] == {"added": 1, "removed": 2, "changed": 1, "moved": 0, "same": 27}
        assert found["by"] == "id"
        assert [row["who"] for row in found["added"]] == ["c30"]
        assert sorted(row["who"] for row in found["removed"]) == ["c0", "c1"]
        assert [(one["before"]["label"], one["after"]["label"]) for one in found["changed"]] == [("a", "b")]
        assert found["schema"] == {"added": [], "removed": [], "changed": []}

    def test_strangers_see_nothing(self, site: Site, stranger: Headers) -> None:
        site.send(rows(*range(30)))
        path = "/datasets/default/default/intents/versions/1/diff?to=intents@1"
        assert site.call("GET", path, headers=stranger).status_code == 404


class TestTrace:
    def test_leads_from_a_row_to_endpoints(self, site: Site) -> None:
        first = site.send(rows(*range(30)))
        site.send(rows(*range(10, 40)))
        site.learn(first["id"])
        by_id = site.call("POST", "/dataset-rows/trace", {"row_id": "c3"}).json()
        by_text = site.call("POST", "/dataset-rows/trace", {"text": "What about THING number 3"}).json()
        assert by_id == by_text
        assert [(one["ref"], one["is_latest"]) for one in by_id["versions"]] == [("default/default/intents@1", False)]
        assert [(one["ref"][-3:], one["because"]) for one in by_id["models"]] == [
            ("m@1", "trained on it"),
            ("m@2", "built on such a model"),
        ]
        assert [one["name"] for one in by_id["endpoints"]] == ["default/default/live"]
        both = site.call("POST", "/dataset-rows/trace", {"row_id": "c15"}).json()["versions"]
        assert len(both) == 2

    def test_a_row_that_nobody_has(self, site: Site, stranger: Headers) -> None:
        site.send(rows(*range(30)))
        nothing = {"versions": [], "jobs": [], "models": [], "endpoints": []}
        assert site.call("POST", "/dataset-rows/trace", {"row_id": "c99"}).json() == nothing
        assert site.call("POST", "/dataset-rows/trace", {"row_id": "c1"}, stranger).json() == nothing

    def test_a_row_is_named_one_way(self, site: Site) -> None:
        assert site.call("POST", "/dataset-rows/trace", {}).status_code == 422
        assert site.call("POST", "/dataset-rows/trace", {"row_id": "a", "text": "b"}).status_code == 422


class TestForget:
    def ask(self, site: Site, row: str = "c3") -> dict[str, Any]:
        answer = site.call("POST", "/deletion-requests", {"row_id": row, "reason": "consent withdrawn"})
        assert answer.status_code == 201, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def test_makes_a_version_without_the_row(self, site: Site) -> None:
        first = site.send(rows(*range(30)))
        site.learn(first["id"])
        made = self.ask(site)
        assert (made["state"], made["made"][0]["ref"]) == ("open", "default/default/intents@2")
        assert made["retrain"] == ["default/default/m@1", "default/default/m@2"]
        assert "what about" not in str(made)
        before, after = site.texts(1), site.texts(2)
        assert [text for text in before if text not in after] == ["what about thing number 3"]
        assert len(after) == 29
        found = site.call("GET", "/datasets/default/default/intents/versions/1/diff?to=intents@2").json()
        assert found["counts"] == {"added": 0, "removed": 1, "changed": 0, "moved": 0, "same": 29}
        assert found["schema"] == {"added": [], "removed": [], "changed": []}
        assert site.call("GET", "/datasets/default/default/intents/versions/2/report").json()["report"]["id"] == "who"

    def test_asked_again_makes_no_further_version(self, site: Site) -> None:
        site.send(rows(*range(30)))
        self.ask(site)
        assert self.ask(site)["made"] == []

    def test_even_where_an_older_version_was_without_it(self, site: Site) -> None:
        site.send(rows(*(n for n in range(30) if n != 3)))
        site.send(rows(*range(30)))
        assert self.ask(site)["made"][0]["ref"] == "default/default/intents@3"

    def test_the_row_does_not_come_back(self, site: Site) -> None:
        site.send(rows(*range(30)))
        made = self.ask(site)
        given = {"filename": "rows.csv", "id_column": "who"}
        answer = site.client.post(URL, params=given, content=rows(*range(3, 50)), headers=site.engineer)
        assert (answer.status_code, answer.json()["request"]) == (422, made["id"])

    def test_purge_leaves_no_draft_that_may_hold_the_row(self, site: Site) -> None:
        site.send(rows(*range(30)))
        for repo in ("default.intents", "default.elsewhere"):
            body = json.dumps({"key": "header", "value": {"summary": "x"}}).encode() + b"\n"
            made = {"name": repo, "organization": "default", "type": "dataset"}
            if repo != "default.intents":
                site.client.post("/api/repos/create", json=made, headers=site.engineer)
            card = {"path": "README.md", "content": "eA==", "encoding": "base64"}
            body += json.dumps({"key": "file", "value": card}).encode()
            sent = site.client.post(f"/api/datasets/default/{repo}/commit/main", content=body, headers=site.engineer)
            assert sent.status_code == 200, sent.text
        url = "/api/datasets/default/default.intents/tree/draft/data"
        assert site.client.get(url, headers=site.engineer).status_code == 200
        request = self.ask(site)
        path = f"/deletion-requests/{request['id']}"
        site.call("POST", f"{path}/approve", headers=site.approver)
        assert site.call("POST", f"{path}/purge").json()["state"] == "purged"
        assert site.client.get(url, headers=site.engineer).status_code == 404
        left = site.call("GET", "/drafts").json()["items"]
        assert [draft["name"] for draft in left] == ["elsewhere"]
        with read_unit(site.deps.sessions) as session:
            actions = session.scalars(select(AuditEventRow.action)).all()
        assert actions.count("draft.void") == 1

    def test_purge_needs_somebody_elses_approval(self, site: Site, make_principal: Callable[..., Headers]) -> None:
        first = site.send(rows(*range(30)))
        made = self.ask(site)
        path = f"/deletion-requests/{made['id']}"
        assert site.call("POST", f"{path}/purge").status_code == 409
        assert site.call("POST", f"{path}/approve").status_code == 403
        approved = site.call("POST", f"{path}/approve", headers=site.approver)
        assert approved.json()["state"] == "approved", approved.text
        purged = site.call("POST", f"{path}/purge").json()
        assert purged["state"] == "purged"
        assert site.call("POST", f"{path}/purge").json() == purged
        version = site.client.get(f"{URL}/1", headers=site.engineer).json()
        assert (version["state"], version["files"]) == ("purged", [])
        assert site.client.get(f"{URL}/1/rows", headers=site.engineer).status_code == 409
        assert site.call("POST", "/dataset-rows/trace", {"row_id": "c3"}).json()["versions"] == []
        with read_unit(site.deps.sessions) as session:
            mine = select(VersionBlobRow).where(VersionBlobRow.version_id == first["id"])
            assert session.scalars(mine).all() == []
            held = set(session.scalars(select(BlobRow.digest)))
            kept = {file["sha256"] for row in session.scalars(select(DatasetVersionRow)).unique() for file in row.files}
            assert kept <= held
            old = {file["sha256"] for file in first["files"]}
            assert not (old - kept) & held
            actions = session.scalars(select(AuditEventRow.action).order_by(AuditEventRow.id)).all()
        assert sorted(action for action in actions if "deletion" in action or "purge" in action) == [
            "dataset_version.purge",
            "deletion_request.approve",
            "deletion_request.create",
            "deletion_request.forget",
            "deletion_request.purge",
        ]

    def test_who_asks_cannot_approve_in_another_role(self, site: Site, make_principal: Callable[..., Headers]) -> None:
        boss = make_principal("tenant-admin")
        site.send(rows(*range(30)))
        body = {"row_id": "c3", "reason": "consent withdrawn"}
        made = site.call("POST", "/deletion-requests", body, boss).json()
        assert site.call("POST", f"/deletion-requests/{made['id']}/approve", headers=boss).status_code == 403

    def test_a_row_that_nobody_has(self, site: Site, stranger: Headers) -> None:
        site.send(rows(*range(30)))
        body = {"row_id": "c99", "reason": "consent withdrawn"}
        assert site.call("POST", "/deletion-requests", body).status_code == 404
        assert site.call("POST", "/deletion-requests", {**body, "row_id": "c3"}, stranger).status_code in (403, 404)

    def test_requests_are_the_tenants_own(self, site: Site, stranger: Headers) -> None:
        site.send(rows(*range(30)))
        made = self.ask(site)
        assert site.call("GET", "/deletion-requests").json()["items"] == [made]
        assert site.call("GET", f"/deletion-requests/{made['id']}").json() == made
        assert site.call("GET", "/deletion-requests", headers=stranger).json()["items"] == []
        assert site.call("GET", f"/deletion-requests/{made['id']}", headers=stranger).status_code == 404
