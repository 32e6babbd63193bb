"""The body of a request: the fields the gateway reads or sets, and the bytes the engine gets instead.

Every other field travels on as the client wrote it, digit for digit: values are kept as raw JSON. What would make the
engine fetch something from elsewhere is refused; what decides over other tenants' requests is the gateway's to set.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from finmaas_core.errors import InvalidInput
from finmaas_serving.gateway.remote import refuse_remote
from finmaas_serving.gateway.schemas import StreamOptions, UsualChat
from finmaas_serving.guard.request_rules import are_plain_messages

OVERRIDDEN: Final = frozenset(
    ("priority", "cache_salt", "kv_transfer_params", "ec_transfer_params", "request_id", "session_id")
)
"""What the engine would take from a client and the gateway decides: whose turn it is, what is shared with whom."""
_BOUND_TO_A_GRAMMAR: Final = frozenset(
    ("guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs")
)
_MESSAGES: Final = ("messages",)
_MODEL_NAME: Final = b'"model"'
_STREAM_OPTIONS: Final = b'"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.Encoder().encode
_decode_text: Final = msgspec.json.Decoder(str).decode


_NO_OPTIONS: Final = StreamOptions()


class CallBody:
    """What a request asks for, as far as the gateway cares."""

    __slots__ = (
        "_fields", "choices", "model", "plain", "raw", "samples", "show_continuous", "show_usage", "stream", "usual",
    )  # fmt: skip

    def __init__(
        self, raw: bytes, model: str, *, fields: dict[str, msgspec.Raw] | None, stream: bool, show_usage: bool,
        show_continuous: bool = False, samples: int = 1, choices: int = 1, plain: bool = False,
        usual: UsualChat | None = None,
    ) -> None:  # fmt: skip
        self.raw = raw  # as the client wrote it
        self._fields = fields
        self.model = model
        self.stream = stream
        self.show_usage = show_usage  # the client wants the usage at the end of the stream
        self.show_continuous = show_continuous  # … and with every chunk
        self.samples = samples  # `n`, answers for each prompt
        self.choices = choices  # answers in all: samples x prompts
        self.plain = plain  # `messages` are known to be texts alone
        self.usual = usual  # where the whole request is the usual one

    @property
    def fields(self) -> dict[str, msgspec.Raw]:
        """The values as they were written, by name."""
        if self._fields is None:
            self._fields = _FIELDS.decode(self.raw)
        return self._fields


_decode_usual: Final = msgspec.json.Decoder(UsualChat).decode


def read_fields(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a request's JSON, values unread; InvalidInput names the place that cannot be used."""
    try:
        body.decode()
        return _FIELDS.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply to be read") from None
    except msgspec.ValidationError:
        raise InvalidInput("the body must be a JSON object") from None
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}; it is {len(body)} bytes long") from None


def read_body(body: bytes) -> CallBody:
    """Reads a chat, completion or embedding; InvalidInput names the place (byte or field) that cannot be used."""
    usual = read_usual(body)
    return _read_unusual(body) if usual is None else usual_body(body, usual)


def read_usual(body: bytes) -> UsualChat | None:
    """A chat as nearly every client writes it; None for any other."""
    try:
        return _decode_usual(body)
    except (msgspec.DecodeError, RecursionError):
        return None


def usual_body(body: bytes, usual: UsualChat) -> CallBody:
    """What a usual chat asks for."""
    options = usual.stream_options or _NO_OPTIONS
    shows = bool(options.include_usage)
    return CallBody(
        body,
        usual.model,
        fields=None,
        stream=usual.stream,
        show_usage=shows,
        show_continuous=shows and bool(options.continuous_usage_stats),
        samples=usual.n or 1,
        choices=usual.n or 1,
        plain=True,
        usual=usual,
    )


def _read_unusual(body: bytes) -> CallBody:
    fields = read_fields(body)
    options = _NO_OPTIONS
    if "stream_options" in fields:
        options = _field(fields, "stream_options", StreamOptions | None, None) or _NO_OPTIONS
    plain = are_plain_messages(fields)
    if not plain:  # texts name nothing that could be fetched
        refuse_remote(body, fields, _MESSAGES)
    if "store" in fields and _field(fields, "store", bool | None, None):
        raise InvalidInput("`store` cannot be used: answers are not stored here; leave it out", param="store")
    samples = (_field(fields, "n", int | None, None) or 1) if "n" in fields else 1
    stream = "stream" in fields and bool(_field(fields, "stream", bool | None, False))
    return CallBody(
        body,
        _model(fields),
        fields=fields,
        stream=stream,
        show_usage=bool(options.include_usage),
        show_continuous=bool(options.include_usage and options.continuous_usage_stats),
        samples=samples,
        choices=samples * _prompts(fields) if stream else samples,
        plain=plain,
    )


def read_plain_call(raw: bytes, fields: dict[str, msgspec.Raw]) -> CallBody:
    """A call that gives one answer, with its usage wherever its shape puts it."""
    stream = bool(_field(fields, "stream", bool | None, False))
    return CallBody(raw, _model(fields), fields=fields, stream=stream, show_usage=True)


def engine_body(call: CallBody, model_name: str, cache_salt: str | None = None) -> bytes:
    """The body the engine gets: its own name of the model, the tenant's salt, for a stream usage with every chunk."""
    if call.usual is not None:
        usual = usual_engine_body(call.raw, call.usual, model_name, cache_salt)
        if usual is not None:
            return usual
    fields = _engine_fields(call, model_name, cache_salt)
    if call.stream:
        raw = fields.get("stream_options")
        options: dict[str, Any] = (_FIELDS.decode(raw) if raw and bytes(raw) != b"null" else None) or {}
        fields["stream_options"] = {**options, "include_usage": True, "continuous_usage_stats": True}
    return _encode(fields)


def usual_engine_body(raw: bytes, usual: UsualChat, model_name: str, cache_salt: str | None) -> bytes | None:
    """The same without writing the fields anew: the model's name is replaced where it stands; None where it does not
    stand there once and plainly. What is added stands in front: the usual fields are none of it."""
    old, spaced, new = _model_fields(usual.model, model_name)
    at = raw.find(_MODEL_NAME)
    if at < 0 or raw[:1] != b"{":
        return None
    after = at + (len(old) if raw.startswith(old, at) else len(spaced) if raw.startswith(spaced, at) else 0)
    if after == at or raw.find(_MODEL_NAME, after) >= 0:
        return None
    added = b"" if cache_salt is None else b'"cache_salt":"%b",' % cache_salt.encode()
    if usual.stream:
        if usual.stream_options is not msgspec.UNSET:
            return None
        added += _STREAM_OPTIONS
    return b"".join((b"{", added, raw[1:at], new, raw[after:]))


@lru_cache(maxsize=4096)
def _model_fields(public_model: str, model_name: str) -> tuple[bytes, bytes, bytes]:
    """As clients write it, with a space and without, and as it is sent."""
    public, own = _encode(public_model), _encode(model_name)
    return b'"model":%b' % public, b'"model": %b' % public, b'"model":%b' % own


def plain_engine_body(call: CallBody, model_name: str, cache_salt: str | None = None) -> bytes:
    """The same for shapes that tell usage unasked."""
    return _encode(_engine_fields(call, model_name, cache_salt))


def _engine_fields(call: CallBody, model_name: str, cache_salt: str | None) -> dict[str, Any]:
    """With a salt, prompts of other tenants share no prefix cache with this one, so how quick an answer comes tells
    nothing of them (vLLM's `cache_salt`). What a client says of cache, priority or transfers does not reach the engine.
    """
    fields: dict[str, Any] = dict(call.fields)
    if not OVERRIDDEN.isdisjoint(fields):
        fields = {name: value for name, value in fields.items() if name not in OVERRIDDEN}
    fields["model"] = model_name
    if cache_salt is not None:
        fields["cache_salt"] = cache_salt
    return fields


def is_for_readers(fields: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a visible mark may stand in the answer: not in what a program reads. Calls of tools never take one."""
    if not _BOUND_TO_A_GRAMMAR.isdisjoint(fields):
        return False
    wanted = fields.get("response_format")
    return wanted is None or bytes(wanted).strip() in (b"null", b'{"type":"text"}', b'{"type": "text"}')


def _model(fields: dict[str, msgspec.Raw]) -> str:
    if "model" not in fields:
        raise InvalidInput("you must provide a `model`", param="model", openai_code="missing_required_parameter")
    try:
        return _decode_text(fields["model"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"`model` cannot be used: {error}", param="model") from None


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
