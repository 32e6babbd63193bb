"""Asks the gateway from the terminal: finds or makes a key, streams the answer, times it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypedDict

import httpx

from finmaas_core.errors import FinmaasError, InvalidInput, NotAllowed, NotAuthenticated, NotFound, Unavailable
from finmaas_core.home import find_home, read_secret, write_secret
from finmaas_platform.sdk.refs import parse_ref

if TYPE_CHECKING:
    from pathlib import Path

    from finmaas_platform.sdk.client import Client

KEY_NAME = "finmaas-chat"
SNAPSHOT_PATIENCE_S = 10.0
"""A new key works as soon as the gateway has its next snapshot; so long it is waited for."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Answer:
    """A whole answer with its figures; `tokens_per_s` counts from the first token, 0 for an answer of one."""

    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Asker:
    """Holds the connection to the gateway and the key. `answer` is the last whole answer."""

    def __init__(
        self, client: Client, project: str, endpoint: str, key: str | None, max_tokens: int, temperature: float
    ) -> None:
        self._client = client
        self._project = parse_ref(endpoint, project).project
        self._options = {"model": endpoint, "max_tokens": max_tokens, "temperature": temperature}
        self._given_key = key
        self._http = httpx.Client(base_url=client.gateway_url, timeout=httpx.Timeout(120, connect=5))
        self.answer = Answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, messages: list[Message]) -> Iterator[str]:
        """The pieces of the answer as they come. A kept key that is refused is replaced once."""
        key = self._given_key or find_key(self._project) or make_key(self._client, self._project)
        deadline = time.monotonic() + SNAPSHOT_PATIENCE_S
        replaced = self._given_key is not None
        while True:
            try:
                yield from self._stream(key, messages)
                return
            except NotAuthenticated:
                if self._given_key is not None or time.monotonic() > deadline:
                    raise
                if not replaced:
                    key, replaced = make_key(self._client, self._project), True
                time.sleep(0.2)  # the gateway takes in its next snapshot: there is nothing to wait on

    def _stream(self, key: str, messages: list[Message]) -> Iterator[str]:
        body = {**self._options, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        started = time.monotonic()
        reader = StreamReader(started)
        try:
            with self._http.stream(
                "POST", "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}
            ) as response:
                if not response.is_success:
                    response.read()
                    raise rebuild_gateway_error(response)
                for line in response.iter_lines():
                    if piece := reader.take(line, time.monotonic()):
                        yield piece
        except httpx.ConnectError:
            raise Unavailable(
                f"no gateway answers at {self._client.gateway_url}; `finmaas status` shows what runs"
            ) from None
        except httpx.TransportError as error:
            raise Unavailable(f"the gateway's answer broke off ({type(error).__name__}); ask again") from error
        self.answer = reader.finish()


class StreamReader:
    """Puts the events of a streamed answer together."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._first: float | None = None
        self._last = started
        self._text: list[str] = []
        self._finish = ""
        self._usage: dict[str, Any] = {}

    def take(self, line: str, now: float) -> str:
        """The text that a line of the stream adds; raises for an error event."""
        if not line.startswith("data:") or (data := line[5:].strip()) == "[DONE]":
            return ""
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(f"the answer broke off: {event['error'].get('message', 'no reason given')}")
        self._usage = event.get("usage") or self._usage
        piece = ""
        for choice in event.get("choices", ()):
            piece += choice.get("delta", {}).get("content") or ""
            self._finish = choice.get("finish_reason") or self._finish
        if piece:
            self._first = self._first or now
            self._last = now
            self._text.append(piece)
        return piece

    def finish(self) -> Answer:
        """The whole answer."""
        first = self._first or self._last
        tokens = int(self._usage.get("completion_tokens") or len(self._text))
        spent = self._last - first
        return Answer(
            text="".join(self._text),
            finish_reason=self._finish,
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            completion_tokens=tokens,
            ttft_ms=round((first - self._started) * 1000, 2),
            tokens_per_s=round((tokens - 1) / spent, 1) if spent > 0 and tokens > 1 else 0.0,
        )


def find_key(project: str) -> str | None:
    """The key kept for a project on this machine."""
    path = key_path(project)
    return read_secret(path) if path.exists() else None


def make_key(client: Client, project: str) -> str:
    """Makes a key for a project and keeps it in a file that only its owner can read."""
    made = client.keys.create(project, KEY_NAME)
    if not made.key:
        raise Unavailable("the platform made a key but did not show it; try again")
    write_secret(key_path(project), made.key)
    return made.key


def key_path(project: str) -> Path:
    """Where the key of a project is kept."""
    return find_home().secrets / f"chat-{re.sub(r'[^a-z0-9._-]', '-', project)}.key"


def rebuild_gateway_error(response: httpx.Response) -> FinmaasError:
    """The error that the gateway's OpenAI-shaped body tells of."""
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the gateway answered {response.status_code} {response.reason_phrase}"
    classes: dict[int, type[FinmaasError]] = {
        400: InvalidInput,
        401: NotAuthenticated,
        403: NotAllowed,
        404: NotFound,
        422: InvalidInput,
    }
    return classes.get(response.status_code, Unavailable)(message, status=response.status_code)
