"""Tenants, projects, principals, tokens, keys and grants over REST: who may do what, and who sees what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.ids import new_id
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.tenants import TenantRow
from finmaas_platform.deps import Deps
from finmaas_platform.services.tokens import hash_token

Headers = dict[str, str]
API = "/api/v1"


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def add_endpoint(deps: Deps, project: str, name: str) -> str:
    tenant, _, short = project.partition("/")
    with unit_of_work(deps.sessions) as session:
        query = select(ProjectRow).join(TenantRow, ProjectRow.tenant_id == TenantRow.id)
        owner = session.scalars(query.where(TenantRow.name == tenant, ProjectRow.name == short)).one()
        row = EndpointRow(
            id=new_id("endpoint"), tenant_id=owner.tenant_id, project_id=owner.id, name=name, model_version_id="mdv_1",
            model_ref=f"{project}/m@1", replicas=1, engine={"max_model_len": 512}, state="ready", reason="",
            ready_replicas=1, created_at=deps.clock.now(), created_by="test", stopped_at=None,
        )  # fmt: skip
        session.add(row)
    return row.id


def audit_of(client: TestClient, admin: Headers, target: str) -> list[str]:
    events = client.get(f"{API}/audit-events", params={"target": target}, headers=admin).json()["items"]
    return [event["action"] for event in reversed(events)]


class TestTenants:
    def test_are_made_shown_and_listed(self, client: TestClient, admin: Headers) -> None:
        made = client.post(f"{API}/tenants", json={"name": "retail", "display_name": "Retail"}, headers=admin)
        assert made.status_code == 201
        assert made.headers["ETag"] == '"1"'
        assert client.get(f"{API}/tenants/retail", headers=admin).json() == made.json()
        names = [tenant["name"] for tenant in client.get(f"{API}/tenants", headers=admin).json()["items"]]
        assert names == ["retail", "default"]
        assert audit_of(client, admin, made.json()["id"]) == ["tenant.create"]

    def test_a_taken_name_is_409(self, client: TestClient, admin: Headers) -> None:
        answer = client.post(f"{API}/tenants", json={"name": "default"}, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "already_exists")

    def test_only_platform_admins_make_them(self, client: TestClient, make_principal: Callable[..., Headers]) -> None:
        headers = make_principal("tenant-admin")
        assert client.post(f"{API}/tenants", json={"name": "mine"}, headers=headers).status_code == 403
        assert client.patch(f"{API}/tenants/default", json={"state": "frozen"}, headers=headers).status_code == 403

    @pytest.mark.parametrize("name", ["", "UPPER", "a/b", "-a", "a-", "a" * 65, "a b", "../x"])
    def test_a_wrong_name_is_422(self, client: TestClient, admin: Headers, name: str) -> None:
        answer = client.post(f"{API}/tenants", json={"name": name}, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_input")

    def test_if_match_guards_a_change(self, client: TestClient, admin: Headers) -> None:
        change = {"display_name": "New"}
        first = client.patch(f"{API}/tenants/default", json=change, headers=admin | {"If-Match": '"1"'})
        assert first.headers["ETag"] == '"2"'
        late = client.patch(f"{API}/tenants/default", json={"display_name": "X"}, headers=admin | {"If-Match": '"1"'})
        assert (late.status_code, late.json()["code"], late.json()["current_version"]) == (412, "version_mismatch", 2)

    def test_closed_stays_closed(self, client: TestClient, admin: Headers) -> None:
        for state, status in (("closed", 409), ("frozen", 200), ("closed", 200), ("active", 409)):
            answer = client.patch(f"{API}/tenants/default", json={"state": state}, headers=admin)
            assert answer.status_code == status, (state, answer.json())

    def test_a_frozen_one_reads_but_changes_nothing(
        self, client: TestClient, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        own = make_principal("tenant-admin")
        client.patch(f"{API}/tenants/default", json={"state": "frozen"}, headers=admin)
        assert client.get(f"{API}/projects", headers=own).status_code == 200
        answer = client.post(f"{API}/projects", json={"tenant": "default", "name": "p"}, headers=own)
        assert answer.status_code == 403
        assert "frozen" in answer.json()["detail"]

    def test_a_closed_one_cannot_log_in(self, client: TestClient, admin: Headers, engineer: Headers) -> None:
        for state in ("frozen", "closed"):
            client.patch(f"{API}/tenants/default", json={"state": state}, headers=admin)
        assert client.get(f"{API}/whoami", headers=engineer).status_code == 401


class TestTenantScope:
    """What belongs to another tenant is not found, never forbidden."""

    def test_things_of_others_are_not_found(self, client: TestClient, admin: Headers, stranger: Headers) -> None:
        key = client.post(f"{API}/api-keys", json={"project": "default/default", "name": "k"}, headers=admin).json()
        principal = client.get(f"{API}/principals", headers=admin).json()["items"][-1]
        asked = {
            "tenant": client.get(f"{API}/tenants/default", headers=stranger),
            "project": client.get(f"{API}/projects/default/default", headers=stranger),
            "principal": client.get(f"{API}/principals/{principal['id']}", headers=stranger),
            "key": client.post(f"{API}/api-keys/{key['id']}/revoke", headers=stranger),
            "new project": client.post(f"{API}/projects", json={"tenant": "default", "name": "x"}, headers=stranger),
            "new key": client.post(
                f"{API}/api-keys", json={"project": "default/default", "name": "x"}, headers=stranger
            ),
            "new principal": client.post(
                f"{API}/principals", json={"name": "x", "role": "annotator", "tenant": "default"}, headers=stranger
            ),
        }
        assert {what: answer.status_code for what, answer in asked.items()} == dict.fromkeys(asked, 404)

    @pytest.mark.parametrize(
        "path", ["tenants", "projects", "principals", "access-tokens", "api-keys", "grants", "audit-events", "usage"]
    )
    def test_lists_show_the_own_tenant_only(
        self, client: TestClient, admin: Headers, stranger: Headers, engineer: Headers, path: str
    ) -> None:
        client.post(f"{API}/api-keys", json={"project": "default/default", "name": "k"}, headers=admin)
        own = client.get(f"{API}/tenants", headers=stranger).json()["items"][0]
        text = client.get(f"{API}/{path}", headers=stranger).text
        foreign = client.get(f"{API}/tenants/default", headers=admin).json()["id"]
        assert foreign not in text
        assert "default-" not in text
        assert own["name"] == "other"

    def test_a_platform_auditor_sees_all_and_changes_nothing(
        self, client: TestClient, make_principal: Callable[..., Headers]
    ) -> None:
        auditor = make_principal("auditor", tenant=None)
        assert client.get(f"{API}/projects/default/default", headers=auditor).status_code == 200
        assert client.post(f"{API}/tenants", json={"name": "x"}, headers=auditor).status_code == 403


class TestPrincipals:
    @pytest.mark.parametrize(
        ("creator", "body", "status"),
        [
            ("tenant-admin", {"role": "ml-engineer", "tenant": "default"}, 201),
            ("tenant-admin", {"role": "tenant-admin", "tenant": "default"}, 201),
            ("tenant-admin", {"role": "platform-admin", "tenant": None}, 403),
            ("tenant-admin", {"role": "platform-admin", "tenant": "default"}, 403),
            ("tenant-admin", {"role": "auditor", "tenant": None}, 403),
            ("ml-engineer", {"role": "annotator", "tenant": "default"}, 403),
            ("platform-admin", {"role": "platform-admin", "tenant": None}, 201),
            ("platform-admin", {"role": "platform-admin", "tenant": "default"}, 422),
            ("platform-admin", {"role": "ml-engineer", "tenant": None}, 422),
            ("platform-admin", {"role": "boss", "tenant": None}, 422),
        ],
    )
    def test_nobody_gives_a_role_above_their_own(
        self,
        client: TestClient,
        make_principal: Callable[..., Headers],
        creator: str,
        body: dict[str, Any],
        status: int,
    ) -> None:
        headers = make_principal(creator, tenant=None if creator == "platform-admin" else "default")
        answer = client.post(f"{API}/principals", json={"name": "new", **body}, headers=headers)
        assert answer.status_code == status, answer.json()

    def test_nobody_raises_a_principal_above_their_own(
        self, client: TestClient, make_principal: Callable[..., Headers], engineer: Headers
    ) -> None:
        boss = make_principal("tenant-admin")
        me = client.get(f"{API}/whoami", headers=engineer).json()["id"]
        change = {"role": "platform-admin"}
        assert client.patch(f"{API}/principals/{me}", json=change, headers=boss).status_code == 403
        assert client.patch(f"{API}/principals/{me}", json=change, headers=engineer).status_code == 403

    def test_a_tenant_admin_does_not_touch_platform_admins(
        self, client: TestClient, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        boss = make_principal("tenant-admin")
        top = client.get(f"{API}/whoami", headers=admin).json()["id"]
        assert client.patch(f"{API}/principals/{top}", json={"disabled": True}, headers=boss).status_code == 404

    def test_a_disabled_one_is_locked_out(self, client: TestClient, admin: Headers, engineer: Headers) -> None:
        me = client.get(f"{API}/whoami", headers=engineer).json()["id"]
        client.patch(f"{API}/principals/{me}", json={"disabled": True}, headers=admin)
        assert client.get(f"{API}/whoami", headers=engineer).status_code == 401
        assert audit_of(client, admin, me) == ["principal.update"]

    def test_the_last_platform_admin_stays(self, client: TestClient, admin: Headers) -> None:
        me = client.get(f"{API}/whoami", headers=admin).json()["id"]
        answer = client.patch(f"{API}/principals/{me}", json={"disabled": True}, headers=admin)
        assert answer.status_code == 409
        assert client.get(f"{API}/whoami", headers=admin).status_code == 200


class TestAccessTokens:
    def test_works_until_it_expires(
        self, client: TestClient, admin: Headers, engineer: Headers, clock: FakeClock
    ) -> None:
        me = client.get(f"{API}/whoami", headers=engineer).json()["id"]
        made = client.post(
            f"{API}/access-tokens", json={"principal_id": me, "expires_in_s": 60}, headers=engineer
        ).json()
        assert made["token"].startswith("fma_")
        assert client.get(f"{API}/whoami", headers=bearer(made["token"])).json()["id"] == me
        clock.advance(61)
        assert client.get(f"{API}/whoami", headers=bearer(made["token"])).status_code == 401

    def test_works_until_it_is_revoked(self, client: TestClient, admin: Headers, engineer: Headers) -> None:
        me = client.get(f"{API}/whoami", headers=engineer).json()["id"]
        made = client.post(f"{API}/access-tokens", json={"principal_id": me}, headers=admin).json()
        revoked = client.post(f"{API}/access-tokens/{made['id']}/revoke", headers=engineer).json()
        assert revoked["revoked_at"]
        assert client.get(f"{API}/whoami", headers=bearer(made["token"])).status_code == 401
        assert audit_of(client, admin, made["id"]) == ["access_token.create", "access_token.revoke"]

    def test_is_never_listed_with_its_text(self, client: TestClient, admin: Headers) -> None:
        me = client.get(f"{API}/whoami", headers=admin).json()["id"]
        token = client.post(f"{API}/access-tokens", json={"principal_id": me}, headers=admin).json()["token"]
        assert token not in client.get(f"{API}/access-tokens", headers=admin).text
        assert token not in client.get(f"{API}/audit-events", headers=admin).text

    def test_is_for_oneself_or_by_an_admin(
        self, client: TestClient, engineer: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        boss = make_principal("tenant-admin")
        other = client.get(f"{API}/whoami", headers=boss).json()["id"]
        body = {"principal_id": other}
        assert client.post(f"{API}/access-tokens", json=body, headers=engineer).status_code == 404

    @pytest.mark.parametrize(
        "token", ["", "fma_", "fma_wrong", "fmn_wrong", "fmg_wrong", "fmj_wrong", "fmk_x", "x" * 9999]
    )
    def test_wrong_ones_are_401(self, client: TestClient, token: str) -> None:
        answer = client.get(f"{API}/whoami", headers=bearer(token))
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "application/problem+json"

    @pytest.mark.parametrize("kind", ["node", "gateway"])
    def test_machine_tokens_open_no_principal_route(
        self, client: TestClient, request: pytest.FixtureRequest, kind: str
    ) -> None:
        assert client.get(f"{API}/tenants", headers=request.getfixturevalue(kind)).status_code == 403


class TestApiKeys:
    def test_is_stored_as_hmac_only(self, client: TestClient, admin: Headers, gateway: Headers, deps: Deps) -> None:
        made = client.post(f"{API}/api-keys", json={"project": "default/default", "name": "app"}, headers=admin).json()
        assert made["key"].startswith("fmk_")
        snapshot = client.get(f"{API}/gateway/snapshot", headers=gateway).json()
        assert snapshot["keys"][0]["hash"] == hash_token(deps.secrets.pepper, made["key"])
        assert made["key"] not in client.get(f"{API}/api-keys", headers=admin).text
        assert audit_of(client, admin, made["id"]) == ["api_key.create"]

    @pytest.mark.parametrize("models", [[], [""], ["a/b"], ["A"], ["a/b/c/d"]])
    def test_a_scope_that_names_nothing_is_422(self, client: TestClient, admin: Headers, models: list[str]) -> None:
        body = {"project": "default/default", "name": "k", "models": models}
        assert client.post(f"{API}/api-keys", json=body, headers=admin).status_code == 422

    @pytest.mark.parametrize("expires_at", ["2020-01-01T00:00:00Z", "2030-01-01T00:00:00", "soon"])
    def test_an_expiry_that_cannot_be_is_422(self, client: TestClient, admin: Headers, expires_at: str) -> None:
        body = {"project": "default/default", "name": "k", "expires_at": expires_at}
        assert client.post(f"{API}/api-keys", json=body, headers=admin).status_code == 422

    @pytest.mark.parametrize(("role", "status"), [("app-developer", 201), ("ml-engineer", 403), ("auditor", 403)])
    def test_roles(self, client: TestClient, make_principal: Callable[..., Headers], role: str, status: int) -> None:
        body = {"project": "default/default", "name": "k"}
        assert client.post(f"{API}/api-keys", json=body, headers=make_principal(role)).status_code == status


class TestGrants:
    @pytest.fixture
    def endpoint(self, deps: Deps) -> str:
        return add_endpoint(deps, "default/default", "faq")

    @pytest.fixture
    def taker(self, client: TestClient, admin: Headers) -> str:
        client.post(f"{API}/projects", json={"tenant": "default", "name": "app"}, headers=admin)
        return "default/app"

    def test_is_given_and_taken_back(
        self, client: TestClient, admin: Headers, gateway: Headers, endpoint: str, taker: str
    ) -> None:
        body = {"endpoint": "default/default/faq", "project": taker}
        made = client.post(f"{API}/grants", json=body, headers=admin).json()
        (grant,) = client.get(f"{API}/gateway/snapshot", headers=gateway).json()["grants"]
        assert grant["endpoint_id"] == endpoint
        assert client.post(f"{API}/grants", json=body, headers=admin).status_code == 409
        client.post(f"{API}/grants/{made['id']}/revoke", headers=admin)
        assert client.get(f"{API}/gateway/snapshot", headers=gateway).json()["grants"] == []
        assert client.post(f"{API}/grants", json=body, headers=admin).status_code == 201

    @pytest.mark.usefixtures("endpoint", "taker")
    @pytest.mark.parametrize(
        ("endpoint_ref", "project", "status"),
        [
            ("default/default/none", "default/app", 404),
            ("faq", "default/app", 422),
            ("default/default/faq", "default/none", 404),
            ("default/default/faq", "default/default", 422),
        ],
    )
    def test_what_cannot_be_granted(
        self, client: TestClient, admin: Headers, endpoint_ref: str, project: str, status: int
    ) -> None:
        body = {"endpoint": endpoint_ref, "project": project}
        assert client.post(f"{API}/grants", json=body, headers=admin).status_code == status

    @pytest.mark.usefixtures("endpoint")
    def test_crosses_tenants_by_a_platform_admin_only(
        self, client: TestClient, admin: Headers, stranger: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        body = {"endpoint": "default/default/faq", "project": "other/default"}
        assert client.post(f"{API}/grants", json=body, headers=make_principal("tenant-admin")).status_code == 404
        assert client.post(f"{API}/grants", json=body, headers=stranger).status_code == 404
        made = client.post(f"{API}/grants", json=body, headers=admin).json()
        assert [grant["id"] for grant in client.get(f"{API}/grants", headers=stranger).json()["items"]] == [made["id"]]
        assert client.post(f"{API}/grants/{made['id']}/revoke", headers=stranger).status_code == 404
