"""`ETag` and `If-Match` over the integer `version` that changeable objects carry."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header, Response

from finmaas_core.errors import InvalidInput, VersionMismatch

_ETAG = re.compile(r'^(?:W/)?"?(\d+)"?$')


def _parse_if_match(
    if_match: Annotated[str | None, Header(description='The version that the change is based on, e.g. `"3"`.')] = None,
) -> int | None:
    if if_match is None or if_match == "*":
        return None
    found = _ETAG.match(if_match.strip())
    if found is None:
        raise InvalidInput(f'If-Match {if_match[:80]!r} is not a version; send the ETag you were given, e.g. "3"')
    return int(found.group(1))


# The version in If-Match, or None when the header is absent or `*`.
IfMatchDep = Annotated[int | None, Depends(_parse_if_match)]


def check_version(current: int, if_match: int | None) -> None:
    """Raises VersionMismatch when If-Match names another version than the current one."""
    if if_match is not None and if_match != current:
        raise VersionMismatch(
            f"If-Match names version {if_match}, it is now at {current}; read it again and repeat your change",
            current_version=current,
        )


def set_etag(response: Response, version: int) -> None:
    """Puts the version into the response's ETag."""
    response.headers["ETag"] = f'"{version}"'
