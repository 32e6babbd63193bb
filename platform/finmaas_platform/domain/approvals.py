"""Who may approve a model version, and what it must hold to: four eyes, and a project's rules as data. Pure.

A rule says what it wants; `decide_rules` says of each whether it holds and why, in English and Chinese. What is not
known does not hold: a rule never passes for want of a report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from finmaas_core.errors import InvalidInput
from finmaas_platform.domain.model_versions import check_alias

MAX_RULES = 50


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MetricRule(_Rule):
    """A figure of the newest matching evaluation is high enough, or not below that of a baseline."""

    kind: Literal["metric"] = "metric"
    metric: str = Field(min_length=1, max_length=100, examples=["exact_match"])
    at_least: float | None = None
    beats: Literal["base", "majority", "tfidf"] | None = None
    dataset: str | None = Field(None, max_length=64, description="Name of the dataset that was asked.")
    split: str | None = Field(None, max_length=20)

    @model_validator(mode="after")
    def _asks_something(self) -> MetricRule:
        if self.at_least is None and self.beats is None:
            raise ValueError("give `at_least`, `beats`, or both")
        return self


class PrivacyRule(_Rule):
    """The privacy report of the data that it learned from names no kind of personal data but the allowed."""

    kind: Literal["no_privacy_finding"]
    allow: tuple[str, ...] = Field(default=(), max_length=50)
    imported_ok: bool = Field(False, description="Whether a version that was not trained here may pass.")


class SignedBaseRule(_Rule):
    """The version that it was made from bears a signature that holds; one that was made from none passes."""

    kind: Literal["signed_base"]


class OidcRule(_Rule):
    """The approver has logged in with the bank's identity provider: no token that somebody else could hold."""

    kind: Literal["oidc_login"]


class OwnTokensRule(_Rule):
    """No third person has made the tokens of both author and approver."""

    kind: Literal["own_tokens"]


Rule = Annotated[MetricRule | PrivacyRule | SignedBaseRule | OidcRule | OwnTokensRule, Field(discriminator="kind")]


class Rules(BaseModel):
    """What a project asks of a version before it is validated and approved."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[Rule, ...] = Field(default=(), max_length=MAX_RULES)
    protected_aliases: tuple[str, ...] = Field(default=("production",), max_length=50)


@dataclass(frozen=True)
class Person:
    """One who acts: `made_by` are the creators of the principal, theirs, and those who linked it to a
    login; `token_holders` may hold the token too."""

    id: str
    name: str
    made_by: frozenset[str] = frozenset()
    token_holders: frozenset[str] = frozenset()
    is_service: bool = False
    by_oidc: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation said."""

    job_id: str
    dataset: str
    split: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Facts:
    """What is known of a version. `privacy` maps each dataset version it learned from to its findings (None: no
    report); `base_signed` is None where there is no base. `approver` is None while nobody approves yet."""

    ref: str
    evaluations: Sequence[Evaluation] = ()
    privacy: Mapping[str, Sequence[str] | None] = field(default_factory=dict)
    base: str | None = None
    base_signed: bool | None = None
    author: Person | None = None
    approver: Person | None = None


@dataclass(frozen=True)
class Outcome:
    """Whether a rule holds, and why."""

    rule: Mapping[str, Any]
    passed: bool
    why: str
    why_zh: str

    def as_json(self) -> dict[str, Any]:
        return {"rule": dict(self.rule), "passed": self.passed, "why": self.why, "why_zh": self.why_zh}


def read_rules(document: Mapping[str, Any]) -> Rules:
    """The rules in a document; InvalidInput names what cannot be used in it."""
    try:
        rules = Rules.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InvalidInput(f"the rules cannot be used: {faults}") from error
    for alias in rules.protected_aliases:
        check_alias(alias)
    return rules


def find_four_eyes_fault(author: Person | None, approver: Person) -> str | None:
    """Why these two are not two pairs of eyes; None when they are."""
    if approver.is_service:
        return f"{approver.name} is a service account; only people approve"
    if author is None:
        return "its author is not known, so nobody can be told from them; register it again"
    if author.id == approver.id:
        return f"{approver.name} is its author; somebody else must approve it"
    if author.id in approver.made_by:
        return f"{author.name}, its author, made the principal {approver.name} or linked its login; ask another"
    if approver.id in author.made_by:
        return f"{approver.name} made the principal of its author, {author.name}, or linked its login; ask another"
    if author.id in approver.token_holders:
        return f"{author.name}, its author, made the token in use, and may hold it; log in with `finmaas login`"
    if approver.id in author.token_holders:
        return f"{approver.name} made the token that it was registered with, and may hold it; ask another approver"
    return None


def decide_rules(rules: Rules, facts: Facts) -> tuple[Outcome, ...]:
    """What each rule says of a version."""
    return tuple(_decide(rule, facts) for rule in rules.rules)


def describe_failures(outcomes: Sequence[Outcome]) -> str:
    """The failed rules in one line; empty when all hold."""
    return "; ".join(outcome.why for outcome in outcomes if not outcome.passed)


def _decide(rule: Rule, facts: Facts) -> Outcome:
    match rule:
        case MetricRule():
            passed, why, why_zh = _decide_metric(rule, facts)
        case PrivacyRule():
            passed, why, why_zh = _decide_privacy(rule, facts)
        case SignedBaseRule():
            passed, why, why_zh = _decide_base(facts)
        case OidcRule():
            passed, why, why_zh = _decide_login(facts)
        case OwnTokensRule():
            passed, why, why_zh = _decide_tokens(facts)
    return Outcome(rule.model_dump(mode="json", exclude_none=True), passed, why, why_zh)


_Said = tuple[bool, str, str]


def _decide_metric(rule: MetricRule, facts: Facts) -> _Said:
    asked = " ".join(filter(None, (rule.dataset and f"on {rule.dataset}", rule.split and f"in {rule.split}")))
    matching = [
        one
        for one in facts.evaluations
        if rule.dataset in (None, one.dataset) and rule.split in (None, one.split) and rule.metric in one.scores
    ]
    if not matching:
        where = f" {asked}" if asked else ""
        return (
            False,
            f"no evaluation{where} gives {rule.metric}; run `finmaas evaluate {facts.ref} <dataset>`",
            f"没有评测给出指标 {rule.metric}{'（' + asked + '）' if asked else ''}，请先运行评测",
        )
    scores, job = matching[-1].scores, matching[-1].job_id
    value = scores[rule.metric]
    if rule.at_least is not None and not value >= rule.at_least:
        return (
            False,
            f"{rule.metric} is {value:.4g}, below {rule.at_least:.4g} ({job})",
            f"{rule.metric} 为 {value:.4g}，低于要求的 {rule.at_least:.4g}（{job}）",
        )
    if rule.beats is not None:
        other = scores.get(f"{rule.beats}_{rule.metric}")
        if other is None:
            return False, f"{job} gives no {rule.metric} of {rule.beats} to beat", f"{job} 没有 {rule.beats} 的对照结果"
        if not value > other:
            return (
                False,
                f"{rule.metric} is {value:.4g} and does not beat {rule.beats} with {other:.4g} ({job})",
                f"{rule.metric} 为 {value:.4g}，未超过 {rule.beats} 的 {other:.4g}（{job}）",
            )
    return True, f"{rule.metric} is {value:.4g} ({job})", f"{rule.metric} 为 {value:.4g}（{job}）"


def _decide_privacy(rule: PrivacyRule, facts: Facts) -> _Said:
    if not facts.privacy:
        if rule.imported_ok:
            return True, "it was not trained here, which the rule allows", "非本平台训练，规则允许"
        return False, "it was not trained here: nothing can be said of its data", "非本平台训练，无法说明其训练数据"
    for ref, findings in facts.privacy.items():
        if findings is None:
            return (
                False,
                f"{ref} has no privacy report; import it again to get one",
                f"{ref} 没有隐私报告，请重新导入以生成",
            )
        bad = sorted(set(findings) - set(rule.allow))
        if bad:
            return False, f"{ref} holds {', '.join(bad)}", f"{ref} 含有个人信息：{', '.join(bad)}"
    refs = ", ".join(facts.privacy)
    return True, f"no personal data that is not allowed in {refs}", f"{refs} 中未发现不允许的个人信息"


def _decide_base(facts: Facts) -> _Said:
    if facts.base is None:
        return True, "it was made from no other version", "没有基座版本"
    if facts.base_signed:
        return True, f"{facts.base} bears a signature that holds", f"基座 {facts.base} 的签名有效"
    return (
        False,
        f"{facts.base} bears no signature that holds; approve it first",
        f"基座 {facts.base} 没有有效签名，请先审批基座",
    )


def _decide_login(facts: Facts) -> _Said:
    if facts.approver is None:
        return True, "is asked of the approver", "将在审批时检查"
    if facts.approver.by_oidc:
        return True, f"{facts.approver.name} has logged in", f"{facts.approver.name} 已通过统一身份登录"
    return (
        False,
        f"{facts.approver.name} uses an access token; approve after `finmaas login`",
        f"{facts.approver.name} 使用的是访问令牌，请先 finmaas login 登录",
    )


def _decide_tokens(facts: Facts) -> _Said:
    if facts.approver is None or facts.author is None:
        return True, "is asked of the approver", "将在审批时检查"
    if shared := facts.author.token_holders & facts.approver.token_holders:
        who = ", ".join(sorted(shared))
        return (
            False,
            f"{who} made the tokens of both author and approver; approve after `finmaas login`",
            f"作者与审批人的令牌均由 {who} 创建，请先 finmaas login 登录",
        )
    return True, "nobody has made the tokens of both", "作者与审批人的令牌并非同一人创建"
