"""Stores for the tests of the registry."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from soft_hsm import PIN, TOKEN

from finmaas_registry.pkcs11_ring import Pkcs11KeyRing
from finmaas_registry.sealing import Sealed


class OneDataKey:
    """A data key that lives as long as the test."""

    def __init__(self) -> None:
        self.id, self.key = os.urandom(16), os.urandom(32)

    def current(self) -> tuple[bytes, bytes]:
        return self.id, self.key

    def get(self, key_id: bytes) -> bytes:
        assert key_id == self.id
        return self.key


@pytest.fixture
def sealed() -> Sealed:
    return Sealed(OneDataKey())


@pytest.fixture
def make_hsm_ring(hsm_module: Path) -> Callable[..., Pkcs11KeyRing]:
    """A ring over the test's own keys in the token: `make_hsm_ring(name="blobs")`."""

    def make(name: str = f"k{os.urandom(4).hex()}", token: str = TOKEN, pin: str = PIN) -> Pkcs11KeyRing:
        return Pkcs11KeyRing(hsm_module, token, SecretStr(pin), name)

    return make
