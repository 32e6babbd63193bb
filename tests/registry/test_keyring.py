from __future__ import annotations

import base64
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from finmaas_core.errors import Corrupt, EnvironmentFault, Unavailable
from finmaas_registry.keyring import FileKeyRing, KeyRing, VaultKeyRing, make_data_key


class TransitEngine:
    """What the adapter uses of Vault's transit engine, after its API documentation; no Vault is behind it."""

    def __init__(self) -> None:
        self.versions = [os.urandom(8).hex()]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.headers["X-Vault-Token"] != "right":
            return httpx.Response(403, json={"errors": ["permission denied"]})
        verb, body = request.url.path.split("/")[3], json.loads(request.content)
        if request.url.path.endswith("/rotate"):
            self.versions.append(os.urandom(8).hex())
            return httpx.Response(204)
        if verb == "encrypt":
            text = f"{self.versions[-1]}.{body['plaintext']}"
            sealed = f"vault:v{len(self.versions)}:{base64.b64encode(text.encode()).decode()}"
            return httpx.Response(200, json={"data": {"ciphertext": sealed}})
        _, version, text = body["ciphertext"].split(":")
        try:
            secret, plain = base64.b64decode(text).decode().split(".")
        except ValueError:
            secret, plain = "", ""
        if secret != self.versions[int(version[1:]) - 1]:
            return httpx.Response(400, json={"errors": ["cipher: message authentication failed"]})
        return httpx.Response(200, json={"data": {"plaintext": plain}})


def vault(token: str = "right") -> VaultKeyRing:
    http = httpx.Client(base_url="http://vault", transport=httpx.MockTransport(TransitEngine()))
    return VaultKeyRing("http://vault", SecretStr(token), "blobs", http=http)


@pytest.fixture(params=["file", "vault"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> KeyRing:
    return FileKeyRing(tmp_path / "ring.json") if request.param == "file" else vault()


class TestKeyRing:
    """The contract that every adapter keeps."""

    def test_unwraps_what_it_wrapped(self, ring: KeyRing) -> None:
        key = make_data_key()
        wrapped = ring.wrap(key)
        assert key.hex() not in wrapped.text
        assert ring.unwrap(wrapped) == key

    def test_goes_on_unwrapping_after_a_rotation(self, ring: KeyRing) -> None:
        key = make_data_key()
        before = ring.wrap(key)
        newest = ring.rotate()
        after = ring.wrap(key)
        assert newest == after.wrapping_key != before.wrapping_key
        assert ring.unwrap(before) == ring.unwrap(after) == key

    def test_refuses_what_was_changed(self, ring: KeyRing) -> None:
        wrapped = ring.wrap(make_data_key())
        head, _, tail = wrapped.text.rpartition(":")
        data = bytearray(base64.b64decode(tail))
        data[1] ^= 1
        text = f"{head}:" * bool(head) + base64.b64encode(data).decode()
        with pytest.raises(Corrupt):
            ring.unwrap(replace(wrapped, text=text))


class TestFileKeyRing:
    def test_only_its_owner_can_read_it(self, tmp_path: Path) -> None:
        FileKeyRing(tmp_path / "ring.json")
        assert stat.S_IMODE((tmp_path / "ring.json").stat().st_mode) == 0o600

    def test_is_the_same_after_a_restart(self, tmp_path: Path) -> None:
        key = make_data_key()
        wrapped = FileKeyRing(tmp_path / "ring.json").wrap(key)
        assert FileKeyRing(tmp_path / "ring.json").unwrap(wrapped) == key

    def test_a_lost_key_is_named(self, tmp_path: Path) -> None:
        wrapped = FileKeyRing(tmp_path / "one.json").wrap(make_data_key())
        with pytest.raises(EnvironmentFault, match=wrapped.wrapping_key):
            FileKeyRing(tmp_path / "two.json").unwrap(wrapped)


class TestVaultKeyRing:
    def test_a_wrong_token_names_the_setting(self) -> None:
        with pytest.raises(EnvironmentFault, match="FINMAAS_VAULT_TOKEN"):
            vault("wrong").wrap(make_data_key())

    def test_one_that_does_not_answer_is_unavailable(self) -> None:
        ring = VaultKeyRing("http://127.0.0.1:1", SecretStr("x"), "blobs")
        with pytest.raises(Unavailable, match="does not answer"):
            ring.wrap(make_data_key())
