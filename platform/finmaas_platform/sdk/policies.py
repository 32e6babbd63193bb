"""Guardrail policies of projects, and the proof that an answer came from this installation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_platform.sdk.objects import Policy, PolicyTrial, Proof, TextRule
from finmaas_platform.sdk.transport import Transport


class Policies:
    """`client.policies`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Iterator[Policy]:
        """The policies in the caller's sight."""
        return self._http.pages(Policy, "/policies")

    def rules(self) -> Iterable[TextRule]:
        """The built-in rules."""
        return [TextRule.model_validate(rule) for rule in self._http.get("/policies/rules")]

    def strict(self) -> dict[str, Any]:
        """The document of the strict preset."""
        document: dict[str, Any] = self._http.get("/policies/presets/strict")
        return document

    def get(self, project: str) -> Policy:
        """The policy of a project; NotFound when it has none."""
        return Policy.model_validate(self._http.get(f"/policies/{project}"))

    def set(self, project: str, document: Mapping[str, Any], if_match: int | None = None) -> Policy:
        """Sets it; InvalidInput names what cannot be used. `if_match` refuses to overwrite a newer version."""
        return Policy.model_validate(self._http.write("PUT", f"/policies/{project}", dict(document), if_match=if_match))

    def remove(self, project: str) -> None:
        """Takes it away; NotFound when there is none."""
        self._http.write("DELETE", f"/policies/{project}")

    def test(
        self, text: str, project: str | None = None, document: Mapping[str, Any] | None = None, direction: str = "input"
    ) -> PolicyTrial:
        """What a policy (the project's, a given one, else the strict one) does to a text."""
        body = {"text": text, "direction": direction, "project": project, "document": document}
        return PolicyTrial.model_validate(self._http.write("POST", "/policies/trials", body))

    def prove(self, answer: str | bytes) -> Proof:
        """Checks a saved answer: JSON, or the events of a stream. InvalidInput when it holds no provenance."""
        provenance, texts = read_answer(answer)
        content = [
            {"index": index, "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for index, text in sorted(texts.items())
        ]
        return Proof.model_validate(
            self._http.write("POST", "/provenance/proofs", {"provenance": provenance, "content": content})
        )

    def provenance_key(self) -> str:
        """The public key (PEM) with which proofs can be checked anywhere."""
        return str(self._http.get("/provenance/key")["public_key"])


def read_answer(answer: str | bytes) -> tuple[dict[str, Any], dict[int, str]]:
    """The provenance of a saved answer and the text of each of its choices."""
    text = answer.decode() if isinstance(answer, bytes) else answer
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    try:
        parts = [json.loads(line) for line in lines] or [json.loads(text)]
    except json.JSONDecodeError as error:
        raise InvalidInput(f"the answer is neither JSON nor a stream of events: {error}") from None
    provenance: dict[str, Any] = {}
    texts: dict[int, str] = {}
    for part in parts:
        if not isinstance(part, dict):
            raise InvalidInput("the answer is not a JSON object")
        provenance = _join(provenance, part.get("provenance"))
        for choice in part.get("choices") or ():
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            texts[choice["index"]] = texts.get(choice["index"], "") + (said.get("content") or "")
    if not provenance:
        raise InvalidInput("the answer holds no provenance; turn `marks.provenance` on in the policy of its project")
    sealed = {item["index"] for item in provenance.get("content", ())}
    return provenance, {index: text for index, text in texts.items() if index in sealed}


def _join(known: dict[str, Any], found: object) -> dict[str, Any]:
    """The latest claim; a stream of several choices has one for each, and the last is checked."""
    return dict(found) if isinstance(found, dict) else known
