"""What a request to `/v1/rerank` or `/v1/score` may hold while a guardrail looks at it: texts, or lists of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_serving.guard.request_rules import RequestRules, is_plain_text

_COMMON = """
    model user metadata truncate_prompt_tokens truncation_side padding max_tokens_per_query max_tokens_per_doc
    instruction use_activation chat_template_kwargs
"""
TEXTS = ("query", "documents", "queries", "items", "data_1", "data_2", "text_1", "text_2")


def _check_texts(value: Mapping[str, Any]) -> None:
    for name in TEXTS:
        given = value.get(name)
        for place, item in enumerate(given) if isinstance(given, list) else [(None, given)]:
            if item is not None and not isinstance(item, str):
                where = name if place is None else f"{name}[{place}]"
                raise InvalidInput(f"`{where}` is not text, which is all that guardrails can read", param=where)


def _is_plain(fields: Mapping[str, Any]) -> bool:
    return all(is_plain_text(fields[name]) for name in TEXTS if name in fields)


RERANK = RequestRules(frozenset((_COMMON + "query documents top_n return_documents").split()), _check_texts, _is_plain)
SCORE = RequestRules(frozenset((_COMMON + " ".join(TEXTS)).split()), _check_texts, _is_plain)
