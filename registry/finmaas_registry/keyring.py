"""Who wraps the data keys under which blobs are sealed: one port, `KeyRing`; a file, Vault's transit engine,
or a security module (`pkcs11_ring.py`).

A ring never gives its own keys away; it only wraps and unwraps. Rotating it makes a new wrapping key; the old one stays
for unwrapping until every data key is wrapped anew (`rewrap`), which rewrites no blob.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from finmaas_core.errors import Corrupt, EnvironmentFault, Unavailable
from finmaas_core.home import write_secret

KEY_BYTES = 32
NONCE_BYTES = 12


@dataclass(frozen=True)
class Wrapped:
    """A data key as it may lie in a database: which key wraps it, and what came out, as text."""

    wrapping_key: str
    text: str


class KeyRing(Protocol):
    """Wraps data keys. Every adapter passes the suite in tests/registry/test_keyring.py."""

    def wrap(self, data_key: bytes) -> Wrapped:
        """Under the newest key. Raises Unavailable when the ring does not answer."""
        ...

    def unwrap(self, wrapped: Wrapped) -> bytes:
        """The data key again. Raises Corrupt for what this ring did not wrap, EnvironmentFault for a lost key."""
        ...

    def rotate(self) -> str:
        """Makes a new wrapping key the newest and names it; older ones go on unwrapping."""
        ...


class FileKeyRing:
    """Wrapping keys in a file that only its owner can read. Whoever has the file and the database reads everything."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            self._write({}, None)
            self.rotate()

    def wrap(self, data_key: bytes) -> Wrapped:
        keys = self._read()
        nonce = os.urandom(NONCE_BYTES)
        newest = str(keys["newest"])
        sealed = AESGCM(bytes.fromhex(keys["keys"][newest])).encrypt(nonce, data_key, newest.encode())
        return Wrapped(newest, base64.b64encode(nonce + sealed).decode())

    def unwrap(self, wrapped: Wrapped) -> bytes:
        key = self._read()["keys"].get(wrapped.wrapping_key)
        if key is None:
            raise EnvironmentFault(f"{self._path} lacks the key {wrapped.wrapping_key}; bring it back from a backup")
        data = base64.b64decode(wrapped.text)
        try:
            cipher = AESGCM(bytes.fromhex(key))
            return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], wrapped.wrapping_key.encode())
        except InvalidTag as error:
            raise Corrupt(f"a data key was not wrapped by {wrapped.wrapping_key} of {self._path}") from error

    def rotate(self) -> str:
        keys = self._read()["keys"]
        name = f"file-{len(keys) + 1}-{secrets.token_hex(4)}"
        keys[name] = secrets.token_hex(KEY_BYTES)
        self._write(keys, name)
        return name

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EnvironmentFault(f"the key ring {self._path} cannot be read ({error})") from error
        return found

    def _write(self, keys: dict[str, str], newest: str | None) -> None:
        write_secret(self._path, json.dumps({"newest": newest, "keys": keys}, indent=1))


class VaultKeyRing:
    """HashiCorp Vault's (or OpenBao's) transit engine: the wrapping keys never leave it. `name` is a key made there.

    API: https://developer.hashicorp.com/vault/api-docs/secret/transit
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        name: str,
        *,
        ca_file: Path | None = None,
        http: httpx.Client | None = None,
    ) -> None:
        verify: Any = str(ca_file) if ca_file else True
        self._http = http or httpx.Client(base_url=url, timeout=10, verify=verify, trust_env=False)
        self._headers = {"X-Vault-Token": token.get_secret_value()}
        self._name = name

    def wrap(self, data_key: bytes) -> Wrapped:
        answer = self._ask("encrypt", {"plaintext": base64.b64encode(data_key).decode()})
        text = str(answer["ciphertext"])  # vault:v3:…
        return Wrapped(f"vault:{self._name}:{text.split(':')[1]}", text)

    def unwrap(self, wrapped: Wrapped) -> bytes:
        return base64.b64decode(self._ask("decrypt", {"ciphertext": wrapped.text})["plaintext"])

    def rotate(self) -> str:
        self._call(f"/v1/transit/keys/{self._name}/rotate", {})
        return self.wrap(os.urandom(KEY_BYTES)).wrapping_key

    def _ask(self, verb: str, body: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = self._call(f"/v1/transit/{verb}/{self._name}", body).json()["data"]
        return found

    def _call(self, path: str, body: dict[str, str]) -> httpx.Response:
        try:
            answer = self._http.post(path, json=body, headers=self._headers)
        except httpx.HTTPError as error:
            raise Unavailable(f"the key ring at {self._http.base_url} does not answer ({error!r})") from error
        if answer.status_code in (401, 403):
            raise EnvironmentFault(f"Vault refuses our token for the key {self._name}; check FINMAAS_VAULT_TOKEN")
        if answer.status_code == 400:
            raise Corrupt(f"Vault's key {self._name} did not wrap this: {answer.text[:200]}")
        if not answer.is_success:
            raise Unavailable(f"Vault answered {answer.status_code}: {answer.text[:200]}")
        return answer


def make_data_key() -> bytes:
    """A fresh data key."""
    return os.urandom(KEY_BYTES)
