"""One real installation shared by the integration tests, on a port block of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from integration_helpers import Installation, find_port_block

from finmaas_core.settings import load_settings
from finmaas_platform.embedded.lifecycle import ensure_up, take_down
from finmaas_platform.embedded.processes import find_processes
from finmaas_platform.sdk import Client


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The platform, up. At the end it is taken down, and nothing of it may be left."""
    home = tmp_path_factory.mktemp("platform") / "home"
    saved = os.environ.pop("FINMAAS_HOME", None)
    try:
        ensure_up(home, port_base=find_port_block())
        yield Installation(load_settings(home))
    finally:
        take_down(home)
        if saved is not None:
            os.environ["FINMAAS_HOME"] = saved
    assert find_processes(home) == []


@pytest.fixture
def client(installation: Installation) -> Iterator[Client]:
    """A client with the first admin's token."""
    with installation.client() as made:
        yield made
