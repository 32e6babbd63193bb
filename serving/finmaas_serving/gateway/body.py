"""The body of a request: the fields the gateway reads or sets, and the bytes the engine gets instead.

Every other field travels on as the client wrote it, digit for digit: values are kept as raw JSON. What would make the
engine fetch something from elsewhere is refused; what decides over other tenants' requests is the gateway's to set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from finmaas_core.errors import InvalidInput

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.Encoder().encode


class StreamOptions(msgspec.Struct, forbid_unknown_fields=False):
    """The two options of a stream that say which usage the client wants to see."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


@dataclass(slots=True)
class CallBody:
    """What a request asks for, as far as the gateway cares."""

    fields: dict[str, msgspec.Raw]
    model: str
    stream: bool
    show_usage: bool  # the client wants the usage at the end of the stream
    show_continuous: bool  # … and with every chunk
    samples: int  # `n`, answers for each prompt
    choices: int  # answers in all: samples x prompts


def read_body(body: bytes) -> CallBody:
    """Reads a request's JSON; InvalidInput names the place (byte or field) that cannot be used."""
    try:
        body.decode()
        fields = _FIELDS.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply to be read") from None
    except msgspec.ValidationError:
        raise InvalidInput("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; it is {len(body)} bytes long") from None
    options = _field(fields, "stream_options", StreamOptions | None, None) or StreamOptions()
    if b"_url" in body or b"\\u" in body:
        _check_inline(fields)
    samples = _field(fields, "n", int | None, None) or 1
    stream = bool(_field(fields, "stream", bool | None, False))
    return CallBody(
        fields=fields,
        model=_model(fields),
        stream=stream,
        show_usage=bool(options.include_usage),
        show_continuous=bool(options.include_usage and options.continuous_usage_stats),
        samples=samples,
        choices=samples * _prompts(fields) if stream else samples,
    )


def engine_body(call: CallBody, model_name: str, cache_salt: str | None = None) -> bytes:
    """The body the engine gets: its own name of the model, the tenant's salt, for a stream usage with every chunk.

    With a salt, prompts of other tenants share no prefix cache with this one, so how quick an answer comes tells
    nothing of them (vLLM's `cache_salt`). A client's own salt and priority do not reach the engine.
    """
    fields: dict[str, Any] = dict(call.fields)
    fields["model"] = model_name
    fields.pop("priority", None)
    if cache_salt is not None:
        fields["cache_salt"] = cache_salt
    if call.stream:
        raw = fields.get("stream_options")
        options: dict[str, Any] = (_FIELDS.decode(raw) if raw and bytes(raw) != b"null" else None) or {}
        fields["stream_options"] = {**options, "include_usage": True, "continuous_usage_stats": True}
    return _encode(fields)


def _check_inline(fields: dict[str, msgspec.Raw]) -> None:
    """Images and the like come inside the request: the engine must not be made to fetch what a client names."""
    raw = fields.get("messages")
    if raw is None:
        return
    try:
        messages = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"`messages` cannot be used: {error}", param="messages") from None
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else ()):
            if isinstance(part, dict) and (name := _find_remote(part)):
                where = f"messages[{place}].content[{number}].{name}"
                raise InvalidInput(
                    f"`{where}` names something elsewhere, and nothing is fetched; send it inline as a data: URL",
                    param=where,
                )


def _find_remote(part: dict[str, Any]) -> str | None:
    """The field of a part that names something which does not lie in the request."""
    for name, value in part.items():
        if name.endswith("_url"):
            url = value.get("url") if isinstance(value, dict) else value
            if not isinstance(url, str) or not url.startswith("data:"):
                return name
    return None


def _model(fields: dict[str, msgspec.Raw]) -> str:
    if "model" not in fields:
        raise InvalidInput("you must provide a `model`", param="model", openai_code="missing_required_parameter")
    model: str = _field(fields, "model", str, "")
    return model


def _field(fields: dict[str, msgspec.Raw], name: str, kind: Any, default: Any) -> Any:
    raw = fields.get(name)
    if raw is None:
        return default
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"`{name}` cannot be used: {error}", param=name) from None


def _prompts(fields: dict[str, msgspec.Raw]) -> int:
    """How many prompts a completion has: a list may hold texts or token lists; a list of token ids is one prompt."""
    raw = fields.get("prompt")
    if raw is None or not bytes(raw).lstrip().startswith(b"["):
        return 1
    try:
        items = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"`prompt` cannot be used: {error}", param="prompt") from None
    return len(items) if items and bytes(items[0])[:1] in (b'"', b"[") else 1
