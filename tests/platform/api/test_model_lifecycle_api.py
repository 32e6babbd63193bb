"""The life of model versions over REST: moves, four eyes, rules, aliases, and what each refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.models import ModelRow, ModelVersionRow
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.deps import Deps
from finmaas_registry.manifest import FileEntry, make_manifest

Headers = dict[str, str]
MODEL = "/models/default/default/m"
FILES = make_manifest([FileEntry("model.safetensors", "0" * 64, 1)])
SCORES = {"exact_match": 0.9}

both = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgres", marks=pytest.mark.integration)], indirect=True
)


@dataclass
class Site:
    """The API with `m@1` to `m@3` of the engineer, and an approver."""

    client: TestClient
    deps: Deps
    engineer: Headers
    approver: Headers

    def call(self, method: str, path: str, who: Headers | None = None, body: Any = None, **headers: str) -> Any:
        sent = {**(who or self.engineer), **{name.replace("_", "-"): value for name, value in headers.items()}}
        return self.client.request(method, f"/api/v1{path}", json=body, headers=sent)

    def move(self, verb: str, who: Headers | None = None, version: str = "1", **headers: str) -> Any:
        return self.call("POST", f"{MODEL}/versions/{version}/{verb}", who, {"note": "why"}, **headers)

    def approve_fully(self, version: str = "1") -> None:
        assert self.move("validate", version=version).status_code == 200
        assert self.move("approve", self.approver, version).status_code == 200

    def alias(self, name: str, version: str, **headers: str) -> Any:
        return self.call("PUT", f"{MODEL}/aliases/{name}", None, {"version": version}, **headers)

    def set_rules(self, *rules: dict[str, Any]) -> None:
        answer = self.call("PUT", "/approval-rules/default/default", self.approver, {"rules": list(rules)})
        assert answer.status_code == 200, answer.text


@pytest.fixture
def site(client: TestClient, deps: Deps, engineer: Headers, make_principal: Callable[..., Headers]) -> Site:
    now = deps.clock.now()
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        author = session.scalars(select(PrincipalRow.id)).one()
        owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "test"}
        model = ModelRow(id="mdl_1", name="m", latest_version=3, **owner)
        session.add(model)
        for number in (1, 2, 3):
            entry = {"job_id": "job_1", "dataset": "intents@1", "split": "test", "scores": SCORES}
            session.add(
                ModelVersionRow(
                    id=f"mdv_{number}", model=model, number=number, kind="full", description="",
                    files=[file.as_json() for file in FILES.files], size_bytes=1,
                    digest=FILES.digest, metrics={"evaluations": [entry]}, author_id=author, **owner,
                )
            )  # fmt: skip
    return Site(client, deps, engineer, make_principal("approver"))


class TestMoves:
    @both
    def test_from_candidate_to_retired_with_history_and_audit(self, site: Site, admin: Headers) -> None:
        assert site.call("GET", f"{MODEL}/versions/1").json()["state"] == "candidate"
        site.approve_fully()
        assert site.move("retire").json()["state"] == "retired"
        history = site.call("GET", f"{MODEL}/history?version=1").json()["items"]
        assert [(event["before"], event["after"]) for event in history] == [
            ("approved", "retired"),
            ("validated", "approved"),
            ("candidate", "validated"),
        ]
        audit = site.call("GET", "/audit-events?target=mdv_1", admin).json()["items"]
        moves = ["model_version.retire", "model_version.approve", "model_version.validate"]
        assert [event["action"] for event in audit] == moves
        assert [event["caller_name"] for event in audit][1] == "default-approver"

    def test_a_validated_one_can_be_sent_back(self, site: Site) -> None:
        site.move("validate")
        assert site.move("reject").status_code == 403
        assert site.move("reject", site.approver).json()["state"] == "candidate"

    def test_a_stale_if_match_changes_nothing(self, site: Site) -> None:
        assert site.move("validate", If_Match='"7"').status_code == 412
        assert site.move("validate", If_Match='"1"').headers["ETag"] == '"2"'
        assert site.move("approve", site.approver, If_Match='"1"').status_code == 412
        assert site.call("GET", f"{MODEL}/versions/1").json()["state"] == "validated"

    def test_a_repeated_key_moves_once(self, site: Site) -> None:
        first = site.move("validate", Idempotency_Key="k")
        again = site.move("validate", Idempotency_Key="k")
        assert (again.status_code, again.json()) == (200, first.json())
        assert (again.headers["ETag"], again.headers["Idempotency-Replayed"]) == ('"2"', "true")
        assert len(site.call("GET", f"{MODEL}/history").json()["items"]) == 1

    def test_another_tenant_finds_nothing(self, site: Site, stranger: Headers) -> None:
        for verb in ("validate", "approve", "reject", "retire"):
            assert site.move(verb, stranger).status_code == 404
        for path in ("history", "aliases", "versions/1/verdict"):
            assert site.call("GET", f"{MODEL}/{path}", stranger).status_code == 404
        assert site.call("PUT", f"{MODEL}/aliases/canary", stranger, {"version": "1"}).status_code == 404
        assert site.call("GET", "/approval-rules/default/default", stranger).status_code == 404

    @both
    def test_of_two_approvers_at_once_one_wins(self, site: Site, make_principal: Callable[..., Headers]) -> None:
        site.move("validate")
        approvers = [site.approver, make_principal("approver", name="second")]
        gate, codes = threading.Barrier(2), []

        def approve(who: Headers) -> None:
            gate.wait()
            codes.append(site.move("approve", who).status_code)

        threads = [threading.Thread(target=approve, args=(who,)) for who in approvers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sorted(codes) == [200, 409]
        events = site.call("GET", f"{MODEL}/history").json()["items"]
        assert [event["action"] for event in events] == ["approve", "validate"]


class TestFourEyes:
    def test_the_author_cannot_approve(self, site: Site, deps: Deps) -> None:
        with unit_of_work(deps.sessions) as session:
            session.scalars(select(PrincipalRow).where(PrincipalRow.role == "ml-engineer")).one().role = "tenant-admin"
        site.move("validate")
        answer = site.move("approve")
        assert answer.status_code == 403
        assert "is its author" in answer.json()["detail"]

    def test_nor_a_principal_that_the_author_made(self, site: Site, deps: Deps) -> None:
        with unit_of_work(deps.sessions) as session:
            session.scalars(select(PrincipalRow).where(PrincipalRow.role == "ml-engineer")).one().role = "tenant-admin"
        body = {"name": "puppet", "role": "approver", "tenant": "default"}
        made = site.call("POST", "/principals", None, body).json()
        token = site.call("POST", "/access-tokens", None, {"principal_id": made["id"]}).json()["token"]
        puppet = {"Authorization": f"Bearer {token}"}
        site.move("validate")
        assert "made the principal puppet" in site.move("approve", puppet).json()["detail"]

    def test_nor_a_principal_whose_login_the_author_linked(self, site: Site, deps: Deps, admin: Headers) -> None:
        """It may be the author's own login, so one person would be two pairs of eyes."""
        with unit_of_work(deps.sessions) as session:
            rows = session.scalars(select(PrincipalRow)).all()
            next(row for row in rows if row.role == "ml-engineer").role = "tenant-admin"
            approver_id = next(row.id for row in rows if row.role == "approver")
        body = {"issuer": "https://idp.example.com", "subject": "the-author"}
        assert site.call("PATCH", f"/principals/{approver_id}", None, body).status_code == 200
        site.move("validate")
        assert "linked its login" in site.move("approve", site.approver).json()["detail"]
        site.call("PATCH", f"/principals/{approver_id}", None, {"subject": ""})
        assert site.move("approve", site.approver).status_code == 403

    def test_nor_with_a_token_that_the_author_may_hold(self, site: Site, deps: Deps) -> None:
        """The approver is somebody else's, but the author made a token of theirs; one made with it is no better."""
        with unit_of_work(deps.sessions) as session:
            rows = session.scalars(select(PrincipalRow)).all()
            next(row for row in rows if row.role == "ml-engineer").role = "tenant-admin"
            approver_id = next(row.id for row in rows if row.role == "approver")
        token = site.call("POST", "/access-tokens", None, {"principal_id": approver_id}).json()["token"]
        borrowed = {"Authorization": f"Bearer {token}"}
        site.move("validate")
        assert "may hold it" in site.move("approve", borrowed).json()["detail"]
        again = site.call("POST", "/access-tokens", borrowed, {"principal_id": approver_id}).json()["token"]
        assert site.move("approve", {"Authorization": f"Bearer {again}"}).status_code == 403
        assert site.move("approve", site.approver).status_code == 200

    def test_nor_a_service_account(self, site: Site, deps: Deps) -> None:
        site.move("validate")
        with unit_of_work(deps.sessions) as session:
            session.scalars(select(PrincipalRow).where(PrincipalRow.role == "approver")).one().kind = "service"
        assert "service account" in site.move("approve", site.approver).json()["detail"]

    def test_nor_anybody_where_the_author_is_not_known(self, site: Site, deps: Deps) -> None:
        with unit_of_work(deps.sessions) as session:
            session.get_one(ModelVersionRow, "mdv_1").author_id = None
        site.move("validate")
        assert "not known" in site.move("approve", site.approver).json()["detail"]


class TestRules:
    def test_hold_or_say_why_not(self, site: Site) -> None:
        site.set_rules({"kind": "metric", "metric": "exact_match", "at_least": 0.95})
        answer = site.move("validate")
        assert answer.status_code == 409
        assert "exact_match is 0.9, below 0.95" in answer.json()["detail"]
        assert answer.json()["rules"][0]["passed"] is False
        site.set_rules({"kind": "metric", "metric": "exact_match", "at_least": 0.85})
        site.approve_fully()
        event = site.call("GET", f"{MODEL}/history?version=1").json()["items"][0]
        assert event["outcomes"][0]["why"] == "exact_match is 0.9 (job_1)"

    def test_are_asked_again_at_the_approval(self, site: Site) -> None:
        site.move("validate")
        site.set_rules({"kind": "oidc_login"})
        assert "finmaas login" in site.move("approve", site.approver).json()["detail"]

    def test_can_be_tried(self, site: Site) -> None:
        tried = site.call("POST", f"{MODEL}/versions/1/verdict", None, {"rules": [{"kind": "no_privacy_finding"}]})
        assert (tried.json()["passed"], tried.json()["outcomes"][0]["why_zh"][:2]) == (False, "非本")
        verdict = site.call("GET", f"{MODEL}/versions/1/verdict").json()
        assert (verdict["passed"], verdict["outcomes"]) == (True, [])
        assert "is its author" in verdict["approver_fault"]

    def test_are_set_by_those_who_keep_them(self, site: Site) -> None:
        assert site.call("PUT", "/approval-rules/default/default", None, {}).status_code == 403
        present = site.call("GET", "/approval-rules/default/default").json()
        assert (present["version"], present["document"]["protected_aliases"]) == (0, ["production"])
        path = "/approval-rules/default/default"
        assert site.call("PUT", path, site.approver, {"rules": []}, If_Match='"0"').json()["version"] == 1
        assert site.call("PUT", path, site.approver, {"rules": []}, If_Match='"0"').status_code == 412


class TestAliases:
    def test_move_at_once_and_keep_their_history(self, site: Site) -> None:
        assert site.alias("canary", "1").json()["points_at"] == "default/default/m@1"
        assert site.alias("canary", "2", If_Match='"1"').json()["version"] == 2
        assert site.alias("canary", "3", If_Match='"1"').status_code == 412
        assert site.alias("canary", "3", If_Match='"0"').status_code == 412
        assert site.call("GET", f"{MODEL}/versions/canary").json()["version"] == 2
        moves = site.call("GET", f"{MODEL}/history?alias=canary").json()["items"]
        refs = ["default/default/m@1", "default/default/m@2"]
        assert [(event["before"], event["after"]) for event in moves] == [(refs[0], refs[1]), (None, refs[0])]
        assert site.call("GET", "/models").json()["items"][0]["aliases"] == {"canary": 2}
        assert site.call("DELETE", f"{MODEL}/aliases/canary").status_code == 204
        gone = site.call("GET", f"{MODEL}/versions/canary")
        assert (gone.status_code, "it has none" in gone.json()["detail"]) == (404, True)

    def test_a_protected_one_takes_approved_versions_only(self, site: Site) -> None:
        refused = site.alias("production", "1")
        assert (refused.status_code, "protected alias" in refused.json()["detail"]) == (409, True)
        site.approve_fully()
        assert site.alias("production", "1").status_code == 200
        assert site.call("DELETE", f"{MODEL}/aliases/production").status_code == 403

    def test_a_retired_version_bears_none_and_one_that_bears_one_is_not_retired(self, site: Site) -> None:
        site.alias("canary", "1")
        refused = site.move("retire")
        assert (refused.status_code, refused.json()["used"]) == (409, ["the alias canary"])
        site.alias("canary", "2")
        assert site.move("retire").status_code == 200
        assert "is retired" in site.alias("canary", "1").json()["detail"]

    @pytest.mark.parametrize("name", ["7", "latest", "UP"])
    def test_a_name_that_is_none_is_refused(self, site: Site, name: str) -> None:
        assert site.alias(name, "1").status_code == 422


class TestServing:
    def deploy(self, site: Site, model: str, name: str = "one", **values: Any) -> Any:
        body = {"project": "default/default", "name": name, "model": model, **values}
        return site.call("POST", "/endpoints", None, body)

    def test_candidates_serve_but_not_production(self, site: Site) -> None:
        assert self.deploy(site, "m@1").status_code == 201
        refused = self.deploy(site, "m@1", "two", production=True)
        assert (refused.status_code, "approved versions only" in refused.json()["detail"]) == (409, True)
        path = "/endpoints/default/default/one"
        assert site.call("PATCH", path, None, {"production": True}).status_code == 409
        site.approve_fully()
        assert site.call("PATCH", path, None, {"production": True}).json()["production"] is True
        assert site.call("PATCH", path, None, {"model": "m@2"}).status_code == 409

    def test_by_alias(self, site: Site) -> None:
        site.alias("canary", "2")
        assert self.deploy(site, "m@canary").json()["model_version"]["id"] == "mdv_2"
        assert "has no alias nope" in self.deploy(site, "m@nope", "two").json()["detail"]

    def test_a_retired_version_is_refused_and_a_served_one_is_not_retired(self, site: Site) -> None:
        self.deploy(site, "m@1")
        assert site.move("retire").json()["used"] == ["the endpoint default/default/one"]
        site.call("DELETE", "/endpoints/default/default/one")
        site.move("retire")
        refused = self.deploy(site, "m@1")
        assert (refused.status_code, "is retired" in refused.json()["detail"]) == (409, True)
