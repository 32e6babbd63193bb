"""Reads an answer that somebody saved, whole or as the events of a stream, in every shape of the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finmaas_core.errors import InvalidInput

Texts = dict[int, str]


def read_answer(answer: str | bytes) -> tuple[dict[str, Any], Texts]:
    """The provenance of a saved answer and the texts that it seals, by choice, item or block."""
    text = answer.decode() if isinstance(answer, bytes) else answer
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    try:
        parts = [json.loads(line) for line in lines] or [json.loads(text)]
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the answer is neither JSON nor a stream of events: {error}") from None
    provenance: dict[str, Any] = {}
    texts: Texts = {}
    for part in parts:
        if not isinstance(part, dict):
            raise InvalidInput("the answer is not a JSON object")
        whole = part.get("response", part)  # the last event of a response holds it whole
        provenance = _join(provenance, whole.get("provenance"))
        try:
            _add_texts(texts, whole)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the answer is not as the gateway gives it: {error!r}") from None
    if not provenance:
        raise InvalidInput("the answer holds no provenance; turn `marks.provenance` on in the policy of its project")
    sealed = {item["index"] for item in provenance.get("content", ())}
    return provenance, {index: text for index, text in texts.items() if index in sealed}


def _add_texts(texts: Texts, part: Mapping[str, Any]) -> None:
    """Adds what this part says to the texts so far."""
    for choice in part.get("choices") or ():  # chat, completions
        said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        texts[choice["index"]] = texts.get(choice["index"], "") + (said.get("content") or "")
    if part.get("type") == "content_block_delta" and part["delta"].get("type") == "text_delta":
        texts[part["index"]] = texts.get(part["index"], "") + part["delta"]["text"]
    for index, block in enumerate(_list(part, "content")):  # Anthropic's messages
        if block["type"] == "text":
            texts[index] = block["text"]
    for index, item in enumerate(_list(part, "output")):  # responses
        if item["type"] == "message":
            texts[index] = "".join(one.get("text", "") for one in item["content"])


def _list(part: Mapping[str, Any], name: str) -> list[Any]:
    value = part.get(name)
    return value if isinstance(value, list) else []


def _join(known: dict[str, Any], found: object) -> dict[str, Any]:
    """The latest claim; a stream of several choices has one for each, and the last is checked."""
    return dict(found) if isinstance(found, dict) else known
