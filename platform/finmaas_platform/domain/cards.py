"""The card of a model version, generated from what is known of it, as Markdown in English or Chinese. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class CardFacts:
    """What a card tells; refs are those of users, `origins` what it was made from, by kind."""

    ref: str
    kind: str
    state: str
    description: str
    digest: str
    size_bytes: int
    author: str
    created: str
    origins: Sequence[tuple[str, str]] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Mapping[str, Any]] = ()
    privacy: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    materials: Mapping[str, Any] = field(default_factory=dict)
    approvals: Sequence[str] = ()
    key_id: str | None = None


_WORDS: Mapping[Language, Mapping[str, str]] = {
    "en": {
        "title": "Model card", "about": "About", "kind": "Kind", "state": "State", "digest": "Digest",
        "size": "Size", "author": "By", "created": "Registered", "origins": "Made from", "none": "imported",
        "parameters": "Parameters", "evaluations": "Evaluations", "no_evaluations": "Not evaluated yet.",
        "dataset": "Dataset", "split": "Split", "data": "Data and privacy", "no_report": "no privacy report",
        "no_findings": "no personal data found", "code": "Code and machine", "approvals": "Approval",
        "no_approvals": "Not approved.", "signed": "Signed by key", "use": "Intended use and limits",
        "use_hint": "Say here what it is for, what it must not be used for, and who answers for it.",
    },
    "zh": {
        "title": "模型卡", "about": "基本信息", "kind": "类型", "state": "状态", "digest": "摘要",
        "size": "大小", "author": "作者", "created": "登记时间", "origins": "来源", "none": "外部导入",
        "parameters": "训练参数", "evaluations": "评测结果", "no_evaluations": "尚未评测。",
        "dataset": "数据集", "split": "划分", "data": "数据与隐私", "no_report": "没有隐私报告",
        "no_findings": "未发现个人信息", "code": "代码与机器", "approvals": "审批",
        "no_approvals": "尚未审批。", "signed": "签名密钥", "use": "用途与限制",
        "use_hint": "请在此说明用途、禁止用途以及责任人。",
    },
}  # fmt: skip
_STATES_ZH = {"candidate": "候选", "validated": "已验证", "approved": "已审批", "retired": "已退役"}
_KINDS_ZH = {"full": "完整权重", "adapter": "适配器", "merged": "合并"}


def render_card(facts: CardFacts, language: Language) -> str:
    """The card; the same facts give the same text."""
    words = _WORDS[language]
    parts = [f"# {words['title']}: {facts.ref}", facts.description, *_about(facts, words, language)]
    parts += _origins(facts, words) + _evaluations(facts, words) + _data(facts, words) + _code(facts, words)
    parts += [f"## {words['approvals']}", *([f"- {line}" for line in facts.approvals] or [words["no_approvals"]])]
    if facts.key_id:
        parts.append(f"- {words['signed']}: `{facts.key_id[:16]}`")
    parts += [f"## {words['use']}", f"*{words['use_hint']}*"]
    return _join(parts)


def _about(facts: CardFacts, words: Mapping[str, str], language: Language) -> list[str]:
    is_zh = language == "zh"
    rows = {
        "kind": _KINDS_ZH.get(facts.kind, facts.kind) if is_zh else facts.kind,
        "state": _STATES_ZH.get(facts.state, facts.state) if is_zh else facts.state,
        "digest": f"`{facts.digest[:16]}`",
        "size": f"{facts.size_bytes:,} B",
        "author": facts.author,
        "created": facts.created,
    }
    return [f"## {words['about']}", *(f"- {words[name]}: {value}" for name, value in rows.items())]


def _origins(facts: CardFacts, words: Mapping[str, str]) -> list[str]:
    lines = [f"- {kind}: `{ref}`" for kind, ref in facts.origins] or [f"- {words['none']}"]
    parts = [f"## {words['origins']}", *lines]
    if facts.parameters:
        told = ", ".join(f"`{name}={value}`" for name, value in sorted(facts.parameters.items()))
        parts += [f"## {words['parameters']}", told]
    return parts


def _evaluations(facts: CardFacts, words: Mapping[str, str]) -> list[str]:
    parts = [f"## {words['evaluations']}"]
    if not facts.evaluations:
        return [*parts, words["no_evaluations"]]
    for entry in facts.evaluations:
        scores = ", ".join(f"{name} {value:.4g}" for name, value in sorted(entry["scores"].items()))
        parts.append(f"- {words['dataset']} `{entry['dataset']}`, {words['split']} `{entry['split']}`: {scores}")
    return parts


def _data(facts: CardFacts, words: Mapping[str, str]) -> list[str]:
    if not facts.privacy:
        return []
    lines = []
    for ref, found in facts.privacy.items():
        told = words["no_report"] if found is None else ", ".join(found) or words["no_findings"]
        lines.append(f"- `{ref}`: {told}")
    return [f"## {words['data']}", *lines]


def _code(facts: CardFacts, words: Mapping[str, str]) -> list[str]:
    if not facts.materials:
        return []
    lines = []
    for name, value in facts.materials.items():
        told = len(value) if name == "packages" and isinstance(value, Mapping) else value
        text = ", ".join(f"{key} {one}" for key, one in told.items()) if isinstance(told, Mapping) else str(told)
        lines.append(f"- {name}: {text}")
    return [f"## {words['code']}", *lines]


def _join(parts: Sequence[str]) -> str:
    """Blank lines around headings and paragraphs, none between the items of a list."""
    text = ""
    previous = ""
    for part in parts:
        if not part:
            continue
        tight = part.startswith("- ") and previous.startswith("- ")
        text += ("" if not text else "\n" if tight else "\n\n") + part
        previous = part
    return f"{text}\n"
