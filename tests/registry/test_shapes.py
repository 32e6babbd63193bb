from __future__ import annotations

import pytest

from finmaas_core.errors import InvalidInput
from finmaas_registry.shapes import Layout, Shape, decide_layout


class TestDecideLayout:
    @pytest.mark.parametrize(
        ("columns", "asked", "expected"),
        [
            (["text", "label"], {}, Layout(Shape.CLASSIFICATION, {"text": "text", "label": "label"})),
            (["Text", "Category", "x"], {}, Layout(Shape.CLASSIFICATION, {"text": "Text", "label": "Category"})),
            (["文本", "标签"], {}, Layout(Shape.CLASSIFICATION, {"text": "文本", "label": "标签"})),
            (["a", "b"], {"text": "a", "label": "b"}, Layout(Shape.CLASSIFICATION, {"text": "a", "label": "b"})),
            (["utterance", "b"], {"label": "b"}, Layout(Shape.CLASSIFICATION, {"text": "utterance", "label": "b"})),
            (
                ["instruction", "output"],
                {},
                Layout(Shape.INSTRUCTION, {"instruction": "instruction", "input": None, "output": "output"}),
            ),
            (
                ["question", "answer", "context"],
                {},
                Layout(Shape.INSTRUCTION, {"instruction": "question", "input": "context", "output": "answer"}),
            ),
            (["messages", "text", "label"], {}, Layout(Shape.CHAT, {"messages": "messages"})),
            (
                ["prompt", "chosen", "rejected"],
                {},
                Layout(Shape.PREFERENCE, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
            ),
            (
                ["messages", "text", "label"],
                {"shape": "classification", "group": "messages"},
                Layout(Shape.CLASSIFICATION, {"text": "text", "label": "label"}, "messages"),
            ),
        ],
    )
    def test_tells_or_takes(self, columns: list[str], asked: dict[str, str], expected: Layout) -> None:
        assert decide_layout("rows.csv", columns, **asked) == expected

    @pytest.mark.parametrize(
        ("columns", "asked", "message"),
        [
            (["txt", "lable"], {}, "its columns .txt, lable. fit no shape.*'txt' meant as 'text'"),
            (
                ["text", "labels"],
                {"label": "label"},
                "has no column 'label'; it has text, labels; did you mean 'labels'",
            ),
            (["text", "topic"], {"shape": "classification"}, "needs a column 'label', the file has text, topic"),
            (["text", "labell"], {"shape": "classification"}, "is it 'labell'.*name it with `label`"),
            (["text", "label"], {"shape": "poem"}, "'poem' is no shape; use classification"),
            (["text", "b"], {"text": "text", "label": "text"}, "cannot be both text and label"),
            (["messages", "label"], {"shape": "chat", "label": "label"}, "a chat row has no label column"),
        ],
    )
    def test_says_what_is_wrong(self, columns: list[str], asked: dict[str, str], message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            decide_layout("rows.csv", columns, **asked)
