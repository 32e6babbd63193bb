"""Consent and retention of each row, read from columns that the importer names. Pure.

consent        yes or no (是, 否, true, 1 …), or the purposes consented to: `training; evaluation`. Empty is no.
retain_until   the last day on which the row may be used, 2027-12-31; empty is without end.

A version keeps them in `_consent` (`*`, or purposes between semicolons; empty: none) and `_retain_until`, where every
reader that trains looks.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from finmaas_core.errors import InvalidInput

CONSENT, RETAIN_UNTIL = "_consent", "_retain_until"
TRAINING = "training"
REFUSE, DROP = "refuse", "drop"
_YES = {"yes", "y", "true", "1", "all", "*", "是", "同意", "已同意"}
_NO = {"", "no", "n", "false", "0", "none", "withdrawn", "否", "不同意", "未同意", "已撤回"}
_PURPOSE = re.compile(r"[a-z0-9_\-\u4e00-\u9fff]{1,40}")


@dataclass(frozen=True)
class Tags:
    """Which columns hold consent, retention and the row's own id; what happens to rows without consent."""

    consent: str | None = None
    retain_until: str | None = None
    id: str | None = None
    purpose: str = TRAINING
    without_consent: str = REFUSE

    def __post_init__(self) -> None:
        if self.without_consent not in (REFUSE, DROP):
            raise InvalidInput(f"`without_consent` is {self.without_consent[:40]!r}; give refuse or drop")
        if not _PURPOSE.fullmatch(self.purpose):
            raise InvalidInput(f"{self.purpose[:40]!r} is no purpose; give one word such as training")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns named, that a file must have."""
        return tuple(column for column in (self.consent, self.retain_until, self.id) if column is not None)


class UnreadableTag(Exception):
    """A value that is no consent or no date; `at` is its row in the column."""

    def __init__(self, at: int, value: str) -> None:
        super().__init__(value)
        self.at, self.value = at, value


def parse_consents(texts: pa.Array) -> pa.Array:
    """A column of consents as `_consent` has them. Raises UnreadableTag."""
    return _parse_distinct(texts, parse_consent, pa.string())


def parse_dates(texts: pa.Array) -> pa.Array:
    """A column of days as dates. Raises UnreadableTag."""
    return _parse_distinct(texts, parse_date, pa.date32())


def parse_consent(text: str) -> str:
    """One consent; ValueError for what cannot be understood, which must not count as a yes."""
    plain = text.strip().casefold()
    if plain in _YES:
        return "*"
    if plain in _NO:
        return ""
    purposes = [part.strip() for part in re.split(r"[;,；，、|]", plain)]
    if all(_PURPOSE.fullmatch(part) and part not in _YES | _NO for part in purposes):
        return f";{';'.join(sorted(set(purposes)))};" if len(purposes) > 1 or purposes[0] in _KNOWN else _reject(text)
    return _reject(text)


_KNOWN = {"training", "evaluation", "serving", "research", "marketing", "analytics", "训练", "评测", "研究", "营销"}


def parse_date(text: str) -> dt.date | None:
    """One day, ISO 8601; a time of day after it is left out."""
    plain = text.strip()
    return dt.date.fromisoformat(plain[:10].replace("/", "-")) if plain else None


def allows(consents: pa.Array, purpose: str) -> pa.Array:
    """Which rows' `_consent` allows a purpose."""
    return pc.or_(pc.equal(consents, "*"), pc.match_substring(consents, f";{purpose.casefold()};"))


def find_usable(table: Any, today: dt.date, purpose: str = TRAINING) -> Any:
    """A mask of the rows that may be used for a purpose today; None when the table has no tags, so all may."""
    mask = None
    if CONSENT in table.column_names:
        mask = pc.fill_null(allows(table.column(CONSENT), purpose), False)
    if RETAIN_UNTIL in table.column_names:
        kept = pc.fill_null(pc.greater_equal(table.column(RETAIN_UNTIL), pa.scalar(today)), True)
        mask = kept if mask is None else pc.and_(mask, kept)
    return mask


def _parse_distinct(texts: pa.Array, parse: Callable[[str], Any], kind: pa.DataType) -> pa.Array:
    coded = pc.dictionary_encode(pc.fill_null(texts, ""))
    parsed = []
    for number, text in enumerate(coded.dictionary.to_pylist()):
        try:
            parsed.append(parse(text))
        except ValueError as error:
            raise UnreadableTag(pc.index(coded.indices, number).as_py(), text) from error
    return pa.array(parsed, kind).take(coded.indices)


def _reject(text: str) -> str:
    raise ValueError(text)
