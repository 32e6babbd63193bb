"""The shapes of rows that can be learned from, and which column of a file plays which part. Pure.

classification   text, label
instruction      instruction, input (may be empty), output
chat             messages: [{role, content}, …], the last one the assistant's
preference       prompt, chosen, rejected
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from finmaas_core.errors import InvalidInput


class Shape(StrEnum):
    """What kind of example each row is."""

    CLASSIFICATION = "classification"
    INSTRUCTION = "instruction"
    CHAT = "chat"
    PREFERENCE = "preference"


# The parts of each shape, the most telling names first; all must be there but those in OPTIONAL.
PARTS: dict[Shape, dict[str, tuple[str, ...]]] = {
    Shape.CHAT: {"messages": ("messages", "conversations", "conversation", "对话")},
    Shape.PREFERENCE: {
        "prompt": ("prompt", "question", "instruction", "input", "问题"),
        "chosen": ("chosen", "preferred"),
        "rejected": ("rejected", "dispreferred"),
    },
    Shape.INSTRUCTION: {
        "instruction": ("instruction", "prompt", "question", "query", "指令", "问题"),
        "input": ("input", "context", "输入"),
        "output": ("output", "response", "answer", "completion", "输出", "回答", "答案"),
    },
    Shape.CLASSIFICATION: {
        "text": ("text", "sentence", "utterance", "content", "comment", "query", "question", "文本", "内容"),
        "label": ("label", "category", "intent", "class", "target", "标签", "类别", "意图"),
    },
}
OPTIONAL = {"input"}
# Which part `text=` and `label=` name in each shape.
_TEXT_PART = {
    Shape.CLASSIFICATION: "text",
    Shape.INSTRUCTION: "instruction",
    Shape.CHAT: "messages",
    Shape.PREFERENCE: "prompt",
}
_LABEL_PART = {Shape.CLASSIFICATION: "label", Shape.INSTRUCTION: "output", Shape.PREFERENCE: "chosen"}


@dataclass(frozen=True)
class Layout:
    """Which column of the file is which part; None for an optional part that is not there."""

    shape: Shape
    sources: dict[str, str | None]
    group: str | None = None


def decide_layout(
    file: str,
    columns: Sequence[str],
    shape: str | None = None,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
) -> Layout:
    """The layout that was asked for, or that the names of the columns tell. Raises InvalidInput, with near names."""
    for asked in (text, label, group):
        if asked is not None and asked not in columns:
            raise _no_column(file, asked, columns)
    wanted = _parse_shape(shape) if shape else _detect(file, columns, text, label)
    sources = {part: _source(part, names, columns) for part, names in PARTS[wanted].items()}
    if text is not None:
        sources[_TEXT_PART[wanted]] = text
    if label is not None:
        if wanted not in _LABEL_PART:
            raise InvalidInput(f"{file}: a {wanted} row has no label column; leave `label` out", file=file)
        sources[_LABEL_PART[wanted]] = label
    for part, source in sources.items():
        if source is None and part not in OPTIONAL:
            raise _no_part(file, wanted, part, columns)
    _check_distinct(file, wanted, sources)
    return Layout(wanted, sources, group)


def _parse_shape(shape: str) -> Shape:
    try:
        return Shape(shape)
    except ValueError as error:
        raise InvalidInput(f"{shape[:40]!r} is no shape; use {', '.join(Shape)}") from error


def _detect(file: str, columns: Sequence[str], text: str | None, label: str | None) -> Shape:
    if text is not None and label is not None:
        return Shape.CLASSIFICATION
    for shape, parts in PARTS.items():
        found = {part: _source(part, names, columns) for part, names in parts.items()}
        if text is not None:
            found[_TEXT_PART[shape]] = text
        if label is not None and shape in _LABEL_PART:
            found[_LABEL_PART[shape]] = label
        needed = [source for part, source in found.items() if part not in OPTIONAL]
        if None not in needed and len(set(needed)) == len(needed):
            return shape
    raise InvalidInput(
        f"{file}: its columns ({_list(columns)}) fit no shape: classification has text and label, instruction has "
        "instruction and output, chat has messages, preference has prompt, chosen and rejected; name the columns with "
        f"`text` and `label`{_hint(columns)}",
        file=file,
        columns=list(columns),
    )


def _source(part: str, names: Sequence[str], columns: Sequence[str]) -> str | None:
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in names if name in by_lower), None)


def _check_distinct(file: str, shape: Shape, sources: dict[str, str | None]) -> None:
    given = [source for source in sources.values() if source is not None]
    twice = next((source for source in given if given.count(source) > 1), None)
    if twice is not None:
        parts = " and ".join(part for part, source in sources.items() if source == twice)
        raise InvalidInput(f"{file}: the column {twice!r} cannot be both {parts} of a {shape} row", file=file)


def _no_column(file: str, asked: str, columns: Sequence[str]) -> InvalidInput:
    near = _near(asked, columns)
    hint = f"did you mean {near!r}?" if near else "name one of them"
    return InvalidInput(
        f"{file} has no column {asked!r}; it has {_list(columns)}; {hint}", file=file, columns=list(columns)
    )


def _no_part(file: str, shape: Shape, part: str, columns: Sequence[str]) -> InvalidInput:
    near = next((near for name in PARTS[shape][part] if (near := _near(name, columns))), None)
    hint = f"; is it {near!r}?" if near else ""
    how = {_TEXT_PART[shape]: " or name it with `text`"}.get(part) or (
        " or name it with `label`" if _LABEL_PART.get(shape) == part else ""
    )
    return InvalidInput(
        f"{file}: a {shape} row needs a column {part!r}, the file has {_list(columns)}{hint}; rename it{how}",
        file=file,
        columns=list(columns),
    )


def _hint(columns: Sequence[str]) -> str:
    known = [name for parts in PARTS.values() for names in parts.values() for name in names]
    for column in columns:
        near = _near(column.lower(), known)
        if near and near != column:
            return f" (is {column!r} meant as {near!r}?)"
    return ""


def _near(name: str, names: Sequence[str]) -> str | None:
    by_lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _list(columns: Sequence[str]) -> str:
    return ", ".join(columns[:20]) + (", …" if len(columns) > 20 else "")
