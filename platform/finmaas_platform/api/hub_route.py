"""Errors as Hub clients understand them: `X-Error-Code` and `X-Error-Message`, and `{"error": …}` as the body.

A route class, because the rest of the API answers with problem documents. Routes that use it commit inside their own
`unit_of_work`, so that a failed commit passes here too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm.exc import StaleDataError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from finmaas_core.errors import Conflict, FinmaasError, InvalidInput, NotAuthenticated, VersionMismatch
from finmaas_platform.api.problems import HTTP_STATUS
from finmaas_platform.domain.hub import Missing

# Clients take any other 401 for "no such repository", because the public Hub answers so.
WRONG_CREDENTIALS = "Invalid credentials in Authorization header"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class HubRoute(APIRoute):
    """A route whose errors take the Hub's form."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except FinmaasError as error:
                return hub_error(error, sent_token="authorization" in request.headers)
            except RequestValidationError as error:
                said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
                return hub_error(InvalidInput(f"the request does not fit: {said}"))
            except StaleDataError:
                return hub_error(VersionMismatch("somebody else committed at the same time; refresh and try again"))
            except IntegrityError:
                return hub_error(Conflict("it clashes with a change made at the same time; refresh and try again"))

        return handle


def hub_error(error: FinmaasError, sent_token: bool = True) -> JSONResponse:
    """The answer that tells of an error."""
    status = _status_of(error)
    message = WRONG_CREDENTIALS if isinstance(error, NotAuthenticated) and sent_token else error.message
    headers = {"X-Error-Message": _as_header(message)}
    missing = Missing.REPO if isinstance(error, NotAuthenticated) and not sent_token else error.details.get("missing")
    if missing:
        headers["X-Error-Code"] = missing
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if commit := error.details.get("commit"):
        headers["X-Repo-Commit"] = str(commit)
    body = {**jsonable_encoder(error.details), "error": error.message, "code": error.code}
    return JSONResponse(body, status, headers)


def _status_of(error: FinmaasError) -> int:
    """As in the REST API, but for what the client sent: the Hub answers 400, and clients show its message only then."""
    return 400 if HTTP_STATUS[error.code] == 422 else HTTP_STATUS[error.code]


def _as_header(message: str) -> str:
    """One printable ASCII line; the body has the message as it is."""
    line = " ".join(message.replace("…", "...").split())[:1000]
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in line)
