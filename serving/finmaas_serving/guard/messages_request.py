"""What a request to `/v1/messages` may hold while a guardrail looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_serving.guard.request_rules import (
    RequestRules,
    are_plain_messages,
    check_keys,
    check_text_part,
    is_plain_text,
    items_of,
    unreadable,
)

_FIELDS = """
    model messages max_tokens metadata output_config stop_sequences stream system temperature thinking tool_choice tools
    top_k top_p service_tier chat_template_kwargs
"""
_MESSAGE = frozenset(("role", "content"))
_BLOCKS: Mapping[str, frozenset[str]] = {
    "text": frozenset(("type", "text", "cache_control", "citations")),
    "thinking": frozenset(("type", "thinking", "signature")),
    "tool_use": frozenset(("type", "id", "name", "input", "cache_control")),
    "tool_result": frozenset(("type", "tool_use_id", "content", "is_error", "cache_control")),
}
_TEXT_OF = {"text": "text", "thinking": "thinking"}
_TOOL = frozenset(("type", "name", "description", "input_schema", "strict", "cache_control"))


def _check_messages(value: Mapping[str, Any]) -> None:
    messages = value.get("messages")
    if not isinstance(messages, list):
        raise InvalidInput("`messages` must be a list", param="messages")
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise InvalidInput(f"`{where}` must be an object", param=where)
        check_keys(message, _MESSAGE, where)
        _check_content(message.get("content"), f"{where}.content", tuple(_BLOCKS))
    if value.get("system") is not None:
        _check_content(value["system"], "system", ("text",))
    for place, tool in enumerate(items_of(value.get("tools"), "tools")):
        _check_tool(tool, f"tools[{place}]")


def _check_content(content: object, where: str, kinds: tuple[str, ...]) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise InvalidInput(f"`{where}` must be text or a list of blocks", param=where)
    for place, block in enumerate(content):
        _check_block(block, f"{where}[{place}]", kinds)


def _check_block(block: object, where: str, kinds: tuple[str, ...]) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or kind not in kinds:
        raise unreadable(where, kind)
    check_keys(block, _BLOCKS[kind], where)
    if kind in _TEXT_OF:
        check_text_part({"type": kind, _TEXT_OF[kind]: block.get(_TEXT_OF[kind])}, where, _TEXT_OF)
    if block.get("citations"):
        raise InvalidInput(f"`{where}.citations` cannot be checked; leave it out", param=f"{where}.citations")
    if kind == "tool_result" and block.get("content") is not None:
        _check_content(block["content"], f"{where}.content", ("text",))


def _check_tool(tool: object, where: str) -> None:
    if not isinstance(tool, dict) or tool.get("type", "custom") != "custom":
        raise InvalidInput(
            f"`{where}` is not a tool that the client runs itself, so guardrails cannot watch it", param=where
        )
    check_keys(tool, _TOOL, where)


def _is_plain(fields: Mapping[str, Any]) -> bool:
    system = fields.get("system")
    return "tools" not in fields and are_plain_messages(fields) and (system is None or is_plain_text(system))


MESSAGES = RequestRules(frozenset(_FIELDS.split()), _check_messages, _is_plain)
