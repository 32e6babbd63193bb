"""People's tokens from the provider to the usage record: control plane, gateway and provider as real processes."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from allowance_world import World, body_of, free_base
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from oidc_provider import CLIENT, OidcProvider

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

REVOKED_S = 2.0  # by then a connected gateway refuses whom the control plane refuses
PROJECT = "default/default"


class Site:
    """The running parts, and somebody who has logged in."""

    def __init__(self, world: World, provider: OidcProvider, client: httpx.AsyncClient) -> None:
        self.world = world
        self.provider = provider
        self._client = client
        self.gateway = f"http://127.0.0.1:{world.base + 11}"

    async def ask(self, token: str, project: str = PROJECT) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}", "openai-project": project}
        body = body_of(7, max_tokens=9)
        return await self._client.post(f"{self.gateway}/v1/chat/completions", json=body, headers=headers)

    async def until_it_is(self, status: int, token: str, timeout_s: float = 40.0) -> float:
        """Asks until the answer is such; the seconds that took."""
        began = time.monotonic()
        while (answer := await self.ask(token)).status_code != status:
            assert time.monotonic() < began + timeout_s, (answer.status_code, answer.text)
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def log_in_to_control_plane(self, token: str) -> int:
        url = f"http://127.0.0.1:{self.world.base + 1}/api/v1/allowances"
        return (await self._client.get(url, headers={"authorization": f"Bearer {token}"})).status_code

    async def change(self, principal: str, **changes: Any) -> None:
        headers = {"authorization": f"Bearer {self.world.token}"}
        url = f"http://127.0.0.1:{self.world.base + 1}/api/v1/principals/{principal}"
        etag = (await self._client.get(url, headers=headers)).headers["etag"]
        answer = await self._client.patch(url, json=changes, headers={**headers, "if-match": etag})
        answer.raise_for_status()

    async def add_person(self, name: str, subject: str, tenant: str = "default") -> str:
        made = await self.world.api("POST", "/principals", {"name": name, "role": "app-developer", "tenant": tenant})
        await self.change(made["id"], subject=subject)
        return str(made["id"])


@asynccontextmanager
async def running(folder: Path, provider: OidcProvider) -> AsyncIterator[Site]:
    settings = {"FINMAAS_OIDC_ISSUER": provider.issuer, "FINMAAS_OIDC_CLIENT_ID": CLIENT}
    world = World(folder / "home", free_base(), delay_s=0, settings=settings)
    try:
        await world.start(1)
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            yield Site(world, provider, client)
    finally:
        world.stop()


def run(test: Any) -> None:
    asyncio.run(test)


def test_a_person_from_login_to_usage_and_out_again(tmp_path: Path) -> None:
    async def test(provider: OidcProvider) -> None:
        async with running(tmp_path, provider) as site:
            ann = await site.add_person("ann", "sub-ann")
            await site.world.api("POST", "/tenants", {"name": "other"})
            await site.add_person("otto", "sub-otto", "other")
            token = provider.token(sub="sub-ann")
            await site.until_it_is(200, token)

            # Whoever is of another tenant learns nothing of this one's project.
            stranger = await site.ask(provider.token(sub="sub-otto"))
            nowhere = await site.ask(provider.token(sub="sub-otto"), "default/none")
            assert (stranger.status_code, nowhere.status_code) == (404, 404)
            assert stranger.text.replace(PROJECT, "") == nowhere.text.replace("default/none", "")

            # What was used is booked under the person.
            async def booked() -> bool:
                records = (await site.world.api("GET", "/usage"))["items"]
                return any(one["key_id"] == ann and one["completion_tokens"] == 7 for one in records)

            await site.world.until(booked, 20)

            # Tokens that are none, and what is said of them.
            other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            for claims, words in (
                ({"aud": "another"}, "Audience"),
                ({"iss": "http://127.0.0.1:1"}, "issuer"),
                ({"exp": int(time.time()) - 60}, "expired"),
                ({"nbf": int(time.time()) + 3600}, "not valid yet"),
                ({"key": other}, "ignature"),
                ({"key": "a-secret-of-more-than-thirty-two-bytes", "algorithm": "HS256"}, "algorithm"),
            ):
                refused = await site.ask(provider.token(sub="sub-ann", **claims))
                assert (refused.status_code, words in refused.text) == (401, True), (claims, refused.text)
            for name, forged in _forge(provider).items():
                refused = await site.ask(forged)
                assert (refused.status_code, "finmaas login" in refused.text) == (401, True), (name, refused.text)
            assert (await site.ask(provider.token("e1", algorithm="ES256", sub="sub-ann"))).status_code == 200

            # Usage is exported by person, as by key.
            lines = await site.world.api("GET", f"/usage/export?by=key&since={_days_ago(1)}&until={_days_ago(-1)}")
            assert ann in json.dumps(lines)

            # What one person may use bounds that person, and nobody's key.
            wanted = {"scope": "person", "subject": ann, "unit": "requests", "window": "day", "limit": "3"}
            await site.world.api("PUT", "/allowances", wanted)
            await site.until_it_is(429, token)
            assert "person ann" in (await site.ask(token)).text
            assert (await site.world.chat(1, 3, max_tokens=5))[0] == 200
            await site.world.api("PUT", "/allowances", {**wanted, "limit": "100000"})
            await site.until_it_is(200, token)

            # Disabled means refused, on a gateway that is connected within two seconds.
            await site.change(ann, disabled=True)
            assert await site.until_it_is(401, token) <= REVOKED_S
            await site.change(ann, disabled=False)
            await site.until_it_is(200, token)

    with OidcProvider() as provider:
        provider.keys["e1"] = ec.generate_private_key(ec.SECP256R1())
        run(test(provider))


def test_new_signing_keys_and_a_provider_that_is_away(tmp_path: Path) -> None:
    async def test(provider: OidcProvider) -> None:
        async with running(tmp_path, provider) as site:
            await site.add_person("ann", "sub-ann")
            await site.until_it_is(200, provider.token(sub="sub-ann"))

            # The provider signs with a new key: asked for once, then known.
            provider.keys["k2"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            first = await site.ask(provider.token("k2", sub="sub-ann"))
            assert first.status_code in (200, 503), first.text
            assert first.status_code == 200 or first.headers["retry-after"]
            await site.until_it_is(200, provider.token("k2", sub="sub-ann"))

            # Tokens that name keys nobody has: the provider is not asked for each of them, and nobody waits for them.
            asked = len(provider.asked)
            made_up = [provider.token("k1", sub="sub-ann", jti=str(i)) for i in range(40)]
            forged = [_with_kid(provider, f"none-{i}") for i in range(40)]
            began = time.monotonic()
            answers = await asyncio.gather(*map(site.ask, [*forged, *made_up]))
            assert {one.status_code for one in answers[:40]} <= {401, 503}
            assert {one.status_code for one in answers[40:]} == {200}
            assert time.monotonic() - began < 20
            assert len(provider.asked) - asked <= 6

            # The provider is away: whose key is known goes on, also after a restart of the gateway.
            provider.away = True
            assert (await site.ask(provider.token(sub="sub-ann"))).status_code == 200
            site.world.kill("gw-1")
            site.world.start_gateway(1)
            await site.world.until(lambda: site.world._ready(1))
            assert (await site.ask(provider.token("k2", sub="sub-ann"))).status_code == 200
            unknown = await site.ask(_with_kid(provider, "k3"))
            assert unknown.status_code in (401, 503), unknown.text
            status, _ = await site.world.chat(1, 3, max_tokens=5)
            assert status == 200  # keys of the platform do not care

            # The provider takes questions and answers none: nobody who can be told without it waits for it.
            provider.away = False
            provider.hang()
            nobodys = _with_kid(provider, "none-hang")
            while not provider.hanging.is_set():
                assert (await site.ask(nobodys)).status_code in (401, 503)
                await asyncio.sleep(0.05)
            known = provider.token(sub="sub-ann", jti="while it hangs")
            assert await site.log_in_to_control_plane(known) == 200
            refused = await asyncio.gather(*(site.log_in_to_control_plane(nobodys) for _ in range(50)))
            assert set(refused) <= {401, 503}  # more than the control plane has threads
            assert (await site.ask(known)).status_code == 200
            assert (await site.world.chat(1, 3, max_tokens=5))[0] == 200
            await site.until_it_is(401, nobodys)  # no 503 for ever: none such was there when it was asked for last
            assert "finmaas login" in (await site.ask(nobodys)).text
            provider.release()

    with OidcProvider() as provider:
        run(test(provider))


def _with_kid(provider: OidcProvider, kid: str) -> str:
    """A token that names a key the provider does not publish."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048) if kid == "k3" else provider.keys["k1"]
    return provider.token(kid, key=key, sub="sub-ann")


def _forge(provider: OidcProvider) -> dict[str, str]:
    """Tokens that the provider never signed, by what is wrong with them."""
    head, body, signature = provider.token(sub="sub-ann").split(".")
    public = provider.keys["k1"].public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    hs256 = f"{_part({'alg': 'HS256', 'kid': 'k1', 'typ': 'JWT'})}.{body}"
    changed = json.loads(base64.urlsafe_b64decode(body + "==")) | {"sub": "sub-otto"}
    return {
        "no signature": f"{_part({'alg': 'none', 'kid': 'k1'})}.{body}.",
        "the public key as a secret": f"{hs256}.{_encode(hmac.digest(pem, hs256.encode(), 'sha256'))}",
        "another claim": f"{head}.{_part(changed)}.{signature}",
        "another signature": f"{head}.{body}.{'A' * 10}{signature[10:]}",
        "a key of another kind": f"{_part({'alg': 'ES256', 'kid': 'k1'})}.{body}.{signature}",
        "another of the provider's keys": f"{_part({'alg': 'RS256', 'kid': 'e1'})}.{body}.{signature}",
        "a kid that is no word": f"{_part({'alg': 'RS256', 'kid': ['k1']})}.{body}.{signature}",
        "no claims": f"{head}.{_encode(b'[]')}.{signature}",
        "no head": f"eyJhbGci.{body}.{signature}",
    }


def _part(document: dict[str, Any]) -> str:
    return _encode(json.dumps(document).encode())


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _days_ago(days: int) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).date().isoformat()
