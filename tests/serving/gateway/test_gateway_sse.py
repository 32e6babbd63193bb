"""The stream rewriter against a slow, obvious one, on streams and cuts that hypothesis invents."""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import Any

import pytest
from gateway_parts import ENGINE_MODEL, events, usage
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import Corrupt
from finmaas_serving.gateway.sse import StreamRewriter

NASTY = st.one_of(
    st.text(),
    st.sampled_from(
        [f'"model":"{ENGINE_MODEL}"', ',"usage":{"prompt_tokens":1}', "data: [DONE]", "\n\n", '"choices":[]', "\\", '"']
    ),
)
TEXTS = st.lists(st.lists(NASTY, max_size=3).map("".join), max_size=6)


def obvious(data: bytes, show_usage: bool, show_continuous: bool) -> list[Any]:
    """What the client is to read, by decoding everything."""
    out: list[Any] = []
    for part in data.split(b"\n\n")[:-1]:
        if part == b"data: [DONE]":
            out.append("[DONE]")
            continue
        event = json.loads(part[6:])
        event["model"] = "chat"
        if event["choices"] and not show_continuous:
            event.pop("usage", None)
        if event["choices"] or show_usage:
            out.append(event)
    return out


def read(data: bytes) -> list[Any]:
    parts = [part[6:] for part in data.split(b"\n\n") if part]
    return ["[DONE]" if part == b"[DONE]" else json.loads(part) for part in parts]


class TestStreamRewriter:
    @given(TEXTS, st.lists(st.integers(0, 5000), max_size=8), st.booleans(), st.booleans(), st.booleans())
    def test_same_as_the_obvious_one_wherever_the_stream_is_cut(
        self, texts: list[str], cuts: list[int], show: bool, continuous: bool, spaced: bool
    ) -> None:
        show_continuous = show and continuous
        data = b"".join(events(texts))
        if spaced:  # not as vLLM writes it: the slow way
            parts = data.split(b"\n\n")[:-1]
            again = [b"data: " + json.dumps(json.loads(p[6:])).encode() if b"{" in p else p for p in parts]
            data = b"".join(part + b"\n\n" for part in again)
        rewriter = StreamRewriter(ENGINE_MODEL, "chat", show_usage=show, show_continuous=show_continuous)
        bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        out = b"".join(rewriter.feed(data[a:b]) for a, b in itertools.pairwise(bounds))
        assert read(out) == obvious(data, show, show_continuous)
        assert rewriter.done
        assert rewriter.usage is not None
        assert (rewriter.usage.prompt_tokens, rewriter.usage.completion_tokens) == (7, len(texts))

    def test_every_cut_in_two(self) -> None:
        data = b"".join(events(["Hel", "你好"]))
        for cut in range(len(data)):
            rewriter = StreamRewriter(ENGINE_MODEL, "chat")
            assert read(rewriter.feed(data[:cut]) + rewriter.feed(data[cut:])) == obvious(data, False, False)

    def test_an_abandoned_stream_is_counted_so_far(self) -> None:
        rewriter = StreamRewriter(ENGINE_MODEL, "chat")
        rewriter.feed(b"".join(events(["a", "b", "c"])[:2]))
        assert rewriter.usage is not None
        assert rewriter.usage.completion_tokens == 2
        assert not rewriter.done

    def test_choices_are_counted_apart_and_summed(self) -> None:
        """Two prompts with two samples each: vLLM counts every choice by itself."""
        rewriter = StreamRewriter(ENGINE_MODEL, "chat", samples=2, choices=4)
        for index, prompt, completion in [(0, 5, 1), (1, 5, 1), (2, 9, 1), (0, 5, 2), (3, 9, 4)]:
            event = {
                "model": ENGINE_MODEL,
                "choices": [{"index": index, "text": "x"}],
                "usage": usage(prompt, completion),
            }
            rewriter.feed(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")
        assert rewriter.usage is not None
        assert (rewriter.usage.prompt_tokens, rewriter.usage.completion_tokens) == (14, 8)

    def test_comments_pass(self) -> None:
        assert StreamRewriter("a", "b").feed(b": keep-alive\n\n") == b": keep-alive\n\n"

    def test_nothing_passes_after_done(self) -> None:
        assert StreamRewriter("a", "b").feed(b"data: [DONE]\n\ndata: {}\n\n") == b"data: [DONE]\n\n"

    @pytest.mark.parametrize("data", [b"<html>\n\n", b"data: nonsense\n\n", b'data: {"usage": \n\n'])
    def test_garbage_is_corrupt(self, data: bytes) -> None:
        with pytest.raises(Corrupt):
            StreamRewriter("a", "b").feed(data)

    @given(st.binary())
    def test_any_bytes_give_bytes_or_corrupt(self, data: bytes) -> None:
        with contextlib.suppress(Corrupt):
            StreamRewriter("a", "b").feed(data + b"\n\n")
