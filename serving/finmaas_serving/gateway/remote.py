"""Nothing is fetched for a client: what a request names must lie in the request. One rule for every shape of the API.

Looked at are content parts and blocks (`…_url`, `file_id`, `source` of the type url or file, references to stored
items), and tools that would be run elsewhere. Arguments and schemas of tools are data and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput

_DATA = frozenset(("input", "arguments", "parameters", "input_schema", "schema", "text", "metadata"))
_ELSEWHERE = ("server_url", "connector_id")


def refuse_remote(raw: bytes, fields: Mapping[str, msgspec.Raw], names: Iterable[str]) -> None:
    """InvalidInput names the first part of these fields that lies elsewhere."""
    if not _may_name_something(raw):
        return
    for name in names:
        if name in fields:
            found = _find(_decode(fields[name], name), name)
            if found is not None:
                raise InvalidInput(
                    f"`{found}` names something elsewhere, and nothing is fetched; send it inline (images as a data: "
                    "URL or base64)",
                    param=found,
                )


def check_tools(fields: Mapping[str, msgspec.Raw]) -> None:
    """Refuses tools that the engine would reach over the network."""
    raw = fields.get("tools")
    tools = None if raw is None else _decode(raw, "tools")
    for place, tool in enumerate(tools if isinstance(tools, list) else ()):
        for name in _ELSEWHERE:
            if isinstance(tool, dict) and tool.get(name) is not None:
                where = f"tools[{place}].{name}"
                raise InvalidInput(f"`{where}` names a server elsewhere, and none is asked from here", param=where)


def _may_name_something(raw: bytes) -> bool:
    """Written out, because it is asked of every request and a generator costs ten times the searches."""
    return (
        b"_url" in raw
        or b"\\u" in raw
        or b"file_id" in raw
        or b"item_reference" in raw
        or b'"url"' in raw
        or b'"file"' in raw
        or b"container" in raw
    )


def _decode(raw: msgspec.Raw, name: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"`{name}` cannot be used: {error}", param=name) from None


def _find(value: Any, where: str) -> str | None:
    """Where something is named that does not lie in the request; None: nowhere."""
    if isinstance(value, list):
        return next((found for at, item in enumerate(value) if (found := _find(item, f"{where}[{at}]"))), None)
    if not isinstance(value, dict):
        return None
    if value.get("type") == "item_reference":
        return f"{where}.id"
    for name, item in value.items():
        if _is_remote(name, item, value):
            return f"{where}.{name}"
        if name not in _DATA and (found := _find(item, f"{where}.{name}")):
            return found
    return None


def _is_remote(name: str, item: Any, holder: Mapping[str, Any]) -> bool:
    if name.endswith("_url"):
        url = item.get("url") if isinstance(item, dict) else item
        return not (isinstance(url, str) and url.startswith("data:"))
    if name == "file_id":
        return item is not None
    # Anthropic's sources: {"type": "url", "url": …} and {"type": "file", "file_id": …}.
    return name == "source" and isinstance(item, dict) and item.get("type") not in ("base64", "text", "content")
