"""`Idempotency-Key`: a repeated write answers with the object that the first one made, and never again with a secret.

A key is scoped by principal, route and body: the same key with another body is a Conflict. Kept for a day.
Not for streamed bodies: blobs and dataset versions are named by their content and need no key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Header, Request
from pydantic import BaseModel
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse

from finmaas_core.errors import Conflict
from finmaas_platform.api.dependencies import AnyCallerDep, DepsDep
from finmaas_platform.db.base import SessionFactory, read_unit
from finmaas_platform.db.idempotency import IdempotencyRow

KEPT_FOR = timedelta(days=1)
REPLAYED = "Idempotency-Replayed"

V = TypeVar("V", bound=BaseModel)


@dataclass(frozen=True)
class Once:
    """One write with its key; without a key it just runs."""

    key: str | None
    principal_id: str
    route: str
    body: str
    now: datetime

    def run(
        self, session: Session, make: Callable[[], V], *, status: int = 201, secrets: frozenset[str] = frozenset()
    ) -> V | JSONResponse:
        """Runs `make` in the session's transaction, or answers what the first call answered.

        `secrets` names the fields that a replay shows as null. A route that uses this declares `response_model`.
        """
        if self.key is None:
            return make()
        row = session.get(IdempotencyRow, (self.principal_id, self.route, self.key)) or self._claim(session)
        if row.status:
            return self._replay(row)
        view = make()
        row.response = view.model_dump(mode="json") | dict.fromkeys(secrets)
        row.status = status
        return view

    def is_done(self, sessions: SessionFactory) -> bool:
        """Whether `run` will only answer what the first call answered; then nothing needs to be looked at for it."""
        if self.key is None:
            return False
        with read_unit(sessions) as session:
            row = session.get(IdempotencyRow, (self.principal_id, self.route, self.key))
            return row is not None and row.status != 0

    def _claim(self, session: Session) -> IdempotencyRow:
        """Takes the key, so that a call at the same time waits for this one; status 0 until the write is made."""
        session.execute(
            delete(IdempotencyRow).where(
                IdempotencyRow.principal_id == self.principal_id, IdempotencyRow.created_at < self.now - KEPT_FOR
            )
        )
        row = IdempotencyRow(
            principal_id=self.principal_id,
            route=self.route,
            key=self.key,
            body=self.body,
            status=0,
            response={},
            created_at=self.now,
        )
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            return session.get_one(IdempotencyRow, (self.principal_id, self.route, self.key))
        return row

    def _replay(self, row: IdempotencyRow) -> JSONResponse:
        if row.body != self.body:
            raise Conflict(f"Idempotency-Key {self.key} was used with another body; use a new key for a new request")
        return JSONResponse(row.response, row.status, _replay_headers(row.response))


def _replay_headers(response: dict[str, Any]) -> dict[str, str]:
    headers = {REPLAYED: "true"}
    if isinstance(version := response.get("revision", response.get("version")), int):
        headers["ETag"] = f'"{version}"'
    return headers


async def _get_once(
    request: Request,
    caller: AnyCallerDep,
    deps: DepsDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=200, description="Any text of yours; a repeated request with it is done once."),
    ] = None,
) -> Once:
    body = hashlib.sha256(await request.body()).hexdigest()
    return Once(idempotency_key, caller.id, f"{request.method} {request.url.path}", body, deps.clock.now())


OnceDep = Annotated[Once, Depends(_get_once)]
