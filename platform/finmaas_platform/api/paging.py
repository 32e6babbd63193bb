"""Cursor paging: a cursor names the last row that was shown, so that pages stay right while rows come and go."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from finmaas_core.errors import InvalidInput

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

R = TypeVar("R")
T = TypeVar("T")

LimitParam = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="How many items at most.")]
CursorParam = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True)
class RowPage(Generic[R]):
    """One page of rows, before they become views."""

    rows: Sequence[R]
    next_cursor: str | None

    def view(self, to_view: Callable[[R], T]) -> Page[T]:
        """The page as the API shows it."""
        return Page(items=[to_view(row) for row in self.rows], next_cursor=self.next_cursor)


def paginate(
    session: Session,
    query: Select[R],
    key: InstrumentedAttribute[Any],
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    *,
    newest_first: bool = True,
) -> RowPage[R]:
    """One page of `query`, ordered by `key`: a unique column of the selected row, best its id, which sorts by time.

    InvalidInput for a cursor that no page of ours gave out.
    """
    if cursor is not None:
        last = _decode(cursor)
        query = query.where(key < last if newest_first else key > last)
    query = query.order_by(None).order_by(key.desc() if newest_first else key.asc())
    found = list(session.scalars(query.limit(limit + 1)).unique())
    rows = found[:limit]
    more = len(found) > limit
    return RowPage(rows, _encode(getattr(rows[-1], key.key)) if more else None)


def _encode(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _decode(cursor: str) -> str | int:
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError as error:
        raise _wrong_cursor(cursor) from error
    if not isinstance(value, str | int):
        raise _wrong_cursor(cursor)
    return value


def _wrong_cursor(cursor: str) -> InvalidInput:
    return InvalidInput(f"{cursor[:80]!r} is not a cursor; give `next_cursor` of the page before, or leave it out")
