"""Stores for the tests of the registry."""

from __future__ import annotations

import os

import pytest

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
