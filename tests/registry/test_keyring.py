from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from soft_hsm import PIN, TOKEN

from finmaas_core.errors import Corrupt, EnvironmentFault, Unavailable
from finmaas_registry.keyring import FileKeyRing, KeyRing, VaultKeyRing, make_data_key
from finmaas_registry.pkcs11_ring import Pkcs11KeyRing


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


@pytest.fixture(params=["file", "vault", "pkcs11"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> KeyRing:
    if request.param == "pkcs11":
        made: KeyRing = request.getfixturevalue("make_hsm_ring")()
        return made
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
        assert len(ring.unwrap(wrapped)) == 32, "and goes on unwrapping"


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


class TestPkcs11KeyRing:
    """Against SoftHSM."""

    def test_is_the_same_after_a_restart_and_in_another_process(
        self, make_hsm_ring: Callable[..., Pkcs11KeyRing], hsm_module: Path
    ) -> None:
        key = make_data_key()
        wrapped = make_hsm_ring("restart").wrap(key)
        assert make_hsm_ring("restart").unwrap(wrapped) == key
        code = (
            "import sys; from pathlib import Path; from pydantic import SecretStr\n"
            "from finmaas_registry.keyring import Wrapped\n"
            "from finmaas_registry.pkcs11_ring import Pkcs11KeyRing\n"
            "module, token, pin, name, text = sys.argv[1:]\n"
            "ring = Pkcs11KeyRing(Path(module), token, SecretStr(pin), 'restart')\n"
            "print(ring.unwrap(Wrapped(name, text)).hex())"
        )
        words = [sys.executable, "-c", code, str(hsm_module), TOKEN, PIN, wrapped.wrapping_key, wrapped.text]
        ran = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        assert ran.stdout.strip() == key.hex()

    def test_the_key_never_leaves_the_token(
        self, make_hsm_ring: Callable[..., Pkcs11KeyRing], hsm_module: Path
    ) -> None:
        import pkcs11
        from pkcs11 import Attribute

        label = make_hsm_ring("kept").rotate().removeprefix("pkcs11:")
        with pkcs11.lib(str(hsm_module)).get_token(token_label=TOKEN).open(user_pin=PIN) as session:
            key = session.get_key(label=label)
            assert (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE], key[Attribute.NEVER_EXTRACTABLE]) == (
                True, False, True,
            )  # fmt: skip
            with pytest.raises(pkcs11.AttributeSensitive):
                key[Attribute.VALUE]

    def test_the_highest_number_is_the_newest(self, make_hsm_ring: Callable[..., Pkcs11KeyRing]) -> None:
        ring = make_hsm_ring("count")
        assert [ring.rotate().split("-")[1] for _ in range(11)] == [str(n) for n in range(1, 12)]
        assert ring.wrap(make_data_key()).wrapping_key.split("-")[1] == "11"

    def test_many_threads_share_the_one_login(self, make_hsm_ring: Callable[..., Pkcs11KeyRing]) -> None:
        ring, key = make_hsm_ring("threads"), make_data_key()
        wrapped = ring.wrap(key)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: ring.unwrap(wrapped), range(40))) == {key}

    def test_a_key_of_another_name_is_not_ours(self, make_hsm_ring: Callable[..., Pkcs11KeyRing]) -> None:
        one, two = make_hsm_ring("one"), make_hsm_ring("two")
        wrapped = one.wrap(make_data_key())
        with pytest.raises(Corrupt):
            two.unwrap(replace(wrapped, wrapping_key=two.wrap(make_data_key()).wrapping_key))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [({"pin": "wrong-pin"}, "FINMAAS_PKCS11_PIN"), ({"token": "nobody's"}, "FINMAAS_PKCS11_TOKEN")],
    )
    def test_a_wrong_setting_is_named(
        self, make_hsm_ring: Callable[..., Pkcs11KeyRing], changes: dict[str, str], said: str
    ) -> None:
        with pytest.raises(EnvironmentFault, match=said):
            make_hsm_ring(**changes).wrap(make_data_key())

    def test_a_lost_key_is_named(self, make_hsm_ring: Callable[..., Pkcs11KeyRing]) -> None:
        wrapped = make_hsm_ring("lost").wrap(make_data_key())
        with pytest.raises(EnvironmentFault, match="lacks the key lost-9-abcd"):
            make_hsm_ring("lost").unwrap(replace(wrapped, wrapping_key="pkcs11:lost-9-abcd"))

    def test_a_module_that_is_none_is_named(self, tmp_path: Path) -> None:
        for content in (None, b"no library"):
            path = tmp_path / "module.so"
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(EnvironmentFault, match=r"module\.so"):
                Pkcs11KeyRing(path, "t", SecretStr("p"), "n").wrap(make_data_key())
