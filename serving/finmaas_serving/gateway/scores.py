"""Rerank and score: texts in, numbers out; neither is streamed."""

from __future__ import annotations

from finmaas_core.errors import InvalidInput
from finmaas_serving.gateway.body import CallBody, read_fields, read_plain_call
from finmaas_serving.gateway.remote import refuse_remote
from finmaas_serving.guard.scores_request import TEXTS


def read_call(raw: bytes) -> CallBody:
    """Reads a request; InvalidInput names the field that cannot be used."""
    fields = read_fields(raw)
    refuse_remote(raw, fields, TEXTS)
    call = read_plain_call(raw, fields)
    if call.stream:
        raise InvalidInput("`stream` cannot be used here: the answer comes in one piece", param="stream")
    return call
