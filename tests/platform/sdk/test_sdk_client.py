"""The SDK against the real application."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from finmaas_core.errors import (
    AlreadyExists,
    BadRow,
    InvalidInput,
    InvalidSpec,
    NotFound,
    Unavailable,
    VersionMismatch,
)
from finmaas_platform.sdk import Client
from finmaas_platform.sdk.objects import Endpoint, Job


def write_rows(path: Path, rows: int = 200) -> Path:
    lines = [
        f"message number {i} about {'cards' if i % 2 else 'loans'},{'card' if i % 2 else 'loan'}" for i in range(rows)
    ]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def write_model(folder: Path, value: int = 1) -> Path:
    """The smallest folder that is a model: one tensor of one float."""
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / ".cache").mkdir()
    (folder / ".cache" / "junk").write_text("left behind")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", value))
    return folder


class TestAccess:
    def test_tenants_projects_principals_tokens_keys(self, finmaas: Client) -> None:
        assert finmaas.whoami().role == "platform-admin"
        tenant = finmaas.tenants.create("retail", "零售")
        with pytest.raises(AlreadyExists):
            finmaas.tenants.create("retail")
        assert finmaas.projects.create("retail", "service").ref == "retail/service"
        assert {t.name for t in finmaas.tenants.list()} == {"default", "retail"}
        with pytest.raises(VersionMismatch):
            finmaas.tenants.update("retail", state="frozen", if_match=tenant.version + 7)
        assert finmaas.tenants.update("retail", state="frozen", if_match=tenant.version).state == "frozen"
        finmaas.tenants.update("retail", state="active")
        person = finmaas.principals.create("li.wei", "ml-engineer", "retail")
        assert finmaas.principals.find("li.wei") == person
        token = finmaas.tokens.create(person.id, expires_in_s=60)
        assert token.token is not None
        assert token.token.startswith("fma_")
        assert finmaas.tokens.revoke(token.id).revoked_at is not None
        assert finmaas.principals.update(person.id, disabled=True).disabled
        key = finmaas.keys.create("retail/service", "app", ["intents"])
        assert key.key is not None
        assert [k.key for k in finmaas.keys.list("retail/service")] == [None]
        assert finmaas.keys.revoke(key.id).revoked_at is not None
        actions = {event.action for event in finmaas.audit.list()}
        assert {"tenant.create", "tenant.update", "project.create", "api_key.create", "api_key.revoke"} <= actions

    def test_an_unknown_name_is_not_found(self, finmaas: Client) -> None:
        with pytest.raises(NotFound):
            finmaas.principals.find("nobody")

    def test_pages_are_one_sequence(self, finmaas: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("finmaas_platform.sdk.transport.PAGE_SIZE", 3)
        for i in range(7):
            finmaas.tenants.create(f"t{i}")
        assert len({tenant.name for tenant in finmaas.tenants.list()}) == 8
        assert len(list(finmaas.audit.list(action="tenant.create", limit=5))) == 5

    def test_the_gateway_must_be_known(self, finmaas: Client) -> None:
        with pytest.raises(Unavailable, match="FINMAAS_GATEWAY_URL"):
            _ = finmaas.gateway_url


class TestDatasets:
    def test_the_same_file_is_the_same_version(self, finmaas: Client, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        file = write_rows(tmp_path / "rows.csv")
        first = finmaas.datasets.import_file(file, "rows", on_progress=lambda done, total: seen.append((done, total)))
        again = finmaas.datasets.import_file(file, "rows")
        assert again == first
        assert (first.rows, sum(first.splits.values()), first.shape) == (200, 200, "classification")
        assert seen[-1] == (file.stat().st_size, file.stat().st_size)
        assert finmaas.datasets.version("rows") == finmaas.datasets.version("default/default/rows@1") == first
        assert [d.name for d in finmaas.datasets.list()] == ["rows"]
        rows = finmaas.datasets.rows("rows@1", split="test", limit=3)
        assert len(rows) == 3
        assert rows[0]["label"] in ("card", "loan")

    def test_download_brings_whole_files_and_keeps_them(self, finmaas: Client, tmp_path: Path) -> None:
        version = finmaas.datasets.import_file(write_rows(tmp_path / "rows.csv"), "rows")
        target = tmp_path / "down"
        finmaas.datasets.download(version.ref, target)
        written = {file.path: (target / file.path).stat().st_mtime_ns for file in version.files}
        (target / "data" / "test.parquet").write_bytes(b"broken")
        finmaas.datasets.download(version.ref, target)
        assert (target / "data" / "train.parquet").stat().st_mtime_ns == written["data/train.parquet"]
        assert all((target / file.path).stat().st_size == file.size for file in version.files)

    def test_a_bad_row_is_named(self, finmaas: Client, tmp_path: Path) -> None:
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"text": "a", "label": "b"}\n{"text": \n')
        with pytest.raises(BadRow) as caught:
            finmaas.datasets.import_file(bad, "bad")
        assert caught.value.details["line"] == 2
        assert list(finmaas.datasets.list()) == []

    def test_a_missing_file_is_said_before_anything_is_sent(self, finmaas: Client, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="not a file"):
            finmaas.datasets.import_file(tmp_path / "no.csv", "x")


class TestModels:
    def test_the_same_folder_is_the_same_version_and_sends_nothing_again(
        self, finmaas: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_model(tmp_path / "m")
        stages: list[str] = []
        first = finmaas.models.import_folder(folder, "tiny", on_progress=lambda stage, *_: stages.append(stage))
        assert [file.path for file in first.files] == ["config.json", "model.safetensors", "tokenizer.json"]
        assert list(dict.fromkeys(stages)) == ["hash", "upload"]
        monkeypatch.setattr(finmaas.models._http, "upload", pytest.fail)
        assert finmaas.models.import_folder(folder, "tiny") == first
        assert finmaas.models.version("tiny").ref == "default/default/tiny@1"

    def test_another_content_is_the_next_version(self, finmaas: Client, tmp_path: Path) -> None:
        finmaas.models.import_folder(write_model(tmp_path / "a", 1), "tiny")
        assert finmaas.models.import_folder(write_model(tmp_path / "b", 2), "tiny").version == 2
        assert [v.version for v in finmaas.models.versions("tiny")] == [2, 1]

    def test_a_pickle_is_refused_before_anything_is_sent(
        self, finmaas: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_model(tmp_path / "m")
        (folder / "pytorch_model.bin").write_bytes(b"x")
        monkeypatch.setattr(finmaas.models._http, "request", pytest.fail)
        with pytest.raises(InvalidInput, match="pickle"):
            finmaas.models.import_folder(folder, "tiny")


class TestJobsAndEndpoints:
    @pytest.fixture
    def inputs(self, finmaas: Client, tmp_path: Path) -> dict[str, str]:
        dataset = finmaas.datasets.import_file(write_rows(tmp_path / "rows.csv"), "rows")
        base = finmaas.models.import_folder(write_model(tmp_path / "m"), "tiny")
        return {"base": base.ref, "dataset": dataset.ref, "output": "tuned"}

    def test_submit_validate_wait_cancel(self, finmaas: Client, inputs: dict[str, str]) -> None:
        checked = finmaas.jobs.validate("training", inputs)
        job = finmaas.jobs.submit("training", inputs)
        assert job.spec == checked["spec"]
        assert [j.id for j in finmaas.jobs.list(state="queued")] == [job.id]
        assert list(finmaas.jobs.attempts(job.id)) == []
        assert list(finmaas.jobs.logs(job.id)) == []
        with pytest.raises(Unavailable, match="still queued"):
            finmaas.jobs.wait(job.id, timeout_s=0, poll_s=0.01)
        seen: list[str] = []

        def cancel_at_first_sight(job: Job, points: object) -> None:
            seen.append(job.state)
            if not job.is_finished:
                finmaas.jobs.cancel(job.id)

        assert finmaas.jobs.wait(job.id, cancel_at_first_sight, poll_s=0.01).state == "cancelled"
        assert seen == ["queued", "cancelled"]

    def test_a_spec_that_cannot_work_is_refused(self, finmaas: Client, inputs: dict[str, str]) -> None:
        with pytest.raises(InvalidSpec, match="epochs"):
            finmaas.jobs.submit("training", {**inputs, "epochs": 0})
        with pytest.raises(NotFound, match="nope"):
            finmaas.jobs.submit("training", {**inputs, "base": "nope"})

    def test_deploy_update_delete(self, finmaas: Client, inputs: dict[str, str]) -> None:
        made = finmaas.endpoints.deploy("ep", inputs["base"], engine={"max_model_len": 256})
        assert (made.ref, made.state, made.engine) == ("default/default/ep", "pending", {"max_model_len": 256})
        with pytest.raises(AlreadyExists):
            finmaas.endpoints.deploy("ep", inputs["base"])
        assert finmaas.endpoints.update("ep", replicas=2, if_match=made.version).replicas == 2
        seen: list[Endpoint] = []
        with pytest.raises(Unavailable, match="still pending"):
            finmaas.endpoints.wait_ready("ep", on_update=seen.append, timeout_s=0, poll_s=0.01)
        assert seen[0].name == "ep"
        finmaas.endpoints.delete("ep")
        assert list(finmaas.endpoints.list()) == []
