"""The real clients against a real gateway process: whole answers, streams, tools, schemas, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from client_engine import ARGUMENTS, TEXT

pytestmark = pytest.mark.timeout(120)
Client = Callable[[str], dict[str, Any]]
CITY = json.loads(ARGUMENTS)


def test_openai_python(run_client: Client) -> None:
    seen = run_client("use_openai.py")
    for what in ("chat", "chat_stream", "response", "response_stream", "response_final", "completion"):
        assert seen[what] == TEXT, what
    assert seen["chat_model"] == "chat"
    assert "chat" in seen["models"]
    assert (seen["chat_usage"], seen["response_usage"]) == (2, 3)
    assert seen["tool"] == seen["response_tool"] == seen["schema"] == ARGUMENTS
    assert seen["embedding"] == [1.0, 2.0]
    assert seen["errors"] == {
        "store": ["BadRequestError", "store"],
        "previous": ["BadRequestError", "previous_response_id"],
        "model": ["NotFoundError", "model"],
        "key": ["AuthenticationError", None],
    }


def test_anthropic_python(run_client: Client) -> None:
    seen = run_client("use_anthropic.py")
    assert seen["message"] == seen["stream"] == seen["final"] == TEXT
    assert (seen["usage"], seen["stream_usage"], seen["tokens"]) == (3, 3, 7)
    assert seen["tool"] == seen["tool_stream"] == CITY
    assert seen["errors"] == {
        "model": ["NotFoundError", "not_found_error"],
        "key": ["AuthenticationError", "authentication_error"],
        "remote": ["BadRequestError", "invalid_request_error"],
    }


def test_openai_node(run_client: Client) -> None:
    seen = run_client("use_openai.mjs")
    for what in ("chat", "chat_stream", "response", "response_stream"):
        assert seen[what] == TEXT, what
    assert (seen["embedding"], seen["tool"]) == ([1, 2], ARGUMENTS)
    assert seen["errors"] == {"store": ["BadRequestError", "store"], "key": ["AuthenticationError", None]}


def test_langchain(run_client: Client) -> None:
    seen = run_client("use_langchain.py")
    for what in ("chat", "stream", "responses", "responses_stream"):
        assert seen[what] == TEXT, what
    assert (seen["tool"][0]["args"], seen["schema"], seen["embedding"]) == (CITY, CITY, [1.0, 2.0])


def test_llamaindex(run_client: Client) -> None:
    seen = run_client("use_llamaindex.py")
    assert seen["chat"] == seen["stream"] == seen["completion"] == TEXT
    assert seen["embedding"] == [1.0, 2.0]
