"""Screens answers: whole ones and streams, each choice and each of its texts by itself; adds marks and disclaimers.

A stream lets go of text as soon as no rule can still want it. Arguments of tools are held until they are complete,
because what a JSON string means is known at its end; log-probabilities would tell what was masked, so they leave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

import msgspec
from mypy_extensions import mypyc_attr

from finmaas_core.errors import Corrupt
from finmaas_serving.guard.policy import SUBSTITUTION, Action, Guard
from finmaas_serving.guard.scanner import NOT_PLAIN_JSON, Hit, Scanner, compile_set
from finmaas_serving.guard.window import TextWindow, replace_all, tell_number

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode
_READ_TEXTS: Final = ("content", "refusal")
_HIDDEN_TEXTS: Final = ("reasoning", "reasoning_content")
_TOKENS: Final = ("logprobs", "prompt_logprobs", "token_ids", "prompt_token_ids")
_KNOWN_DELTA: Final = frozenset(("role", "tool_calls", *_READ_TEXTS, *_HIDDEN_TEXTS))
_CONTENT: Final = b'"content":"'
_INDEX: Final = b'"index":'
_FIRST: Final = b'"index":0,'
_SPECIAL: Final = compile_set([NOT_PLAIN_JSON, '"role"|"finish_reason":"'])
_NO_ENDING: Final = (b"", b"")


@mypyc_attr(allow_interpreted_subclasses=True)
class Seal:
    """Makes the provenance of one answer."""

    def claim(self, hashes: dict[int, str]) -> tuple[bytes, str]:
        """As JSON, from the SHA-256 of each choice's text; and the digest of the claim."""
        raise NotImplementedError


class Withheld(Exception):
    """A rule refuses the answer."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


@mypyc_attr(allow_interpreted_subclasses=True)
class TextScreen:
    """What every text of one answer goes through. `names`: the substitutions of its request.

    Raises Withheld where a rule refuses the answer.
    """

    def __init__(self, guard: Guard, names: dict[str, str], *, is_text: bool, seal: Seal | None) -> None:
        """`is_text`: people read the answer as it is; False for JSON, tools and code, which take no visible mark."""
        self.guard = guard
        self._names = names
        self.scanner = guard.restoring if names and guard.restoring is not None else guard.output.scanner
        self._tail_text = is_text
        self.claims: list[str] = []  # digests of the claims that were sealed
        self._seal = seal if guard.provenance else None
        self.withheld: str | None = None

    def whole(self, text: str) -> str:
        """A complete text."""
        return replace_all(self.scanner, text, self.replace)

    def window(self) -> TextWindow:
        """A text that comes in pieces."""
        return TextWindow(self.scanner, self.replace)

    def arguments(self, text: str) -> str:
        """The strings in a tool's arguments; what is not JSON is text."""
        try:
            value = _decode(text)
        except (msgspec.DecodeError, RecursionError):
            return self.whole(text)
        screened = self.walk(value)
        return text if screened == value else _encode(screened).decode()

    def walk(self, value: Any) -> Any:
        """Every string and number in a JSON value, names of fields included."""
        if isinstance(value, str):
            return self.whole(value)
        if isinstance(value, list):
            return [self.walk(item) for item in value]
        if isinstance(value, dict):
            return {self.whole(name): self.walk(item) for name, item in value.items()}
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = tell_number(value)
            screened = self.whole(text)
            return value if screened == text else screened
        return value

    def ending(self, text: str) -> str:
        """What policy appends to a text that people read."""
        return self.guard.ending(text) if self._tail_text else ""

    def replace(self, hit: Hit, found: str) -> str:
        """What stands in place of a match."""
        if hit.rule is SUBSTITUTION:
            return self._names.get(found, found)
        if self.guard.output.actions[hit.rule.name] is Action.BLOCK:
            raise Withheld(hit.rule.name)
        return f"[{hit.rule.label}]"

    def provenance(self, hashes: dict[int, str]) -> msgspec.Raw | None:
        """The sealed claim over texts by their place; None where policy asks for none."""
        return msgspec.Raw(self._sealed(self._seal, hashes)) if self._seal is not None and hashes else None

    def _sealed(self, seal: Seal, hashes: dict[int, str]) -> bytes:
        claim, digest = seal.claim(hashes)
        self.claims.append(digest)
        return claim


class AnswerScreen(TextScreen):
    """Screens answers to chats and completions."""

    def __init__(self, guard: Guard, names: dict[str, str], *, is_text: bool, seal: Seal | None) -> None:
        super().__init__(guard, names, is_text=is_text, seal=seal)
        self._choices: dict[int, _Choice] = {}
        self._latest = b""

    # Whole answers.

    def answer(self, body: bytes) -> bytes:
        """The body as the client may have it. Corrupt when it cannot be read, which means that it is not sent."""
        marked = mark_plain(self.guard, self.scanner, body, self._seal, is_text=self._tail_text)
        if marked is not None:
            if marked[1]:
                self.claims.append(marked[1])
            return marked[0]
        try:
            value = _decode(body)
            choices = value.get("choices", [])
            hashes = {choice["index"]: self._whole_choice(choice) for choice in choices}
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise Corrupt(f"its answer cannot be screened: {error!r}") from None
        self._drop_tokens(value)
        if self._seal is not None and hashes:
            value["provenance"] = msgspec.Raw(self._sealed(self._seal, hashes))
        return _encode(value)

    def _whole_choice(self, choice: dict[str, Any]) -> str:
        try:
            if "text" in choice:
                choice["text"] = self._finish(self.whole(choice["text"] or ""), bool(choice["text"]))
                text = choice["text"]
            else:
                text = self._whole_message(choice["message"])
        except Withheld as refusal:
            text = _withhold(choice, self.guard.notice(refusal.rule))
            self.withheld = refusal.rule
        self._drop_tokens(choice)
        return hashlib.sha256(text.encode()).hexdigest()

    def _drop_tokens(self, value: dict[str, Any]) -> None:
        """Takes out what tells a text token by token, where a rule may have changed the text."""
        for name in _TOKENS if self.guard.output.is_on else ():
            if value.get(name) is not None:
                value[name] = None

    def _whole_message(self, message: dict[str, Any]) -> str:
        for name in message.keys() - _KNOWN_DELTA:
            del message[name]
        for name in (*_READ_TEXTS, *_HIDDEN_TEXTS):
            if isinstance(message.get(name), str):
                message[name] = self.whole(message[name])
        for call in message.get("tool_calls") or ():
            call["function"]["arguments"] = self.arguments(call["function"].get("arguments") or "")
        content = message.get("content")
        if isinstance(content, str):
            message["content"] = content = self._finish(content, bool(content) and not message.get("tool_calls"))
        return content or ""

    def _finish(self, text: str, has_text: bool) -> str:
        return text + self.ending(text) if has_text else text

    # Streams.

    def event(self, event: bytes) -> bytes:
        """One event (`data: {…}`, without the blank line) as the client may have it; empty: nothing to send yet.

        Once a rule refused the text, `withheld` names it, and nothing more of the stream may be sent.
        """
        if (plain := self._plain_event(event)) is not None:
            return plain
        try:
            value = _decode(event[6:])
            choices = value.get("choices") or []
            keep = not choices
            if choices:
                self._latest = event
            for choice in choices:
                keep |= self._stream_choice(choice)
            self._drop_tokens(value)
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise Corrupt(f"an event of the stream cannot be screened: {error!r}") from None
        if not keep:
            return b""
        ended = {
            choice["index"]: self._choices[choice["index"]].digest()
            for choice in choices
            if choice.get("finish_reason")
        }
        if self._seal is not None and ended:
            value["provenance"] = msgspec.Raw(self._sealed(self._seal, ended))
        return b"data: " + _encode(value)

    def end(self) -> bytes:
        """An event with what is still held of choices that the engine ended without saying so; mostly empty."""
        left = [(index, state) for index, state in self._choices.items() if not state.finished]
        if not left:
            return b""
        latest = _decode(self._latest[6:])
        shape = "text" if "text" in latest["choices"][0] else "delta"
        empty: Callable[[], Any] = dict if shape == "delta" else str
        choices = [{"index": index, shape: empty(), "finish_reason": "stop"} for index, _ in left]
        return self.event(b"data: " + _encode({**latest, "choices": choices}))

    def _plain_event(self, event: bytes) -> bytes | None:
        """The usual event, a piece of one choice's text, screened without being decoded; None for others."""
        if _SPECIAL.Match(event) or event.count(_INDEX) != 1:
            return None
        at = event.find(_CONTENT)
        if at < 0 or event.find(_CONTENT, at + 1) >= 0:
            return None
        start = at + len(_CONTENT)
        end = event.index(b'"', start)
        try:
            text = event[start:end].decode()
            state = self._choice(_read_index(event))
        except ValueError:
            return None
        self._latest = event
        try:
            out = state.say(text)
        except Withheld as refusal:
            return self._withheld_event(event, refusal)
        if out == text:
            return event
        return event[:start] + _encode(out)[1:-1] + event[end:] if out else b""

    def _withheld_event(self, event: bytes, refusal: Withheld) -> bytes:
        value = _decode(event[6:])
        _withhold(value["choices"][0], self.guard.notice(refusal.rule))
        self.withheld = refusal.rule
        return b"data: " + _encode(value)

    def _choice(self, index: int) -> _Choice:
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _Choice(self)
        return state

    def _stream_choice(self, choice: dict[str, Any]) -> bool:
        """Screens the choice of an event in place; False when nothing of it is left to send."""
        state = self._choice(choice["index"])
        self._drop_tokens(choice)
        finished = bool(choice.get("finish_reason"))
        try:
            said = state.feed(choice, finished)
        except Withheld as refusal:
            _withhold(choice, self.guard.notice(refusal.rule))
            self.withheld = refusal.rule
            return True
        return said or finished


class _Choice:
    """The windows of one choice of a stream, by the name of the text."""

    def __init__(self, screen: AnswerScreen) -> None:
        self._screen = screen
        self._windows: dict[str, TextWindow] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._hash = hashlib.sha256()
        self._has_text = False
        self._said = ""  # for the disclaimer alone
        self.finished = False

    def digest(self) -> str:
        return self._hash.hexdigest()

    def say(self, text: str) -> str:
        """What can be let go of a piece of the answer's text, not its last."""
        return self._text("content", text, finished=False)

    def feed(self, choice: dict[str, Any], finished: bool) -> bool:
        """Screens the choice of an event in place; whether it says anything."""
        self.finished = finished
        if "delta" not in choice:
            choice["text"] = self._text("text", choice.get("text") or "", finished)
            return bool(choice["text"])
        delta = choice["delta"]
        said = bool(delta.get("role"))
        for name in delta.keys() - _KNOWN_DELTA:
            del delta[name]
        for name in _HIDDEN_TEXTS:
            said |= self._field(delta, name, finished)
        said |= self._field(delta, "refusal", finished)
        said |= self._field(delta, "content", finished)
        return self._tools(delta, finished) or said

    def _field(self, delta: dict[str, Any], name: str, finished: bool) -> bool:
        piece = delta.get(name)
        if piece is None and not (finished and (name in self._windows)):
            return False
        text = self._text(name, piece or "", finished)
        if text or piece is not None:
            delta[name] = text
        return bool(text)

    def _text(self, name: str, piece: str, finished: bool) -> str:
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = self._screen.window()
        out = window.feed(piece)
        if finished:
            out += window.flush()
        if name in ("content", "text"):
            self._has_text |= bool(piece)
            out = self._end(out) if finished else self._note(out)
        return out

    def _note(self, out: str) -> str:
        self._hash.update(out.encode())
        if self._screen.guard.disclaimer:
            self._said += out
        return out

    def _end(self, out: str) -> str:
        self._note(out)
        if not self._has_text or self._calls:
            return out
        ending = self._screen.ending(self._said)
        self._hash.update(ending.encode())
        return out + ending

    def _tools(self, delta: dict[str, Any], finished: bool) -> bool:
        """Gathers calls of tools and hands them out, whole, with the end of the choice."""
        for call in delta.pop("tool_calls", None) or ():
            known = self._calls.setdefault(call.get("index", 0), {"index": call.get("index", 0), "function": {}})
            for name in ("id", "type"):
                if call.get(name):
                    known[name] = call[name]
            function = call.get("function") or {}
            if function.get("name"):
                known["function"]["name"] = function["name"]
            if function.get("arguments"):
                known["function"]["arguments"] = known["function"].get("arguments", "") + function["arguments"]
        if not finished or not self._calls:
            return False
        for call in self._calls.values():
            call["function"]["arguments"] = self._screen.arguments(call["function"].get("arguments", ""))
        delta["tool_calls"] = list(self._calls.values())
        return True


def mark_plain(
    guard: Guard, scanner: Scanner, body: bytes, seal: Seal | None, *, is_text: bool = True
) -> tuple[bytes, str] | None:
    """The usual answer, marked without being decoded: one choice of text in which no rule matches; None for others.
    With it the digest of its claim, or nothing.

    In plain JSON a string ends at the next quote, and the bytes `"content":"` can be nothing but a key and the
    beginning of its text.
    """
    at = body.find(_CONTENT)
    if at < 0 or not body.endswith(b"}") or not scanner.is_plain(body):
        return None
    start = at + len(_CONTENT)
    end = body.index(b'"', start)  # no key stands inside the text, so only what is around it is searched
    before, text, after = body[:start], body[start:end], body[end:-1]
    if before.count(_INDEX) + after.count(_INDEX) != 1 or _CONTENT in after:
        return None
    try:
        text.decode()  # what is not text is not passed on
        index = 0 if _FIRST in before else _read_index(before if _INDEX in before else after)
    except ValueError:
        return None
    ending, written = guard.plain_ending(text) if text and is_text else _NO_ENDING
    if seal is None:
        return (b"%b%b%b%b}" % (before, text, written, after) if ending else body), ""
    claim, digest = seal.claim({index: hashlib.sha256(text + ending).hexdigest()})
    return b'%b%b%b%b,"provenance":%b}' % (before, text, written, after, claim), digest


def _read_index(data: bytes) -> int:
    """The number after the only `"index":`; ValueError when it is not one."""
    start = data.index(_INDEX) + len(_INDEX)
    end = start
    while data[end : end + 1].isdigit():
        end += 1
    return int(data[start:end])


def _withhold(choice: dict[str, Any], notice: str) -> str:
    """Puts the notice in place of everything that a choice says."""
    choice["finish_reason"] = "content_filter"
    choice["logprobs"] = None
    if "delta" in choice:
        choice["delta"] = {"content": notice}
    elif "message" in choice:
        choice["message"] = {"role": "assistant", "content": notice}
    else:
        choice["text"] = notice
    return notice
