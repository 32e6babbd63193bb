"""The commands of a model's life and papers, against the real application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _tiny(finmaas: Run, model_folder: Path) -> None:
    """`tiny@1` and `tiny@2`."""
    assert finmaas("model", "import", str(model_folder), "--name", "tiny").code == 0
    (model_folder / "extra.json").write_text("{}")
    assert finmaas("model", "import", str(model_folder), "--name", "tiny").code == 0


class TestLife:
    def test_from_candidate_to_alias(self, finmaas: Run) -> None:
        assert "Next, by an approver" in finmaas("model", "promote", "tiny@1").err
        refused = finmaas("model", "approve", "tiny@1")
        assert (refused.code, "is its author" in refused.err) == (1, True)
        assert finmaas("model", "promote", "tiny@1", "--to", "canary", "--json").json["points_at"].endswith("tiny@1")
        assert finmaas("model", "alias", "set", "canary", "tiny@2", "-m", "better").code == 0
        assert finmaas("model", "show", "tiny@canary", "--json").json["version"] == 2
        assert "better" in finmaas("model", "history", "tiny", "--alias", "canary").out
        assert "canary→@2" in finmaas("model", "list").out
        assert "tiny@2" in finmaas("model", "alias", "list", "tiny").out
        refused = finmaas("model", "promote", "tiny@2", "--to", "production")
        assert (refused.code, "protected alias" in refused.err) == (1, True)
        assert finmaas("model", "alias", "remove", "canary", "tiny", "--json").json == {"removed": "canary"}
        assert finmaas("model", "reject", "tiny@1", "--json").json["state"] == "candidate"
        assert finmaas("model", "retire", "tiny@1", "--json").json["state"] == "retired"

    def test_rules(self, finmaas: Run, tmp_path: Path) -> None:
        (tmp_path / "rules.yaml").write_text("rules:\n- kind: metric\n  metric: exact_match\n  at_least: 0.9\n")
        tried = finmaas("model", "rules", "try", "tiny@1", "--file", str(tmp_path / "rules.yaml"))
        assert (tried.code, "finmaas evaluate" in tried.out, "评测" in tried.out) == (3, True, True)
        assert finmaas("model", "rules", "set", str(tmp_path / "rules.yaml"), "--json").json["version"] == 1
        assert "at_least: 0.9" in finmaas("model", "rules", "show").out
        assert finmaas("model", "rules", "try", "tiny@1", "--json").json["passed"] is False
        assert "no evaluation" in finmaas("model", "promote", "tiny@1").err
        (tmp_path / "rules.yaml").write_text("[")
        assert "cannot be read" in finmaas("model", "rules", "set", str(tmp_path / "rules.yaml")).err

    def test_verify_and_key(self, finmaas: Run, tmp_path: Path) -> None:
        pem = finmaas("model", "key").out
        (tmp_path / "root.pem").write_text(pem)
        assert finmaas("model", "verify", "tiny@1", "--json").json["signature"] == "missing"
        refused = finmaas("model", "verify", "tiny@1", "--trust-root", str(tmp_path / "root.pem"))
        assert (refused.code, "does not hold" in refused.out) == (3, True)


class TestPapers:
    def test_diff_and_lineage_and_materials(self, finmaas: Run) -> None:
        assert [row["what"] for row in finmaas("model", "diff", "tiny@1", "tiny@2", "--json").json] == ["extra.json"]
        assert "extra.json" in finmaas("model", "diff", "tiny@1", "tiny@2").out
        assert "nothing" in finmaas("model", "lineage", "tiny@1").out
        finmaas("model", "alias", "set", "canary", "tiny@1")
        tree = finmaas("model", "lineage", "tiny@1", "--direction", "down").out
        assert "alias default/default/tiny@canary" in tree
        assert finmaas("model", "lineage", "tiny@1", "--json").json["root"].startswith("model_version:")
        assert "not trained here" in finmaas("model", "materials", "tiny@1").err

    def test_cards(self, finmaas: Run, tmp_path: Path) -> None:
        assert finmaas("model", "card", "tiny@1").out.startswith("# Model card: default/default/tiny@1")
        assert finmaas("model", "card", "tiny@1", "--language", "zh").out.startswith("# 模型卡")
        (tmp_path / "card.md").write_text("# Ours\n")
        assert "Edition 1" in finmaas("model", "card", "tiny@1", "--set", str(tmp_path / "card.md")).err
        assert finmaas("model", "card", "tiny@1").out == "# Ours\n"
        assert "# Ours" in finmaas("model", "card", "tiny@1", "--editions").out

    def test_merge(self, finmaas: Run, model_folder: Path) -> None:
        arguments = ("model", "merge", str(model_folder), "--name", "both", "--parent", "tiny@1", "--parent", "tiny@2")
        assert finmaas(*arguments, "--json").json["kind"] == "merged"
        tree = finmaas("model", "lineage", "both@1").out
        assert tree.count("model version default/default/tiny@") == 2
        assert finmaas("deploy", "both@1", "--name", "ep", "--no-wait", "--json").json["state"] == "pending"
