"""Errors as `application/problem+json` (RFC 9457): the one table from error codes to HTTP statuses of the REST API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from finmaas_core.errors import (
    Conflict,
    FinmaasError,
    InvalidInput,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    StoreFull,
    Unavailable,
    VersionMismatch,
)
from finmaas_core.telemetry import get_logger

MEDIA_TYPE = "application/problem+json"

HTTP_STATUS: dict[str, int] = {
    "internal": 500,
    "bad_input": 422,
    "bad_row": 422,
    "invalid_spec": 422,
    "prompt_too_long": 422,
    "blocked_by_policy": 422,
    "not_authenticated": 401,
    "not_allowed": 403,
    "not_found": 404,
    "conflict": 409,
    "already_exists": 409,
    "version_mismatch": 412,
    "stale_attempt": 409,
    "limit_reached": 429,
    "corrupt": 422,
    "bad_signature": 422,
    "unavailable": 503,
    "store_full": 507,
    "wrong_schema": 503,
    "environment": 500,
}

# Statuses that Starlette itself raises (unknown path, wrong method), as codes of ours.
_CODE_OF_STATUS = {401: NotAuthenticated.code, 403: NotAllowed.code, 404: NotFound.code, 409: Conflict.code}


class Problem(BaseModel):
    """What went wrong. `code` is stable, `detail` says what, which, and what to do; more fields may follow by code."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str | None = None


def install_problem_handlers(app: FastAPI) -> None:
    """Makes every error that leaves a route a problem document."""

    @app.exception_handler(FinmaasError)
    def _finmaas(request: Request, error: FinmaasError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    def _validation(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem_response(_as_invalid_input(error))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODE_OF_STATUS.get(error.status_code, InvalidInput.code)
        return _respond(error.status_code, code, str(error.detail), {}, dict(error.headers or {}))

    @app.exception_handler(StaleDataError)
    def _stale(request: Request, error: StaleDataError) -> JSONResponse:
        return problem_response(VersionMismatch("somebody else changed it at the same time; read it again and retry"))

    @app.exception_handler(IntegrityError)
    def _integrity(request: Request, error: IntegrityError) -> JSONResponse:
        get_logger().warning("request.integrity_error", error=str(error.orig))
        return problem_response(Conflict("it clashes with a change made at the same time; read again and retry"))

    @app.exception_handler(OperationalError)
    def _database(request: Request, error: OperationalError) -> JSONResponse:
        get_logger().error("request.database_error", error=str(error.orig))
        return problem_response(_as_unavailable(error))


def problem_response(error: FinmaasError) -> JSONResponse:
    """The problem document of an error."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, NotAuthenticated) else {}
    return _respond(HTTP_STATUS[error.code], error.code, error.message, error.details, headers)


def unhandled_response() -> JSONResponse:
    """The problem document of a fault of ours; its cause is in the log, under the same request id."""
    detail = "the control plane met an error of its own; its log has the cause under this request_id"
    return _respond(500, FinmaasError.code, detail, {}, {})


def _respond(status: int, code: str, detail: str, details: dict[str, Any], headers: dict[str, str]) -> JSONResponse:
    body = jsonable_encoder(details) | {
        "type": f"urn:finmaas:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": structlog.contextvars.get_contextvars().get("request_id"),
    }
    return JSONResponse(body, status, headers, MEDIA_TYPE)


def _as_invalid_input(error: RequestValidationError) -> InvalidInput:
    faults = [{"where": ".".join(str(part) for part in fault["loc"]), "what": fault["msg"]} for fault in error.errors()]
    said = "; ".join(f"{fault['where']}: {fault['what']}" for fault in faults)
    return InvalidInput(f"the request does not fit: {said}", errors=faults)


def _as_unavailable(error: OperationalError) -> Unavailable:
    reason = str(error.orig)
    if "disk is full" in reason or "No space left" in reason:
        return StoreFull("the database has no room left; free space on its disk and retry")
    return Unavailable(f"the database does not answer ({reason.splitlines()[0][:200]}); retry shortly")
