"""Fixtures of the SDK's tests: a client over the real application in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from live_api import serve_live

from finmaas_platform.sdk import Client


@pytest.fixture
def finmaas(client: TestClient, admin: dict[str, str]) -> Client:
    token = admin["Authorization"].removeprefix("Bearer ")
    return Client(url="http://testserver", token=token, http=client)


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    """The application behind a real socket."""
    with serve_live(app) as url:
        yield url


@pytest.fixture
def here(url: str, engineer: dict[str, str]) -> Iterator[Client]:
    """A client of the tenant `default`."""
    with Client(url, engineer["Authorization"].removeprefix("Bearer ")) as client:
        yield client
