"""Turns a reader's batch into rows of a shape: the parts, the file's other columns, tags, and `_row`.

Any row that cannot be learned from is a BadRow that names file, line and column. Other columns never fail: scalars keep
their type, lists and objects become JSON text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from finmaas_core.errors import BadRow
from finmaas_registry.readers.table import Limits, RawBatch, bad_row, check_cell
from finmaas_registry.shapes import OPTIONAL, PARTS, Layout, Shape
from finmaas_registry.tags import CONSENT, RETAIN_UNTIL, Tags, UnreadableTag, parse_consents, parse_dates

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ROLES = {"system", "user", "assistant", "tool"}
_ROLE_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
ROW, GROUP = "_row", "_group"

Turn = dict[str, str]
# A list of values, or an Arrow array, which mypy does not know.
Values: TypeAlias = Any


class Canonical:
    """Rows of one file in their shape. One object an import; `convert` is called batch by batch."""

    def __init__(self, file: str, place: str, layout: Layout, limits: Limits, tags: Tags | None = None) -> None:
        self._file = file
        self._place = place
        self._layout = layout
        self._limits = limits
        self._tags = tags or Tags()
        self._taken = {ROW, GROUP, CONSENT, RETAIN_UNTIL, *layout.sources}
        self._used = {*layout.sources.values(), self._tags.consent, self._tags.retain_until} - {None}

    def convert(self, batch: RawBatch) -> pa.RecordBatch:
        """The batch's rows. Raises BadRow for the first that cannot be used."""
        columns: dict[str, pa.Array] = {}
        for part, source in self._layout.sources.items():
            columns[part] = self._part(batch, part, source)
        for source, values in batch.columns.items():
            if source not in self._used:
                columns[self._free_name(source, batch)] = to_plain_column(values)
        for name, source, parse in (
            (CONSENT, self._tags.consent, parse_consents),
            (RETAIN_UNTIL, self._tags.retain_until, parse_dates),
        ):
            if source is not None:
                columns[name] = self._tag(batch, source, parse)
        columns[ROW] = pa.array(batch.lines, pa.int64())
        return pa.RecordBatch.from_pydict(columns)

    def given_groups(self, batch: RawBatch) -> list[str] | None:
        """What each row is grouped by, where a column was named for it."""
        source = self._layout.group
        if source is None:
            return None
        if source not in batch.columns:
            raise self._bad(batch, 0, "the key is missing", "every row needs a value to group by", source)
        given = self._texts(batch, source, batch.columns[source])
        groups: list[str] = self._check_filled(batch, source, given).to_pylist()
        return groups

    def ids(self, batch: RawBatch) -> list[str | None] | None:
        """Each row's own id as text, where a column was named for it."""
        source = self._tags.id
        if source is None:
            return None
        if source not in batch.columns:
            return [None] * len(batch.lines)
        ids: list[str | None] = self._texts(batch, source, batch.columns[source]).to_pylist()
        return ids

    def refuse(self, batch: RawBatch, at: int, problem: str, advice: str, column: str | None) -> BadRow:
        """The error for a row that is whole and may still not be taken."""
        return self._bad(batch, at, problem, advice, column or "")

    def _tag(self, batch: RawBatch, source: str, parse: Callable[[pa.Array], pa.Array]) -> pa.Array:
        if source not in batch.columns:
            texts = pa.nulls(len(batch.lines), pa.string())
        else:
            values = batch.columns[source]
            values = values.cast(pa.string()) if isinstance(values, pa.Array) else values
            texts = self._texts(batch, source, values)
        try:
            return parse(texts)
        except UnreadableTag as error:
            what, advice = (
                ("consent", "write yes, no, or purposes such as training;evaluation")
                if parse is parse_consents
                else ("day", "write it as 2027-12-31")
            )
            raise self._bad(batch, error.at, f"{error.value[:40]!r} is no {what}", advice, source) from error

    def _part(self, batch: RawBatch, part: str, source: str | None) -> pa.Array:
        if source is None or source not in batch.columns:
            if part not in OPTIONAL:
                raise self._bad(batch, 0, "the key is missing", "give every row one", source or part)
            return pa.array([""] * len(batch.lines), pa.string())
        values = batch.columns[source]
        if self._layout.shape is Shape.CHAT:
            return self._chats(batch, source, values)
        texts = self._texts(batch, source, values)
        if part in OPTIONAL:
            return pc.fill_null(texts, "")
        return self._check_filled(batch, source, texts)

    def _texts(self, batch: RawBatch, source: str, values: Values) -> pa.Array:
        try:
            texts = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
            texts = texts if pa.types.is_string(texts.type) else _scalars_to_text(texts)
        except (pa.ArrowException, TypeError):
            texts = pa.array([self._text(batch, at, source, value) for at, value in enumerate(values)], pa.string())
        longest = pc.max(pc.binary_length(texts)).as_py() or 0
        if longest > self._limits.cell_chars:
            for line, text in zip(batch.lines, texts.to_pylist(), strict=True):
                check_cell(self._file, line, source, text or "", self._limits, self._place)
        return texts

    def _text(self, batch: RawBatch, at: int, source: str, value: Any) -> str | None:
        """One value as text, slowly: called where a whole column could not be taken at once."""
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int | float):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise self._bad(batch, at, f"it holds a {type(value).__name__}, not text", "write it as text", source)
        return value

    def _check_filled(self, batch: RawBatch, source: str, texts: pa.Array) -> pa.Array:
        empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)
        at = pc.index(empty, True).as_py()
        if at >= 0:
            raise self._bad(batch, at, "it is empty", "fill it in or delete the row", source)
        return texts

    def _chats(self, batch: RawBatch, source: str, values: Values) -> pa.Array:
        given = values.to_pylist() if isinstance(values, pa.Array) else values
        return pa.array([self._chat(batch, at, source, value) for at, value in enumerate(given)], MESSAGES)

    def _chat(self, batch: RawBatch, at: int, source: str, value: Any) -> list[Turn]:
        if isinstance(value, str):
            try:
                value = msgspec.json.decode(value)
            except msgspec.DecodeError as error:
                raise self._bad(batch, at, f"it is not JSON ({error})", "write a list of messages", source) from error
        if not isinstance(value, list) or not value:
            advice = 'write a list such as [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'
            raise self._bad(batch, at, "it is not a list of messages", advice, source)
        turns = [self._turn(batch, at, source, number, turn) for number, turn in enumerate(value, start=1)]
        if turns[-1]["role"] != "assistant":
            problem = f"its last message is from {turns[-1]['role']}, so there is no answer to learn"
            raise self._bad(batch, at, problem, "end with the assistant's message or delete the row", source)
        return turns

    def _turn(self, batch: RawBatch, at: int, source: str, number: int, turn: Any) -> Turn:
        if not isinstance(turn, dict):
            raise self._bad(batch, at, f"message {number} is not an object", "give it a role and content", source)
        role = turn.get("role", turn.get("from"))
        role = _ROLE_NAMES.get(role, role) if isinstance(role, str) else role
        content = turn.get("content", turn.get("value"))
        if role not in ROLES:
            raise self._bad(
                batch, at, f"message {number} has the role {role!r}", f"use {', '.join(sorted(ROLES))}", source
            )
        if not isinstance(content, str) or (role == "assistant" and not content.strip()):
            raise self._bad(batch, at, f"message {number} has no text as content", "write its text", source)
        check_cell(self._file, batch.lines[at], source, content, self._limits, self._place)
        return {"role": str(role), "content": content}

    def _free_name(self, source: str, batch: RawBatch) -> str:
        """A column that bears a part's name without playing it is kept under another one."""
        name = source
        while name in self._taken or (name != source and name in batch.columns):
            name += "_original"
        return name

    def _bad(self, batch: RawBatch, at: int, problem: str, advice: str, column: str) -> BadRow:
        return bad_row(self._file, batch.lines[at], problem, advice, column, self._place)


def list_questions(shape: Shape, batch: pa.RecordBatch) -> list[str]:
    """What is asked in each row, the answer left out: by it rows are the same, near, and found again."""
    if shape is Shape.CHAT:
        chats = batch.column("messages").to_pylist()
        return ["\n".join(turn["content"] for turn in chat if turn["role"] != "assistant") for chat in chats]
    if shape is Shape.INSTRUCTION:
        pairs = zip(batch.column("instruction").to_pylist(), batch.column("input").to_pylist(), strict=True)
        return [f"{instruction}\n{given}" if given else instruction for instruction, given in pairs]
    texts: list[str] = batch.column(next(iter(PARTS[shape]))).to_pylist()
    return texts


def to_plain_column(values: Values) -> pa.Array:
    """A column that is kept as it is: scalars of one type, everything else as text (JSON for lists and objects)."""
    if isinstance(values, pa.Array):
        return values
    try:
        column = pa.array(values)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([_to_json(value) for value in values], pa.string())
    if pa.types.is_nested(column.type):
        return pa.array([_to_json(value) for value in values], pa.string())
    return column


def unify_types(types: Sequence[pa.DataType]) -> pa.DataType:
    """The one type for a column whose batches had these: numbers widen, whatever else differs becomes text."""
    known = [kind for kind in dict.fromkeys(types) if not pa.types.is_null(kind)]
    if not known:
        return pa.string()
    if len(known) == 1:
        return known[0]
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in known):
        return pa.float64()
    return pa.string()


def _scalars_to_text(column: pa.Array) -> pa.Array:
    if pa.types.is_null(column.type) or pa.types.is_boolean(column.type) or pa.types.is_integer(column.type):
        return column.cast(pa.string())
    raise TypeError(f"{column.type} has no one way to be text")


def _to_json(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
