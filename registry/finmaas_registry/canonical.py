"""Turns a reader's batch into rows of a shape: the parts first, then the file's other columns, `_row` and `_group`.

Any row that cannot be learned from is a BadRow that names file, line and column. Other columns never fail: scalars keep
their type, lists and objects become JSON text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from finmaas_core.errors import BadRow
from finmaas_registry.readers.table import Limits, RawBatch, Table, bad_row, check_cell
from finmaas_registry.shapes import OPTIONAL, PARTS, Layout, Shape
from finmaas_registry.splits import hash_group, normalise_text

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
ROLES = {"system", "user", "assistant", "tool"}
_ROLE_NAMES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
ROW, GROUP = "_row", "_group"

Turn = dict[str, str]
# A list of values, or an Arrow array, which mypy does not know.
Values: TypeAlias = Any


class Canonical:
    """Rows of one file in their shape. One object an import; `convert` is called batch by batch."""

    def __init__(self, table: Table, layout: Layout, limits: Limits) -> None:
        self._table = table
        self._layout = layout
        self._limits = limits
        self._taken = {ROW, GROUP, *layout.sources}
        self._used = {source for source in layout.sources.values() if source is not None}

    def convert(self, batch: RawBatch) -> pa.RecordBatch:
        """The batch's rows. Raises BadRow for the first that cannot be used."""
        columns: dict[str, pa.Array] = {}
        for part, source in self._layout.sources.items():
            columns[part] = self._part(batch, part, source)
        for source, values in batch.columns.items():
            if source not in self._used:
                columns[self._free_name(source, batch)] = to_plain_column(values)
        columns[ROW] = pa.array(batch.lines, pa.int64())
        columns[GROUP] = pa.array(self._groups(batch, columns), pa.string())
        return pa.RecordBatch.from_pydict(columns)

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
                check_cell(self._table.name, line, source, text or "", self._limits, self._table.place)
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
        check_cell(self._table.name, batch.lines[at], source, content, self._limits, self._table.place)
        return {"role": str(role), "content": content}

    def _groups(self, batch: RawBatch, columns: dict[str, pa.Array]) -> list[str]:
        if self._layout.group is None:
            return [hash_group(normalise_text(text)) for text in self._questions(columns)]
        source = self._layout.group
        if source not in batch.columns:
            raise self._bad(batch, 0, "the key is missing", "every row needs a value to group by", source)
        given = self._texts(batch, source, batch.columns[source])
        return [hash_group(text) for text in self._check_filled(batch, source, given).to_pylist()]

    def _questions(self, columns: dict[str, pa.Array]) -> list[str]:
        """What is asked in each row, the answer left out: the key by which rows are the same."""
        if self._layout.shape is Shape.CHAT:
            chats = columns["messages"].to_pylist()
            return ["\n".join(turn["content"] for turn in chat if turn["role"] != "assistant") for chat in chats]
        if self._layout.shape is Shape.INSTRUCTION:
            pairs = zip(columns["instruction"].to_pylist(), columns["input"].to_pylist(), strict=True)
            return [f"{instruction}\n{given}" if given else instruction for instruction, given in pairs]
        texts: list[str] = columns[next(iter(PARTS[self._layout.shape]))].to_pylist()
        return texts

    def _free_name(self, source: str, batch: RawBatch) -> str:
        """A column that bears a part's name without playing it is kept under another one."""
        name = source
        while name in self._taken or (name != source and name in batch.columns):
            name += "_original"
        return name

    def _bad(self, batch: RawBatch, at: int, problem: str, advice: str, column: str) -> BadRow:
        return bad_row(self._table.name, batch.lines[at], problem, advice, column, self._table.place)


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
