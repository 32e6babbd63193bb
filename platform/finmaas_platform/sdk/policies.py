"""Guardrail policies of projects, and the proof that an answer came from this installation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finmaas_platform.sdk.objects import Policy, PolicyTrial, Proof, TextRule
from finmaas_platform.sdk.saved_answers import read_answer
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
