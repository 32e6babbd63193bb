"""Requests are screened in every text of theirs, and refused by name where they cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finmaas_core.errors import BlockedByPolicy, InvalidInput
from finmaas_serving.gateway.body import read_body
from finmaas_serving.guard.policy import Action, CustomRule, Guard, PolicyDocument, RuleUse
from finmaas_serving.guard.request import Substitutions, screen_request

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MASK = Guard(PolicyDocument(rules=(RuleUse("cn_mobile", Action.MASK), RuleUse("cloud_key", Action.BLOCK))))


def screen(body: Any, path: str = CHAT, guard: Guard = MASK, **dumps: Any) -> tuple[Any, Substitutions]:
    raw = json.dumps(body, **dumps).encode()
    screened, substitutions = screen_request(guard, path, raw, read_body(raw).fields)
    return None if screened is None else json.loads(screened), substitutions


def chat(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **more}


class TestMask:
    @pytest.mark.parametrize("ensure_ascii", [True, False])
    def test_clean_text_passes_byte_for_byte(self, ensure_ascii: bool) -> None:
        assert screen(chat("你好，hello\n“x”"), ensure_ascii=ensure_ascii)[0] is None

    @pytest.mark.parametrize(
        ("path", "body", "where"),
        [
            (CHAT, chat("电话13800138000。"), ["messages", 0, "content"]),
            (CHAT, chat([{"type": "text", "text": "电话13800138000。"}]), ["messages", 0, "content", 0, "text"]),
            (CHAT, chat("x", stop=["电话13800138000。"]), ["stop", 0]),
            (CHAT, chat("x", metadata={"a": {"b": "电话13800138000。"}}), ["metadata", "a", "b"]),
            (CHAT, chat("x", tools=[{"function": {"name": "电话13800138000。"}}]), ["tools", 0, "function", "name"]),
            (COMPLETIONS, {"model": "m", "prompt": ["a", "电话13800138000。"]}, ["prompt", 1]),
            (EMBEDDINGS, {"model": "m", "input": "电话13800138000。"}, ["input"]),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("ensure_ascii", [True, False])
    def test_every_text_is_reached(self, path: str, body: Any, where: list[Any], ensure_ascii: bool) -> None:
        screened, _ = screen(body, path, ensure_ascii=ensure_ascii)
        for step in where:
            screened = screened[step]
        assert screened == "电话[手机号]。"

    @pytest.mark.parametrize("hidden", ["１３８００１３８０００", "138\u200b0013\u200d8000", "138 0013-8000"])
    def test_disguises_do_not_help(self, hidden: str) -> None:
        screened, _ = screen(chat(f"电话{hidden}。"))
        assert screened["messages"][0]["content"] == "电话[手机号]。"

    def test_arguments_of_tools_are_read_as_json(self) -> None:
        arguments = '{"phone": "\\u0031380013\\u0038000"}'
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        screened, _ = screen({"model": "m", "messages": [message]})
        masked = screened["messages"][0]["tool_calls"][0]["function"]["arguments"]
        assert json.loads(masked) == {"phone": "[手机号]"}

    @pytest.mark.parametrize("number", ["13800138000", "13800138000.0", "1.3800138e10"])
    def test_numbers_that_tools_are_given_are_screened(self, number: str) -> None:
        arguments = f'{{"phone": {number}, "amount": 100000, "sure": true}}'
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        screened, _ = screen({"model": "m", "messages": [message]})
        masked = screened["messages"][0]["tool_calls"][0]["function"]["arguments"]
        assert json.loads(masked) == {"phone": "[手机号]", "amount": 100000, "sure": True}
        block = {"type": "tool_use", "id": "t", "name": "f", "input": json.loads(arguments)}
        raw = json.dumps({"model": "m", "max_tokens": 1, "messages": [{"role": "assistant", "content": [block]}]})
        found, _ = screen_request(MASK, "/v1/messages", raw.encode(), json.loads(raw))
        assert found is not None
        assert json.loads(found)["messages"][0]["content"][0]["input"] == json.loads(masked)

    def test_numbers_that_are_settings_and_the_model_stay(self) -> None:
        body = {**chat("电话13800138000。", seed=13800138000), "model": "m13800138000"}
        screened, _ = screen(body)
        assert (screened["seed"], screened["model"]) == (13800138000, "m13800138000")


class TestReplace:
    def test_the_same_value_has_the_same_name(self) -> None:
        guard = Guard(PolicyDocument(rules=(RuleUse("cn_mobile", Action.REPLACE),)))
        screened, substitutions = screen(chat("13800138000、13900139000，再次13800138000"), guard=guard)
        assert screened["messages"][0]["content"] == "<cn_mobile_1>、<cn_mobile_2>，再次<cn_mobile_1>"
        assert substitutions.by_name == {"<cn_mobile_1>": "13800138000", "<cn_mobile_2>": "13900139000"}


class TestRefusals:
    def test_a_blocked_text_is_named_but_not_repeated(self) -> None:
        with pytest.raises(BlockedByPolicy) as refused:
            screen(chat("AKIAIOSFODNN7EXAMPLE"))
        assert refused.value.details == {"param": "messages[0].content", "rule": "cloud_key"}
        assert "AKIA" not in refused.value.message

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            (CHAT, chat("x", extra_body={"a": 1}), "extra_body"),
            (CHAT, {"model": "m", "messages": [{"role": "user", "thoughts": "y"}]}, "messages[0].thoughts"),
            (CHAT, chat([{"type": "image_url", "image_url": {"url": "data:,"}}]), "messages[0].content[0]"),
            (CHAT, chat([{"type": "text", "text": "x", "more": "y"}]), "messages[0].content[0]"),
            (CHAT, chat({"text": "x"}), "messages[0].content"),
            (CHAT, {"model": "m", "messages": "x"}, "messages"),
            (CHAT, {"model": "m", "messages": ["x"]}, "messages[0]"),
            (COMPLETIONS, {"model": "m", "prompt": [1, 2, 3]}, "prompt"),
            (COMPLETIONS, {"model": "m", "prompt": [[1, 2], [3]]}, "prompt"),
            (EMBEDDINGS, {"model": "m", "input": [1, 2]}, "input"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_checked_is_named(self, path: str, body: Any, param: str) -> None:
        with pytest.raises(InvalidInput) as refused:
            screen(body, path)
        assert refused.value.details["param"] == param

    def test_names_of_fields_are_read_too(self) -> None:
        with pytest.raises(BlockedByPolicy, match="name of a field"):
            screen(chat("x", metadata={"13800138000": 1}))

    def test_without_a_guardrail_on_requests_everything_passes(self) -> None:
        guard = Guard(PolicyDocument(rules=(RuleUse("cn_mobile", Action.OFF, Action.MASK),)))
        assert screen(chat("13800138000", extra_body=1), guard=guard)[0] is None


class TestPolicy:
    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (PolicyDocument(rules=(RuleUse("nothing"),)), "no rule 'nothing'"),
            (PolicyDocument(rules=(RuleUse("email"), RuleUse("email"))), "given twice"),
            (PolicyDocument(rules=(RuleUse("email", output=Action.REPLACE),)), "for requests"),
            (PolicyDocument(custom=(CustomRule("email", "a", 1),)), "cannot be called"),
            (PolicyDocument(custom=(CustomRule("mine", "(", 1),)), "rule mine"),
            (PolicyDocument(phrases=("x",)), "2 to 60"),
            (PolicyDocument(disclaimer="x" * 501), "disclaimer"),
            (PolicyDocument(notice=" "), "notice is empty"),
        ],
    )
    def test_says_what_cannot_be_used(self, document: PolicyDocument, message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            Guard(document)

    def test_phrases_and_own_rules_work_both_ways(self) -> None:
        own = CustomRule("contract_number", r"HT-[0-9]{4}-[0-9]{6}", 14, r"HT0-9\-", "合同号", Action.MASK)
        guard = Guard(PolicyDocument(custom=(own,), phrases=("内幕消息", "C++ (beta)")))
        screened, _ = screen(chat("合同HT-2024-000123"), guard=guard)
        assert screened["messages"][0]["content"] == "合同[合同号]"
        for text in ("有内幕消息吗", "about c++ (BETA)"):
            with pytest.raises(BlockedByPolicy):
                screen(chat(text), guard=guard)
