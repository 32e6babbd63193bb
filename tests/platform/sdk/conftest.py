"""Fixtures of the SDK's tests: a client over the real application in this process."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from finmaas_platform.sdk import Client


@pytest.fixture
def finmaas(client: TestClient, admin: dict[str, str]) -> Client:
    token = admin["Authorization"].removeprefix("Bearer ")
    return Client(url="http://testserver", token=token, http=client)
