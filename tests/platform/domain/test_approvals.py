"""Rules of approval and four eyes, as tables of cases."""

from __future__ import annotations

from typing import Any

import pytest

from finmaas_core.errors import Conflict, InvalidInput
from finmaas_platform.domain.approvals import (
    Evaluation,
    Facts,
    Person,
    decide_rules,
    find_four_eyes_fault,
    read_rules,
)
from finmaas_platform.domain.model_versions import (
    MOVES,
    Move,
    VersionState,
    check_alias,
    check_may_bear,
    check_move,
    check_servable,
)

ANN, BOB = Person("pri_ann", "ann"), Person("pri_bob", "bob")


class TestMoves:
    def test_every_pair_of_state_and_move(self) -> None:
        def outcome(state: VersionState, move: Move) -> str:
            try:
                return check_move("m@1", state, move).value
            except Conflict:
                return "–"

        table = {state.value: [outcome(state, move) for move in MOVES] for state in VersionState}
        assert [move.value for move in MOVES] == ["validate", "approve", "reject", "retire"]
        assert table == {
            "candidate": ["validated", "–", "–", "retired"],
            "validated": ["–", "approved", "candidate", "retired"],
            "approved": ["–", "–", "–", "retired"],
            "retired": ["–", "–", "–", "–"],
        }

    def test_a_refused_move_says_what_to_do(self) -> None:
        with pytest.raises(Conflict, match="finmaas model promote m@1"):
            check_move("m@1", VersionState.CANDIDATE, Move.APPROVE)

    @pytest.mark.parametrize(
        ("state", "alias", "endpoint"),
        [
            (VersionState.CANDIDATE, "protected", "production"),
            (VersionState.VALIDATED, "protected", "production"),
            (VersionState.RETIRED, "free", "any"),
        ],
    )
    def test_what_a_state_forbids(self, state: VersionState, alias: str, endpoint: str) -> None:
        with pytest.raises(Conflict):
            check_may_bear("m@1", state, "a", alias == "protected")
        with pytest.raises(Conflict):
            check_servable("m@1", state, endpoint == "production")

    def test_what_a_state_allows(self) -> None:
        check_may_bear("m@1", VersionState.APPROVED, "production", True)
        check_may_bear("m@1", VersionState.CANDIDATE, "canary", False)
        check_servable("m@1", VersionState.APPROVED, True)
        check_servable("m@1", VersionState.CANDIDATE, False)

    @pytest.mark.parametrize("name", ["", "3", "3a", "latest", "UP", "a/b", "a" * 65, "a-"])
    def test_names_that_are_no_alias(self, name: str) -> None:
        with pytest.raises(InvalidInput):
            check_alias(name)


class TestFourEyes:
    @pytest.mark.parametrize(
        ("author", "approver", "said"),
        [
            (ANN, BOB, None),
            (ANN, ANN, "is its author"),
            (None, BOB, "not known"),
            (ANN, Person("pri_bot", "bot", is_service=True), "service account"),
            (ANN, Person("pri_bob", "bob", made_by=frozenset({"pri_ann"})), "made the principal bob"),
            (Person("pri_ann", "ann", made_by=frozenset({"pri_bob"})), BOB, "bob made the principal"),
            (ANN, Person("pri_bob", "bob", token_holders=frozenset({"pri_ann"})), "may hold it"),
            (Person("pri_ann", "ann", token_holders=frozenset({"pri_bob"})), BOB, "may hold it"),
            (
                Person("pri_ann", "ann", token_holders=frozenset({"pri_admin"})),
                Person("pri_bob", "bob", token_holders=frozenset({"pri_admin"})),
                None,
            ),
        ],
    )
    def test_who_is_a_second_pair_of_eyes(self, author: Person | None, approver: Person, said: str | None) -> None:
        fault = find_four_eyes_fault(author, approver)
        assert (fault is None) == (said is None)
        assert said is None or said in str(fault)


def decide(rule: dict[str, Any], **facts: Any) -> tuple[bool, str]:
    (outcome,) = decide_rules(read_rules({"rules": [rule]}), Facts("m@1", **facts))
    assert outcome.why_zh
    return outcome.passed, outcome.why


OLD = Evaluation("job_1", "intents", "test", {"exact_match": 0.9, "tfidf_exact_match": 0.7})
NEW = Evaluation("job_2", "intents", "test", {"exact_match": 0.8, "tfidf_exact_match": 0.85})
OTHER = Evaluation("job_3", "faq", "test", {"exact_match": 0.99})


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "evaluations", "passed", "said"),
        [
            ({"at_least": 0.8}, [], False, "finmaas evaluate m@1"),
            ({"at_least": 0.8}, [OLD], True, "0.9 (job_1)"),
            ({"at_least": 0.85}, [OLD, NEW], False, "below 0.85 (job_2)"),
            ({"at_least": 0.85, "dataset": "intents"}, [OLD, OTHER], True, "job_1"),
            ({"at_least": 0.85, "split": "validation"}, [OLD], False, "no evaluation in validation"),
            ({"beats": "tfidf"}, [OLD], True, "job_1"),
            ({"beats": "tfidf"}, [NEW], False, "does not beat tfidf with 0.85"),
            ({"beats": "base"}, [OLD], False, "no exact_match of base"),
            ({"at_least": 0.5}, [Evaluation("job_4", "d", "test", {"exact_match": float("nan")})], False, "below"),
        ],
    )
    def test_metrics(self, rule: dict[str, Any], evaluations: list[Evaluation], passed: bool, said: str) -> None:
        found, why = decide({"kind": "metric", "metric": "exact_match", **rule}, evaluations=evaluations)
        assert (found, said in why) == (passed, True), why

    @pytest.mark.parametrize(
        ("rule", "privacy", "passed", "said"),
        [
            ({}, {}, False, "not trained here"),
            ({"imported_ok": True}, {}, True, "allows"),
            ({}, {"d@1": None}, False, "no privacy report"),
            ({}, {"d@1": []}, True, "no personal data"),
            ({}, {"d@1": ["id_card", "phone"]}, False, "id_card, phone"),
            ({"allow": ["phone"]}, {"d@1": ["phone"]}, True, "not allowed"),
        ],
    )
    def test_privacy(self, rule: dict[str, Any], privacy: dict[str, Any], passed: bool, said: str) -> None:
        found, why = decide({"kind": "no_privacy_finding", **rule}, privacy=privacy)
        assert (found, said in why) == (passed, True), why

    def test_bases_logins_and_tokens(self) -> None:
        assert decide({"kind": "signed_base"})[0]
        assert not decide({"kind": "signed_base"}, base="b@1", base_signed=False)[0]
        assert decide({"kind": "signed_base"}, base="b@1", base_signed=True)[0]
        assert not decide({"kind": "oidc_login"}, approver=BOB)[0]
        assert decide({"kind": "oidc_login"}, approver=Person("pri_bob", "bob", by_oidc=True))[0]
        both = frozenset({"pri_admin"})
        shared = {
            "author": Person("pri_ann", "ann", token_holders=both),
            "approver": Person("pri_bob", "bob", token_holders=both),
        }
        assert not decide({"kind": "own_tokens"}, **shared)[0]
        assert decide({"kind": "own_tokens"}, author=ANN, approver=BOB)[0]

    @pytest.mark.parametrize(
        ("document", "said"),
        [
            ({"rules": [{"kind": "nope"}]}, "kind"),
            ({"rules": [{"kind": "metric", "metric": "x"}]}, "at_least"),
            ({"protected_aliases": ["3"]}, "cannot be an alias"),
            ({"else": 1}, "else"),
        ],
    )
    def test_a_document_that_cannot_be_used_is_named(self, document: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidInput, match=said):
            read_rules(document)
