"""Names that users give to things, and the references built from them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from finmaas_core.errors import InvalidInput

NAME_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
_NAME = re.compile(NAME_PATTERN)


def check_name(text: str, what: str = "name") -> str:
    """Returns the name, or raises InvalidInput."""
    if not _NAME.fullmatch(text):
        raise InvalidInput(
            f"{text[:80]!r} cannot be a {what}; use 1 to 64 of a-z, 0-9, dot, dash and underscore, "
            "beginning and ending with a letter or digit"
        )
    return text


def split_project_ref(ref: str) -> tuple[str, str]:
    """`tenant/project` as its two names; InvalidInput for anything else."""
    parts = ref.split("/")
    if len(parts) != 2:
        raise InvalidInput(f"{ref[:160]!r} is not a project; write tenant/project, e.g. default/default")
    return check_name(parts[0], "tenant name"), check_name(parts[1], "project name")
