"""Principals: users and service accounts, with their role."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finmaas_core.errors import NotFound
from finmaas_platform.sdk.objects import Principal
from finmaas_platform.sdk.transport import Transport


class Principals:
    """`client.principals`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def list(self) -> Iterator[Principal]:
        """The principals in the caller's sight."""
        return self._http.pages(Principal, "/principals")

    def find(self, name_or_id: str) -> Principal:
        """A principal by its id or, if only one has it, its name; NotFound."""
        for principal in self.list():
            if name_or_id in (principal.id, principal.name):
                return principal
        raise NotFound(f"no principal {name_or_id!r} in your sight; `finmaas principal list` shows them")

    def create(self, name: str, role: str, tenant: str | None = None, kind: str = "user") -> Principal:
        """Makes a principal; `kind` is user or service."""
        body = {"name": name, "role": role, "tenant": tenant, "kind": kind}
        return Principal.model_validate(self._http.write("POST", "/principals", body))

    def update(
        self,
        principal_id: str,
        *,
        role: str | None = None,
        disabled: bool | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        if_match: int | None = None,
    ) -> Principal:
        """Changes role, disables and enables, or links to an identity of the provider (an empty subject unlinks)."""
        change: dict[str, Any] = {}
        if role is not None:
            change["role"] = role
        if disabled is not None:
            change["disabled"] = disabled
        if subject is not None:
            change["subject"] = subject
        if issuer is not None:
            change["issuer"] = issuer
        return Principal.model_validate(
            self._http.write("PATCH", f"/principals/{principal_id}", change, if_match=if_match)
        )
