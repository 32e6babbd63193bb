"""From the API's problem documents back to the error classes that they tell of."""

from __future__ import annotations

from typing import Any

import httpx

from finmaas_core.errors import (
    Conflict,
    FinmaasError,
    InvalidInput,
    LimitReached,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Unavailable,
    all_error_classes,
)

_BY_CODE = {cls.code: cls for cls in all_error_classes()}
# For answers that are no problem document of ours: a proxy's page, a framework's own refusal.
_BY_STATUS: dict[int, type[FinmaasError]] = {
    400: InvalidInput,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InvalidInput,
    422: InvalidInput,
    429: LimitReached,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_FRAME = frozenset({"type", "title", "status", "code", "detail"})


def rebuild_error(response: httpx.Response) -> FinmaasError:
    """The error that a failed response tells of; its body must have been read."""
    document = _read_document(response)
    code = document.get("code")
    cls = _BY_CODE.get(code) if isinstance(code, str) else None
    cls = cls or _BY_STATUS.get(response.status_code, FinmaasError)
    details = {key: value for key, value in document.items() if key not in _FRAME}
    details["status"] = response.status_code
    return cls(_read_message(document, response), **details)


def _read_document(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_message(document: dict[str, Any], response: httpx.Response) -> str:
    detail = document.get("detail") or document.get("title")
    if isinstance(detail, str) and detail:
        return detail
    where = f"{response.request.method} {response.request.url.path}"
    return f"the server answered {response.status_code} {response.reason_phrase} to {where}, without saying why"
