"""The life of model versions: moves, aliases, history, and a project's rules of approval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finmaas_platform.sdk.objects import ApprovalRules, Model, ModelAlias, ModelEvent, ModelVersion, Verdict
from finmaas_platform.sdk.refs import DEFAULT_PROJECT, parse_ref
from finmaas_platform.sdk.transport import Transport


class ModelLife:
    """`client.models.life`. References are those of `client.models`, aliases included: `intents@production`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def validate(
        self, ref: str, project: str = DEFAULT_PROJECT, *, note: str = "", if_match: int | None = None
    ) -> ModelVersion:
        """Candidate to validated; Conflict where a rule of the project does not hold."""
        return self._move(ref, project, "validate", note, if_match)

    def approve(
        self, ref: str, project: str = DEFAULT_PROJECT, *, note: str = "", if_match: int | None = None
    ) -> ModelVersion:
        """Validated to approved; NotAllowed for its author, Conflict where a rule does not hold."""
        return self._move(ref, project, "approve", note, if_match)

    def reject(
        self, ref: str, project: str = DEFAULT_PROJECT, *, note: str = "", if_match: int | None = None
    ) -> ModelVersion:
        """Validated back to candidate."""
        return self._move(ref, project, "reject", note, if_match)

    def retire(
        self, ref: str, project: str = DEFAULT_PROJECT, *, note: str = "", if_match: int | None = None
    ) -> ModelVersion:
        """Ends a version's life; Conflict while it is in use."""
        return self._move(ref, project, "retire", note, if_match)

    def verdict(self, ref: str, project: str = DEFAULT_PROJECT, rules: Mapping[str, Any] | None = None) -> Verdict:
        """What the project's rules (or those given) say of a version; nothing is changed."""
        path = f"{version_path(self._http, ref, project)}/verdict"
        if rules is None:
            return Verdict.model_validate(self._http.get(path))
        return Verdict.model_validate(self._http.write("POST", path, dict(rules)))

    def history(
        self, name: str, project: str = DEFAULT_PROJECT, *, alias: str | None = None, limit: int | None = None
    ) -> Iterator[ModelEvent]:
        """Moves, newest first: of the version that `name` names, of one alias, else of the whole model."""
        ref = parse_ref(name, project, aliases=True)
        version = ref.alias or ref.version
        return self._http.pages(ModelEvent, f"/models/{ref.path}/history", limit=limit, version=version, alias=alias)

    def aliases(self, name: str, project: str = DEFAULT_PROJECT) -> Iterator[ModelAlias]:
        """The aliases of a model."""
        return self._http.pages(ModelAlias, f"/models/{parse_ref(name, project).path}/aliases")

    def alias(self, name: str, alias: str, project: str = DEFAULT_PROJECT) -> ModelAlias:
        """One alias; NotFound."""
        return ModelAlias.model_validate(self._http.get(f"/models/{parse_ref(name, project).path}/aliases/{alias}"))

    def set_alias(
        self, ref: str, alias: str, project: str = DEFAULT_PROJECT, *, note: str = "", if_match: int | None = None
    ) -> ModelAlias:
        """Points an alias at a version, at once for everybody. `if_match=0` makes a new one only."""
        parsed = parse_ref(ref, project, aliases=True)
        selector = version_path(self._http, ref, project).rpartition("/")[2]
        body = {"version": selector, "note": note}
        path = f"/models/{parsed.path}/aliases/{alias}"
        return ModelAlias.model_validate(self._http.write("PUT", path, body, if_match=if_match))

    def remove_alias(self, name: str, alias: str, project: str = DEFAULT_PROJECT) -> None:
        """Takes an alias away."""
        self._http.write("DELETE", f"/models/{parse_ref(name, project).path}/aliases/{alias}")

    def rules(self, project: str = DEFAULT_PROJECT) -> ApprovalRules:
        """The rules of a project; the default where none were set."""
        return ApprovalRules.model_validate(self._http.get(f"/approval-rules/{project}"))

    def set_rules(self, project: str, document: Mapping[str, Any], *, if_match: int | None = None) -> ApprovalRules:
        """Sets the rules of a project; InvalidInput names what cannot be used."""
        answer = self._http.write("PUT", f"/approval-rules/{project}", dict(document), if_match=if_match)
        return ApprovalRules.model_validate(answer)

    def _move(self, ref: str, project: str, verb: str, note: str, if_match: int | None) -> ModelVersion:
        path = f"{version_path(self._http, ref, project)}/{verb}"
        return ModelVersion.model_validate(self._http.write("POST", path, {"note": note}, if_match=if_match))


def version_path(http: Transport, text: str, project: str) -> str:
    """The path of the version that a reference names: by number, by alias, else the newest."""
    ref = parse_ref(text, project, aliases=True)
    selector = ref.alias or ref.version
    if selector is None:
        selector = Model.model_validate(http.get(f"/models/{ref.path}")).latest_version
    return f"/models/{ref.path}/versions/{selector}"
