"""Names as users write them: `name@3`, `name`, `tenant/project/name@3`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from finmaas_core.errors import InvalidInput

DEFAULT_PROJECT = "default/default"
_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_REF = re.compile(
    rf"^(?:(?P<project>{_NAME}/{_NAME})/)?(?P<name>{_NAME})(?:@(?:(?P<version>[1-9][0-9]*)|(?P<alias>[a-z][a-z0-9._-]*)))?$"
)


@dataclass(frozen=True)
class Ref:
    """A parsed reference; without `version` and `alias` it is the newest."""

    project: str
    name: str
    version: int | None = None
    alias: str | None = None

    @property
    def path(self) -> str:
        """The object's path below `/datasets`, `/models` or `/endpoints`."""
        return f"{self.project}/{self.name}"


def parse_ref(text: str, project: str = DEFAULT_PROJECT, *, aliases: bool = False) -> Ref:
    """Reads a reference; a bare name is one of `project`. InvalidInput for what is none. Models have `aliases`."""
    match = _REF.match(text)
    if match is None or (match["alias"] and not aliases):
        raise InvalidInput(f"{text!r} is not a name; write `name`, `name@3` or `tenant/project/name@3`, in lower case")
    version = match["version"]
    return Ref(match["project"] or project, match["name"], int(version) if version else None, match["alias"])
