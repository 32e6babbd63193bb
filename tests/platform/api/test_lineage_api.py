"""Lineage both ways, cards and their editions, what made a version, merged models: over REST and by the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from model_files import FILES, put
from sqlalchemy import select

from finmaas_platform.db.approvals import ModelAliasRow
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.datasets import DatasetRow, DatasetVersionRow
from finmaas_platform.db.endpoints import EndpointRow
from finmaas_platform.db.jobs import JobRow
from finmaas_platform.db.models import ModelParentRow, ModelRow, ModelVersionRow
from finmaas_platform.db.projects import ProjectRow
from finmaas_platform.db.usage_records import UsageRecordRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.lineage import MAX_NODES, Node, walk

Headers = dict[str, str]
URL = "/api/v1/models/default/default/m/versions"
MATERIALS = {"code": {"finmaas": "0.1.0"}, "packages": {"torch": "2.13.0", "ray": "2.60.0"}, "seed": 17}


@pytest.fixture
def world(deps: Deps, engineer: Headers) -> None:
    """rows@1 ─► job_1 ─► m@1 (from base@1) ─► evaluation job_2, alias canary, endpoint ep; m@2 is merged from both."""
    now = deps.clock.now()
    with unit_of_work(deps.sessions) as session:
        project = session.scalars(select(ProjectRow)).one()
        owner = {"tenant_id": project.tenant_id, "project_id": project.id, "created_at": now, "created_by": "ann"}
        dataset = DatasetRow(id="ds_1", name="rows", latest_version=1, **owner)
        session.add(
            DatasetVersionRow(
                id="dsv_1", dataset=dataset, number=1, shape="text", rows=1, splits={}, schema=[], stats={}, files=[],
                size_bytes=1, digest="d", source="", **owner,
            )
        )  # fmt: skip
        models = {name: ModelRow(id=f"mdl_{name}", name=name, latest_version=2, **owner) for name in ("m", "base")}
        common = {"kind": "full", "description": "", "files": [], "size_bytes": 1, "digest": "e" * 64, **owner}
        session.add(ModelVersionRow(id="mdv_base", model=models["base"], number=1, metrics={}, **common))
        session.flush()
        for kind, job, subject in (("training", "job_1", None), ("evaluation", "job_2", "mdv_1")):
            session.add(
                JobRow(
                    id=job, kind=kind, spec={"dataset": "rows@1", "epochs": 3}, dataset_version_id="dsv_1",
                    base_version_id="mdv_base", subject_version_id=subject, state="succeeded", reason="", progress={},
                    metrics={}, **owner,
                )
            )  # fmt: skip
        entry = {"job_id": "job_2", "dataset": "rows@1", "split": "test", "scores": {"exact_match": 0.875}}
        session.add(
            ModelVersionRow(
                id="mdv_1", model=models["m"], number=1, metrics={"evaluations": [entry]}, job_id="job_1",
                dataset_version_id="dsv_1", base_version_id="mdv_base", materials=MATERIALS, **common,
            )
        )  # fmt: skip
        session.add(ModelVersionRow(id="mdv_2", model=models["m"], number=2, metrics={}, **common | {"kind": "merged"}))
        session.flush()
        for position, parent in enumerate(("mdv_base", "mdv_1")):
            session.add(
                ModelParentRow(version_id="mdv_2", parent_id=parent, tenant_id=project.tenant_id, position=position)
            )
        session.add(
            ModelAliasRow(
                id="als_1", tenant_id=project.tenant_id, model_id="mdl_m", name="canary", version_id="mdv_1",
                updated_at=now, updated_by="ann",
            )
        )  # fmt: skip
        session.add(
            EndpointRow(
                id="ep_1", name="ep", model_version_id="mdv_1", model_ref="default/default/m@1", replicas=1, engine={},
                state="ready", reason="", **owner,
            )
        )  # fmt: skip
        session.add(
            UsageRecordRow(
                id="use_1", gateway_id="gw", seq=1, request_id="r", at=now, key_id="k", project_id=project.id,
                tenant_id=project.tenant_id, endpoint_id="ep_1", model_version_id="mdv_1", path="", status=200,
                stream=False, prompt_tokens=3, completion_tokens=4, cached_tokens=0, duration_ms=1.0, finish="stop",
                counted_by="engine",
            )
        )  # fmt: skip


@dataclass(frozen=True)
class Ask:
    """A GET, its answer's JSON."""

    client: TestClient
    headers: Headers

    def __call__(self, path: str) -> Any:
        answer = self.client.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def ask(client: TestClient, engineer: Headers, world: None) -> Ask:
    return Ask(client, engineer)


def edges(graph: Any) -> set[tuple[str, str]]:
    return {(edge["origin"].partition(":")[2], edge["result"].partition(":")[2]) for edge in graph["edges"]}


UP = {("job_1", "mdv_1"), ("dsv_1", "job_1"), ("mdv_base", "job_1")}
DOWN = {("mdv_1", "job_2"), ("mdv_1", "mdv_2"), ("mdv_1", "als_1"), ("mdv_1", "ep_1"), ("ep_1", "ep_1")}


class TestLineage:
    def test_both_ways_from_a_version(self, ask: Ask) -> None:
        graph = ask(f"{URL}/1/lineage")
        assert (edges(graph), graph["truncated"]) == (UP | DOWN, False)
        assert edges(ask(f"{URL}/canary/lineage?direction=up")) == UP
        assert edges(ask(f"{URL}/1/lineage?direction=down")) == DOWN
        notes = {node["key"]: (node["ref"], node["note"]) for node in graph["nodes"]}
        assert notes["usage:ep_1"] == ("1 requests", "7 tokens")
        assert notes["model_version:mdv_2"] == ("default/default/m@2", "merged, candidate")

    def test_from_any_node(self, ask: Ask) -> None:
        below = edges(ask("/api/v1/lineage/dataset_version/dsv_1?direction=down"))
        assert {("dsv_1", "job_1"), ("job_1", "mdv_1"), ("mdv_1", "ep_1")} <= below
        assert edges(ask("/api/v1/lineage/endpoint/ep_1?direction=up")) == {("mdv_1", "ep_1"), *UP}
        assert ("mdv_1", "als_1") in edges(ask("/api/v1/lineage/alias/als_1?direction=up"))
        assert ("mdv_1", "job_2") in edges(ask("/api/v1/lineage/evaluation/job_2"))
        assert ("mdv_base", "mdv_2") in edges(ask("/api/v1/lineage/model_version/mdv_base?direction=down"))

    def test_a_short_walk_says_that_there_is_more(self, ask: Ask) -> None:
        assert ask(f"{URL}/1/lineage?depth=1")["truncated"] is True

    def test_stays_in_sight(self, ask: Ask, client: TestClient, stranger: Headers) -> None:
        for path in ("dataset_version/dsv_1", "job/job_1", "model_version/mdv_1", "alias/als_1", "endpoint/ep_1"):
            assert client.get(f"/api/v1/lineage/{path}", headers=stranger).status_code == 404
        assert client.get("/api/v1/lineage/secret/x", headers=ask.headers).status_code == 422

    def test_a_large_or_round_graph_ends(self) -> None:
        graph = walk(Node("n", "0", ""), ("up",), lambda node, _: [Node("n", str(int(node.id) + 1), "")], depth=10**6)
        assert (len(graph.nodes), graph.truncated) == (MAX_NODES, True)
        ring = walk(Node("n", "0", ""), ("up", "down"), lambda node, _: [Node("n", str(1 - int(node.id)), "")])
        assert (len(ring.nodes), ring.truncated) == (2, False)


class TestCards:
    def test_are_generated_in_both_languages(self, ask: Ask) -> None:
        english = ask(f"{URL}/1/card")
        assert english["edition"] == 0
        for text in ("# Model card: default/default/m@1", "exact_match 0.875", "default/default/rows@1", "epochs=3"):
            assert text in english["text"]
        chinese = ask(f"{URL}/1/card?language=zh")["text"]
        assert "# 模型卡: default/default/m@1" in chinese
        assert "状态: 候选" in chinese

    def test_are_edited_with_history(self, ask: Ask, client: TestClient, stranger: Headers) -> None:
        def put(text: str, if_match: str, headers: Headers = ask.headers) -> int:
            sent = {**headers, "If-Match": if_match}
            return client.put(f"{URL}/1/card", json={"text": text}, headers=sent).status_code

        assert [put("first", '"0"'), put("stale", '"0"'), put("second", '"1"')] == [200, 412, 200]
        assert ask(f"{URL}/1/card")["text"] == "second"
        assert [one["text"] for one in ask(f"{URL}/1/card/editions")["items"]] == ["second", "first"]
        assert ask(f"{URL}/1/card?language=zh")["edition"] == 0
        assert put("theirs", '"2"', stranger) == 404

    def test_what_made_it(self, ask: Ask) -> None:
        assert ask(f"{URL}/1/materials") == MATERIALS
        assert ask(f"{URL}/2/materials") == {}


class TestMerged:
    def test_names_two_parents_or_more(
        self, client: TestClient, engineer: Headers, world: None, make_principal: Callable[..., Headers]
    ) -> None:
        files = put(client, engineer, FILES)
        body = {"kind": "merged", "files": files, "parents": ["m@1", "m@1"]}
        answer = client.post(URL, json=body, headers=engineer)
        assert (answer.status_code, "at least two" in answer.json()["detail"]) == (422, True)
        body = {"kind": "full", "files": files, "parents": ["m@1", "base@1"]}
        assert "only a merged version" in client.post(URL, json=body, headers=engineer).json()["detail"]
        assert client.post(URL, json=body | {"parents": ["nope@1"]}, headers=engineer).status_code == 404
