"""Logging in with an identity provider: a real small one over HTTP, real RSA keys, the real flows."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi.testclient import TestClient
from oidc_provider import CLIENT, OidcProvider
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.errors import EnvironmentFault, NotAuthenticated, Unavailable
from finmaas_core.home import Home
from finmaas_core.identity import looks_like_jwt
from finmaas_core.settings import Settings
from finmaas_platform.app import create_app
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.principals import PrincipalRow
from finmaas_platform.deps import Deps
from finmaas_platform.oidc import OidcVerifier, check_address
from finmaas_platform.sdk import login as flows

Headers = dict[str, str]


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as provider:
        yield provider


@pytest.fixture
def verifier(provider: OidcProvider) -> OidcVerifier:
    return OidcVerifier(provider.issuer, CLIENT, "finmaas-api")


def now() -> datetime:
    return datetime.now(UTC)


class TestVerifier:
    def test_takes_a_token_of_the_issuer_and_keeps_its_keys(
        self, provider: OidcProvider, verifier: OidcVerifier
    ) -> None:
        found = verifier.verify(provider.token(preferred_username="li.wei"), now())
        assert (found.issuer, found.subject, found.name) == (provider.issuer, "sub-1", "li.wei")
        assert verifier.verify(provider.token(aud=["other", "finmaas-api"], azp=CLIENT), now()).name == "sub-1"
        assert provider.asked.count("/jwks_uri") == 1

    @pytest.mark.parametrize(
        "claims",
        [
            {"iss": "http://127.0.0.1:1"},
            {"aud": "another"},
            {"aud": None},
            {"sub": None},
            {"sub": ""},
            {"exp": None},
            {"exp": 1},
            {"exp": "soon"},
            {"iat": 9_999_999_999},
            {"nbf": 9_999_999_999},
            {"azp": "another"},
        ],
    )
    def test_refuses_claims_that_are_not_ours(
        self, provider: OidcProvider, verifier: OidcVerifier, claims: dict[str, Any]
    ) -> None:
        with pytest.raises(NotAuthenticated):
            verifier.verify(provider.token(**claims), now())

    def test_refuses_forged_tokens(self, provider: OidcProvider, verifier: OidcVerifier) -> None:
        verifier.verify(provider.token(), now())
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        head, body, signature = provider.token().split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        changed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "admin"}).encode()).decode().rstrip("=")
        none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').decode().rstrip("=")
        forged = [
            provider.token(key=other),
            provider.token(key="shared-secret-of-thirty-two-bytes!", algorithm="HS256"),
            f"{head}.{changed}.{signature}",
            f"{none}.{body}.",
            "ey.ey.ey",
            "ey" + "a" * 20_000 + ".b.c",
        ]
        for token in forged:
            assert looks_like_jwt(token)
            with pytest.raises(NotAuthenticated):
                verifier.verify(token, now())

    def test_time_is_our_own_clocks(self, provider: OidcProvider, verifier: OidcVerifier) -> None:
        token = provider.token()
        verifier.verify(token, now() + timedelta(seconds=provider.lifetime_s))
        with pytest.raises(NotAuthenticated, match="has expired"):
            verifier.verify(token, now() + timedelta(seconds=provider.lifetime_s + 31))

    def test_a_new_key_is_fetched_and_kept_ones_outlive_an_absence(
        self, provider: OidcProvider, verifier: OidcVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verifier.verify(provider.token(), now())
        provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        monkeypatch.setattr("finmaas_platform.oidc.FETCH_AGAIN_S", 0.0)
        verifier.verify(provider.token("k2"), now())
        provider.away = True
        monkeypatch.setattr("finmaas_platform.oidc.KEYS_LIVE_S", 0.0)
        verifier.verify(provider.token(), now())

    def test_keys_that_nobody_has_do_not_press_a_provider_that_is_away(
        self, provider: OidcProvider, verifier: OidcVerifier
    ) -> None:
        verifier.verify(provider.token(), now())
        provider.away = True
        verifier._fetched_at = verifier._tried_at = float("-inf")  # the keys are due
        asked = len(provider.asked)
        for number in range(20):
            with pytest.raises(NotAuthenticated, match="no key"):
                verifier.verify(provider.token(f"none-{number}", key=provider.keys["k1"]), now())
            verifier.publish(f"none-{number}")
        assert len(provider.asked) - asked == 1
        verifier.verify(provider.token(), now())

    def test_while_the_provider_hangs_nobody_else_waits(self, provider: OidcProvider, verifier: OidcVerifier) -> None:
        verifier.verify(provider.token(), now())
        held = verifier.publish()
        verifier._fetched_at = verifier._tried_at = float("-inf")
        provider.hang()
        first = threading.Thread(target=verifier.publish, args=("none",))
        first.start()
        try:
            assert provider.hanging.wait(10)
            verifier.verify(provider.token(), now())
            assert verifier.publish("none") == held
            with pytest.raises(Unavailable, match="being asked") as caught:
                verifier.verify(provider.token("none", key=provider.keys["k1"]), now())
            assert caught.value.details["retry_after_s"] == 1
            assert first.is_alive()  # all of that while the first one waits
        finally:
            provider.release()
            first.join()

    def test_a_provider_that_is_away_or_somebody_else_is_said(
        self, provider: OidcProvider, verifier: OidcVerifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider.away = True
        with pytest.raises(Unavailable, match="nobody can log in"):
            verifier.verify(provider.token(), now())
        provider.away = False
        with pytest.raises(Unavailable, match="nobody can log in"):  # not asked again for each token
            verifier.verify(provider.token(), now())
        monkeypatch.setattr("finmaas_platform.oidc.FETCH_AGAIN_S", 0.0)
        verifier.verify(provider.token(), now())
        other = OidcVerifier(f"{provider.issuer}/", CLIENT)
        with pytest.raises(Unavailable, match="calls itself"):
            other.verify(provider.token(), now())
        with pytest.raises(EnvironmentFault, match="in the clear"):
            check_address("http://login.bank.example/x")


@pytest.fixture
def site(
    settings: Settings, deps: Deps, provider: OidcProvider, verifier: OidcVerifier, clock: FakeClock
) -> Iterator[TestClient]:
    """The API with this provider. The clock is set to now: tokens carry real times."""
    clock.advance((datetime.now(UTC) - clock.now()).total_seconds())
    object.__setattr__(deps, "oidc", verifier)
    object.__setattr__(deps, "settings", settings.model_copy(update={"oidc_issuer": provider.issuer}))
    with TestClient(create_app(deps.settings, deps), raise_server_exceptions=False) as client:
        yield client


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


class TestBearer:
    def link(self, site: TestClient, admin: Headers, name: str, subject: str) -> Any:
        rows = site.get("/api/v1/principals", headers=admin).json()["items"]
        found = next(row for row in rows if row["name"] == name)
        return site.patch(f"/api/v1/principals/{found['id']}", json={"subject": subject}, headers=admin)

    def test_a_linked_person_is_their_principal(
        self, site: TestClient, provider: OidcProvider, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        make_principal("approver", name="bob")
        unknown = site.get("/api/v1/whoami", headers=bearer(provider.token()))
        assert (unknown.status_code, "finmaas principal link" in unknown.json()["detail"]) == (401, True)
        linked = self.link(site, admin, "bob", "sub-1").json()
        assert (linked["issuer"], linked["subject"]) == (provider.issuer, "sub-1")
        me = site.get("/api/v1/whoami", headers=bearer(provider.token())).json()
        assert (me["name"], me["role"], me["tenant"]) == ("bob", "approver", "default")
        assert site.get("/api/v1/whoami", headers=bearer(provider.token(sub="sub-2"))).status_code == 401
        site.patch(f"/api/v1/principals/{linked['id']}", json={"disabled": True}, headers=admin)
        assert site.get("/api/v1/whoami", headers=bearer(provider.token())).status_code == 401

    def test_one_person_is_one_principal_and_no_service(
        self, site: TestClient, deps: Deps, admin: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        make_principal("approver", name="bob")
        make_principal("ml-engineer", name="ann")
        make_principal("ml-engineer", name="bot")
        with unit_of_work(deps.sessions) as session:
            session.scalars(select(PrincipalRow).where(PrincipalRow.name == "bot")).one().kind = "service"
        assert self.link(site, admin, "bob", "sub-1").status_code == 200
        assert self.link(site, admin, "ann", "sub-1").status_code == 409
        assert self.link(site, admin, "bot", "sub-3").status_code == 422
        assert self.link(site, admin, "bob", "").json()["subject"] is None
        assert self.link(site, admin, "ann", "sub-1").status_code == 200

    def test_tells_how_to_log_in(self, site: TestClient, client: TestClient, provider: OidcProvider) -> None:
        assert site.get("/api/v1/login").json() == {"issuer": provider.issuer, "client_id": CLIENT}

    def test_without_a_provider_a_jwt_is_a_wrong_token(self, client: TestClient, provider: OidcProvider) -> None:
        assert client.get("/api/v1/login").status_code == 404
        assert client.get("/api/v1/whoami", headers=bearer(provider.token())).status_code == 401


class TestGateways:
    """What the control plane tells gateways, so that they can let people in by themselves."""

    def ask(self, site: TestClient, gateway: Headers, path: str, **params: Any) -> Any:
        return site.get(f"/api/v1/gateway/{path}", params=params, headers=gateway)

    def test_the_provider_s_keys_and_a_new_one_on_request(
        self,
        site: TestClient,
        gateway: Headers,
        admin: Headers,
        provider: OidcProvider,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert self.ask(site, admin, "identity-provider").status_code == 403
        told = self.ask(site, gateway, "identity-provider").json()
        assert (told["issuer"], told["client_id"], told["audiences"]) == (
            provider.issuer,
            CLIENT,
            ["finmaas", "finmaas-api"],
        )
        assert [key["kid"] for key in told["jwks"]["keys"]] == ["k1"]
        provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        monkeypatch.setattr("finmaas_platform.oidc.FETCH_AGAIN_S", 0.0)
        kept = self.ask(site, gateway, "identity-provider").json()
        fresh = self.ask(site, gateway, "identity-provider", missing="k2").json()
        assert [len(each["jwks"]["keys"]) for each in (kept, fresh)] == [1, 2]

    def test_an_absent_provider_is_503(self, site: TestClient, gateway: Headers, provider: OidcProvider) -> None:
        provider.away = True
        assert self.ask(site, gateway, "identity-provider").status_code == 503

    def test_no_provider_is_404(self, client: TestClient, gateway: Headers) -> None:
        assert self.ask(client, gateway, "identity-provider").status_code == 404

    def test_the_snapshot_says_who_is_whom_and_changes_with_them(
        self,
        site: TestClient,
        gateway: Headers,
        admin: Headers,
        provider: OidcProvider,
        make_principal: Callable[..., Headers],
    ) -> None:
        make_principal("app-developer", name="bob")
        before = self.ask(site, gateway, "snapshot").json()
        assert (before["people"], before["projects"]) == ([], [])
        linked = TestBearer().link(site, admin, "bob", "sub-1").json()
        told = self.ask(site, gateway, "snapshot", after=before["number"]).json()
        (person,) = told["people"]
        assert (person["principal_id"], person["role"], person["disabled"]) == (linked["id"], "app-developer", False)
        assert (person["issuer"], person["subject"]) == (provider.issuer, "sub-1")
        assert [one["ref"] for one in told["projects"]] == ["default/default"]
        site.patch(f"/api/v1/principals/{linked['id']}", json={"disabled": True}, headers=admin)
        after = self.ask(site, gateway, "snapshot", after=told["number"]).json()
        assert after["people"][0]["disabled"]
        site.patch(f"/api/v1/principals/{linked['id']}", json={"disabled": False}, headers=admin)
        site.post("/api/v1/projects", json={"tenant": "default", "name": "risk"}, headers=admin)
        new = self.ask(site, gateway, "snapshot", after=after["number"]).json()
        assert {one["ref"] for one in new["projects"]} == {"default/default", "default/risk"}
        tenant = site.get("/api/v1/tenants/default", headers=admin)
        frozen = site.patch(
            "/api/v1/tenants/default", json={"state": "frozen"}, headers=admin | {"If-Match": tenant.headers["etag"]}
        )
        assert frozen.status_code == 200, frozen.text
        last = self.ask(site, gateway, "snapshot", after=new["number"]).json()
        assert (last["people"][0]["disabled"], last["projects"]) == (True, [])


class TestFlows:
    def test_device_code(self, provider: OidcProvider) -> None:
        shown: list[flows.DeviceCode] = []
        provider.pending = 2
        found = flows.login_by_device(provider.issuer, CLIENT, shown.append, sleep=lambda _: None)
        assert (shown[0].user_code, found.refresh_token, provider.asked.count("/token_endpoint")) == (
            "ABCD",
            "refresh",
            3,
        )
        provider.refused = "access_denied"
        with pytest.raises(NotAuthenticated, match="access_denied"):
            flows.login_by_device(provider.issuer, CLIENT, shown.append, sleep=lambda _: None)

    def test_browser_with_pkce(self, provider: OidcProvider) -> None:
        def browse(url: str) -> None:
            threading.Thread(target=lambda: httpx.get(url, follow_redirects=True, trust_env=False)).start()

        found = flows.login_by_browser(provider.issuer, CLIENT, browse)
        assert OidcVerifier(provider.issuer, CLIENT).verify(found.id_token, now()).subject == "sub-1"
        provider.refused = "access_denied"
        with pytest.raises(NotAuthenticated, match="access_denied"):
            flows.login_by_browser(provider.issuer, CLIENT, browse)

    def test_an_answer_of_another_login_is_refused(self, provider: OidcProvider) -> None:
        def browse(url: str) -> None:
            target = url.partition("redirect_uri=")[2].partition("&")[0].replace("%3A", ":").replace("%2F", "/")
            params = {"code": "code", "state": "forged"}
            threading.Thread(target=lambda: httpx.get(target, params=params, trust_env=False)).start()

        with pytest.raises(NotAuthenticated, match="another login's answer"):
            flows.login_by_browser(provider.issuer, CLIENT, browse)

    def test_a_login_is_kept_for_its_owner_and_renewed(self, provider: OidcProvider, tmp_path: Path) -> None:
        home = Home(tmp_path)
        provider.lifetime_s = 5
        login = flows.login_by_device(provider.issuer, CLIENT, lambda _: None, sleep=lambda _: None)
        flows.store_login(home, "http://a", login)
        assert ((home.secrets / "login.json").stat().st_mode & 0o777, flows.find_token(home, "http://b")) == (
            0o600,
            None,
        )
        provider.lifetime_s = 300
        renewed = flows.find_token(home, "http://a")
        assert renewed not in (None, login.id_token)
        assert flows.find_token(home, "http://a") == renewed
        assert (flows.store_login(home, "http://a", None), flows.find_token(home, "http://a")) == (True, None)

    def test_a_login_that_has_ended_says_so(self, provider: OidcProvider) -> None:
        with pytest.raises(NotAuthenticated, match="finmaas login"):
            flows.refresh(flows.Login(provider.issuer, CLIENT, "ey", "", 0))
        with pytest.raises(NotAuthenticated, match="invalid_grant"):
            flows.refresh(flows.Login(provider.issuer, CLIENT, "ey", "stale", 0))


class TestCommand:
    def test_logs_in_and_is_used(self, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from typer.testing import CliRunner

        from finmaas_platform.cli.main import app
        from finmaas_platform.sdk.connection import find_address

        monkeypatch.setenv("FINMAAS_HOME", str(tmp_path))
        monkeypatch.setenv("FINMAAS_URL", "http://127.0.0.1:9")
        monkeypatch.delenv("FINMAAS_TOKEN", raising=False)
        monkeypatch.setattr(flows.time, "sleep", lambda _: None)
        arguments = ["login", "--issuer", provider.issuer, "--client-id", CLIENT]
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, "type ABCD" in result.stderr) == (0, True), result.output
        assert looks_like_jwt(find_address().token)
        shown = CliRunner().invoke(app, ["login", "--show-token"])
        assert (shown.exit_code, shown.stdout.strip()) == (0, find_address().token)
        assert CliRunner().invoke(app, ["logout"]).exit_code == 0
        with pytest.raises(NotAuthenticated):
            find_address()
        nobody = CliRunner().invoke(app, ["login", "--show-token"])
        assert (nobody.exit_code, "run `finmaas login`" in nobody.stderr) == (1, True)
