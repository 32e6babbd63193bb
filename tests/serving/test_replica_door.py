"""The lock on a replica's port."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finmaas_serving.replica_door import ReplicaDoor, derive_replica_secret

SECRET = derive_replica_secret("fmn_token")


async def engine(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "through", "scope": scope["type"]})


def knock(kind: str = "http", *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> None:
        raise AssertionError("a stranger's body is not read")

    asyncio.run(ReplicaDoor(engine, SECRET)({"type": kind, "headers": list(headers)}, receive, send))
    return sent


class TestReplicaDoor:
    def test_the_secret_opens_it(self) -> None:
        assert knock("http", (b"authorization", f"Bearer {SECRET}".encode()))[0]["type"] == "through"

    @pytest.mark.parametrize(
        "headers",
        [
            [],
            [(b"authorization", b"Bearer ")],
            [(b"authorization", b"Bearer fmn_token")],
            [(b"authorization", SECRET.encode())],
            [(b"x-authorization", f"Bearer {SECRET}".encode())],
        ],
    )
    def test_nothing_else_does(self, headers: list[tuple[bytes, bytes]]) -> None:
        start, body = knock("http", *headers)
        assert start["status"] == 401
        assert SECRET.encode() not in body["body"]

    def test_a_websocket_gets_no_answer_and_the_start_of_the_app_passes(self) -> None:
        assert knock("websocket") == []
        assert knock("lifespan")[0]["type"] == "through"

    def test_the_secret_does_not_show_the_token_and_differs_with_it(self) -> None:
        assert "fmn_token" not in SECRET
        assert derive_replica_secret("fmn_other") != SECRET
