"""People who show a token of the identity provider at the gateway: a real provider over HTTP, real RSA keys."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway_parts import KEY, Answer, Rig, answer_usual, chat, post, run, running_gateway, snapshot_document, until
from oidc_provider import CLIENT, OidcProvider

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.people import MAX_CHECKED, People, fetch_provider
from finmaas_serving.gateway.snapshot import SnapshotFile


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as provider:
        yield provider


def told(provider: OidcProvider) -> bytes:
    """What the control plane hands on."""
    jwks = httpx.get(f"{provider.issuer}/jwks_uri", trust_env=False).json()
    return json.dumps(
        {"issuer": provider.issuer, "client_id": CLIENT, "audiences": [CLIENT, "finmaas-api"], "jwks": jwks}
    ).encode()


def document(provider: OidcProvider, number: int = 1, **changes: Any) -> dict[str, Any]:
    def person(subject: str, **more: Any) -> dict[str, Any]:
        usual = {"principal_id": f"prn_{subject}", "name": subject, "role": "app-developer", "tenant_id": "ten_acme"}
        return {"issuer": provider.issuer, "subject": subject, **usual, **more}

    def project(name: str, tenant: str = "acme") -> dict[str, Any]:
        return {"project_id": f"prj_{name}", "ref": f"{tenant}/{name}", "tenant_id": f"ten_{tenant}"}

    people = [
        person("sub-1"),
        person("off", disabled=True),
        person("ann", role="annotator"),
        person("boss", role="platform-admin", tenant_id=None),
    ]
    projects = [project("risk"), project("fraud"), project("theirs", "other")]
    return snapshot_document(number, **{"people": people, "projects": projects, **changes})


async def call(rig: Rig, token: str, project: str = "acme/risk", path: str = "/v1/chat/completions") -> Answer:
    headers = f"openai-project: {project}\r\n" if project else ""
    return await rig.send(post(chat(), path=path, key=token, headers=headers))


class TestPeople:
    def test_a_person_calls_and_is_metered(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(told(provider))
                token = provider.token()
                assert (await call(rig, token)).status == 200
                assert (await call(rig, token, "risk")).status == 200  # by its short name
                assert (await call(rig, provider.token(aud="finmaas-api", azp=CLIENT))).status == 200
                by_x_api_key = post(chat(), key=None, headers=f"x-api-key: {token}\r\nopenai-project: risk\r\n")
                assert (await rig.send(by_x_api_key)).status == 200
                assert (await rig.call()).status == 200  # a key beside it
                people = [(record["key_id"], record["project_id"]) for record in await rig.records(5)]
                assert people == [("prn_sub-1", "prj_risk")] * 4 + [("key_good", "prj_risk")]

        run(test())

    def test_sees_what_the_project_sees_and_grants_hold(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(told(provider))
                models = {}
                for project in ("risk", "fraud"):
                    headers = f"authorization: Bearer {provider.token()}\r\nopenai-project: {project}\r\n"
                    answer = await rig.send(f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{headers}\r\n".encode())
                    models[project] = sorted(one["id"] for one in answer.json["data"])
                assert models == {"risk": ["acme/fraud/shared", "chat", "cold"], "fraud": ["hidden", "shared"]}

        run(test())

    @pytest.mark.parametrize(
        ("claims", "words"),
        [
            ({"iss": "http://127.0.0.1:1"}, "Invalid issuer"),
            ({"aud": "another"}, "Audience"),
            ({"exp": 1}, "has expired"),
            ({"nbf": 9_999_999_999}, "not valid yet"),
            ({"azp": "another"}, "another client"),
            ({"sub": "stranger"}, "finmaas principal link"),
            ({"sub": "off"}, "disabled"),
        ],
    )
    def test_refuses_with_a_reason(
        self, provider: OidcProvider, tmp_path: Path, claims: dict[str, Any], words: str
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, replicas):
                rig.gateway.people.take(told(provider))
                answer = await call(rig, provider.token(**claims))
                assert (answer.status, words in answer.error["message"]) == (401, True), answer.body
                assert not replicas[0].requests

        run(test())

    def test_refuses_forged_tokens(self, provider: OidcProvider, tmp_path: Path) -> None:
        head, body, signature = provider.token().split(".")
        claims = json.loads(base64.urlsafe_b64decode(body + "=="))
        changed = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "boss"}).encode()).decode().rstrip("=")
        none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').decode().rstrip("=")
        other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        forged = [
            provider.token(key=other),
            provider.token(key="shared-secret-of-thirty-two-bytes!", algorithm="HS256"),
            f"{head}.{changed}.{signature}",
            f"{none}.{body}.",
            "ey.ey.ey",
            "ey" + "a" * 20_000 + ".b.c",
            "eyä.b.c",
        ]

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, replicas):
                rig.gateway.people.take(told(provider))
                assert [(await call(rig, token)).status for token in forged] == [401] * len(forged)
                assert not replicas[0].requests

        run(test())

    def test_the_project_and_the_role_decide(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(told(provider))
                seen = [
                    (await call(rig, provider.token(), project="")).status,  # which of two?
                    (await call(rig, provider.token(), project="other/theirs")).status,  # another tenant's is not there
                    (await call(rig, provider.token(), project="theirs")).status,
                    (await call(rig, provider.token(sub="ann"))).status,
                    (await call(rig, provider.token(sub="boss"), project="")).status,
                    (await call(rig, provider.token(sub="boss"), project="acme/risk")).status,
                    (await call(rig, provider.token(), path="/v1/files")).status,
                ]
                assert seen == [400, 404, 404, 403, 400, 200, 403]
                alone = document(provider, 2, projects=[document(provider)["projects"][0]])
                rig.gateway.snapshots.take(json.dumps(alone).encode())
                assert (await call(rig, provider.token(), project="")).status == 200

        run(test())

    def test_without_a_provider_a_login_is_refused(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual) as (rig, _):
                answer = await call(rig, provider.token())
                assert (answer.status, "fmk_" in answer.error["message"]) == (401, True)

        run(test())

    def test_disabling_ends_open_connections_too(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(told(provider))
                request = post(chat(), key=provider.token(), headers="openai-project: risk\r\n")
                reader, writer = await rig.connect()
                for _ in range(2):  # the second one by its known head
                    writer.write(request)
                    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                    await reader.readexactly(len((await rig.call()).body))
                people = [one | {"disabled": True} for one in document(provider)["people"]]
                rig.gateway.snapshots.take(json.dumps(document(provider, 2, people=people)).encode())
                writer.write(request)
                assert b" 401 " in await reader.readline()
                writer.close()

        run(test())


class TestChecked:
    def test_a_token_is_verified_once_a_minute_and_the_memory_is_bounded(
        self, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                people, snapshot = rig.gateway.people, rig.gateway.snapshots.current
                people.take(told(provider))
                token, now = provider.token(exp=int(time.time()) + 300).encode(), time.time()
                first = people.find_key(snapshot, token, b"risk", now)
                assert people.find_key(snapshot, token, b"risk", now + 59) is first
                again = people.find_key(snapshot, token, b"risk", now + 61)
                assert (again is first, again.key_id) == (False, first.key_id)
                assert people.find_key(snapshot, token, b"fraud", now + 61).project_id == "prj_fraud"
                monkeypatch.setattr("finmaas_serving.gateway.people.MAX_CHECKED", 2)
                for number in range(5):
                    fresh = provider.token(jti=str(number)).encode()
                    people.find_key(snapshot, fresh, b"risk", now)
                    assert len(people._checked) <= 2
                assert MAX_CHECKED <= 10_000

        run(test())

    def test_a_key_that_the_provider_took_back_opens_nothing(
        self, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_serving.gateway.people.SURE_S", 0.0)

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(told(provider))
                token = provider.token()
                assert (await call(rig, token)).status == 200
                provider.keys = {"k2": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
                rig.gateway.people.take(told(provider))
                assert (await call(rig, token)).status == 503  # it may be a new one
                rig.gateway.people.take(told(provider), asked="k1")
                assert (await call(rig, token)).status == 401

        run(test())


class TestFeed:
    def control_plane(self, provider: OidcProvider, asked: list[str | None]) -> httpx.AsyncClient:
        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request.url.params.get("missing"))
            return httpx.Response(200, content=told(provider)) if not provider.away else httpx.Response(404)

        return httpx.AsyncClient(base_url="http://cp", transport=httpx.MockTransport(answer))

    def test_a_new_signing_key_is_asked_for_once(
        self, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("finmaas_serving.gateway.people.SURE_S", 0.0)

        async def test() -> None:
            asked: list[str | None] = []
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                api = self.control_plane(provider, asked)

                async def feed() -> None:
                    while True:
                        await fetch_provider(rig.gateway, api)

                task = asyncio.create_task(feed())
                await until(lambda: bool(rig.gateway.people.provider.issuer))
                provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                answer = await call(rig, provider.token("k2"))
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                await until(lambda: len(asked) == 2 and not rig.gateway.people.missing)
                assert (await call(rig, provider.token("k2"))).status == 200
                unknown = provider.token("k1", key=provider.keys["k2"], algorithm="RS256")
                head = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"k9"}').decode().rstrip("=")
                forged = f"{head}.{unknown.partition('.')[2]}"
                assert (await call(rig, forged)).status == 503
                await until(lambda: len(asked) == 3 and not rig.gateway.people.missing)
                assert (await call(rig, forged)).status == 401
                assert asked[:3] == [None, "k2", "k9"]
                provider.away = True  # this control plane has no provider any more
                rig.gateway.people._wanted.set()
                await until(lambda: not rig.gateway.people.provider.issuer)
                assert (await call(rig, provider.token())).status == 401
                task.cancel()

        run(test())

    def test_a_key_that_is_heard_of_late_is_asked_for_again(self, provider: OidcProvider, tmp_path: Path) -> None:
        """The control plane asked the provider a moment before the key was made, and does not ask again so soon."""

        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                rig.gateway.people.take(old := told(provider))
                provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                for _ in range(3):
                    answer = await call(rig, provider.token("k2"))
                    assert (answer.status, rig.gateway.people.missing) == (503, "k2")
                    rig.gateway.people.take(old, asked="k2")
                rig.gateway.people.take(told(provider), asked="k2")
                assert (await call(rig, provider.token("k2"))).status == 200

        run(test())

    def test_a_key_that_was_asked_for_too_early_is_asked_for_when_it_comes_again(
        self, provider: OidcProvider, tmp_path: Path
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                people = rig.gateway.people
                people.take(old := told(provider))
                provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                token = provider.token("k2")
                assert (await call(rig, token)).status == 503
                people.take(old, asked="k2")
                people._missed["k2"] -= 60  # nobody has used it for a minute
                people._asked_at -= 60
                assert ((await call(rig, token)).status, people.missing) == (503, "k2")
                people.take(old, asked="k2")  # the provider was away, so it counts as none …
                assert (await call(rig, token)).status == 401
                people._missed["k2"] -= 60
                people._asked_at -= 20
                assert ((await call(rig, token)).status, people.missing) == (401, "k2")  # … and is asked for again
                people.take(told(provider), asked="k2")
                assert ((await call(rig, token)).status, people._missed) == (200, {})

        run(test())

    def test_keys_that_are_none_are_known_as_such_however_many_are_named(
        self, provider: OidcProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                people = rig.gateway.people
                people.take(told(provider))
                old = [provider.token(f"gone-{number}", key=provider.keys["k1"]) for number in range(3)]
                assert [(await call(rig, token)).status for token in old] == [503] * 3
                people.take(told(provider), asked=people.missing)
                monkeypatch.setattr("finmaas_serving.gateway.people.SURE_S", 0.0)
                for _ in range(2):  # by turns, so that none of them is the one that was missed last
                    answers = [await call(rig, token) for token in old]
                    assert [one.status for one in answers] == [401] * 3
                    assert all("finmaas login" in one.error["message"] for one in answers)
                monkeypatch.setattr("finmaas_serving.gateway.people.MAX_MISSED", 4)
                for number in range(9):
                    await call(rig, provider.token(f"flood-{number}", key=provider.keys["k1"]))
                    assert len(people._missed) <= 4

        run(test())

    def test_the_keys_lie_on_disk_for_the_next_start(self, provider: OidcProvider, tmp_path: Path) -> None:
        path = tmp_path / "identity"
        People(SnapshotFile(path, "fmg_token")).take(told(provider))
        started = People(SnapshotFile(path, "fmg_token"))
        started.load_from_disk()
        assert started.provider.issuer == provider.issuer
        with pytest.raises(Corrupt):
            People(SnapshotFile(path, "fmg_another")).load_from_disk()
        with pytest.raises(Corrupt):
            started.take(b'{"jwks":{"keys":[]}}')
        assert started.provider.issuer == provider.issuer

    def test_a_key_goes_its_usual_way(self, provider: OidcProvider, tmp_path: Path) -> None:
        async def test() -> None:
            async with running_gateway(tmp_path, answer_usual, document=document(provider)) as (rig, _):
                assert (await rig.call(key=KEY)).status == 200
                assert (await rig.call(key="ey.without.dots.enough")).status == 401

        run(test())
