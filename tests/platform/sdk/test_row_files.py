"""Large files of rows: sent in blocks that can be taken up again, or fetched from a Hub, then imported."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from finmaas_core.errors import InvalidInput, NotFound, Unavailable
from finmaas_platform.sdk import Client
from finmaas_platform.sdk.hub_import import HubSource, is_under
from finmaas_platform.sdk.wire import SocketWire
from finmaas_registry.row_files import choose_row_paths

Headers = dict[str, str]
ROWS = "text,label\n" + "".join(f"question {n} 问题,label-{n % 3}\n" for n in range(60_000))


def token_of(headers: Headers) -> str:
    return headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finmaas_platform.sdk.datasets.RESUMABLE_BYTES", 1)
    monkeypatch.setattr("finmaas_registry.blocks.MAX_BLOCK_BYTES", 300_000)


@pytest.mark.usefixtures("_small_blocks")
class TestPush:
    def test_is_the_same_version_as_in_one_request(
        self, here: Client, rows: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, int]] = []
        by_blocks = here.datasets.import_file(rows, "questions", on_progress=lambda *at: seen.append(at))
        assert seen[-1] == (2 * rows.stat().st_size, 2 * rows.stat().st_size)
        monkeypatch.setattr("finmaas_platform.sdk.datasets.RESUMABLE_BYTES", 1 << 40)
        at_once = here.datasets.import_file(rows, "questions")
        assert (at_once.id, at_once.source, at_once.rows) == (by_blocks.id, "rows.csv", 60_000)

    def test_one_that_broke_off_sends_the_rest(self, here: Client, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put, sent = SocketWire.put, []

        def count(self: SocketWire, digest: str, path: Path, offset: int, size: int) -> None:
            if len(sent) == 4:
                raise Unavailable("the line is gone")
            sent.append(offset)
            put(self, digest, path, offset, size)

        monkeypatch.setattr(SocketWire, "put", count)
        with pytest.raises(Unavailable):
            here.datasets.import_file(rows, "questions")
        first = {*sent}
        sent[:] = [-1] * 5  # never four again
        assert here.datasets.import_file(rows, "questions").rows == 60_000
        assert first.isdisjoint(sent[5:])
        blocks = -(-rows.stat().st_size // 300_000)
        assert len(first) + len(sent[5:]) == blocks

    def test_a_bad_row_is_named_as_ever(self, here: Client, tmp_path: Path) -> None:
        bad = tmp_path / "bad.csv"
        bad.write_text(ROWS + "one cell too many,a,b\n")
        with pytest.raises(InvalidInput, match=r"60,?002"):
            here.datasets.import_file(bad, "questions")

    def test_an_annotator_may(self, url: str, client: TestClient, admin: Headers, rows: Path) -> None:
        made = client.post(
            "/api/v1/principals", json={"name": "anna", "role": "annotator", "tenant": "default"}, headers=admin
        ).json()
        token = client.post("/api/v1/access-tokens", json={"principal_id": made["id"]}, headers=admin).json()["token"]
        with Client(url, token) as anna:
            assert anna.datasets.import_file(rows, "questions").rows == 60_000


class TestRequests:
    URL = "/api/v1/datasets/default/default/questions/imports/rows"

    def ask(self, client: TestClient, headers: Headers, *paths: str, digest: str = "a" * 64, **options: Any) -> Any:
        files = [{"path": path, "sha256": digest, "size": 20} for path in paths]
        return client.post(self.URL, json={"files": files, **options}, headers=headers)

    @pytest.mark.parametrize(
        ("paths", "reason"),
        [
            (["rows.csv"], "were not sent"),
            (["notes.txt"], "no file of rows"),
            (["a.csv", "b.csv"], "several files of rows"),
            (["a/0.parquet", "b/0.parquet"], "several folders"),
            (["../rows.csv"], "path"),
        ],
    )
    def test_what_cannot_be_imported(
        self, client: TestClient, engineer: Headers, paths: list[str], reason: str
    ) -> None:
        answer = self.ask(client, engineer, *paths)
        assert (answer.status_code, reason in answer.json()["detail"]) == (422, True)

    def test_rows_of_another_tenant_are_not_there(
        self, client: TestClient, engineer: Headers, stranger: Headers
    ) -> None:
        data = b"text,label\nsecret,a\n"
        digest = hashlib.sha256(data).hexdigest()
        assert client.put(f"/api/v1/blobs/{digest}", content=data, headers=stranger).status_code == 201
        answer = self.ask(client, engineer, "rows.csv", digest=digest)
        assert (answer.status_code, "were not sent" in answer.json()["detail"]) == (422, True)
        assert self.ask(client, stranger, "rows.csv", digest=digest).status_code == 404


class TestHub:
    ID = "default/default.pushed"

    @pytest.fixture
    def source(self, url: str, engineer: Headers, tmp_path: Path) -> HubSource:
        """A dataset repository of our own Hub: shards in one folder, and a table in another."""
        from huggingface_hub import HfApi

        folder = tmp_path / "repo"
        for name in ("data/train-0.parquet", "data/train-1.parquet", "other/rows.parquet"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            table = pa.table({"text": [f"{name} {n}" for n in range(30)], "label": ["a", "b", "c"] * 10})
            pq.write_table(table, folder / name)
        (folder / "README.md").write_text("# rows")
        api = HfApi(endpoint=url, token=token_of(engineer))
        api.create_repo(self.ID, repo_type="dataset")
        for file in sorted(folder.rglob("*.*")):
            path = str(file.relative_to(folder))
            api.upload_file(repo_id=self.ID, repo_type="dataset", path_in_repo=path, path_or_fileobj=file)
        return HubSource(url, self.ID, token=token_of(engineer), kind="dataset")

    @pytest.fixture(autouse=True)
    def _without_xet(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def test_shards_become_a_version_that_says_where_it_is_from(
        self, source: HubSource, url: str, stranger: Headers
    ) -> None:
        seen: list[tuple[int, int]] = []
        with Client(url, token_of(stranger)) as there:
            made = there.datasets.import_from_hub(
                source, "copy", "other/default", path="data", on_progress=lambda *at: seen.append(at)
            )
        assert (made.ref, made.rows) == ("other/default/copy@1", 60)
        assert made.source.startswith(f"{self.ID} at ")
        assert seen[-1][0] == seen[-1][1] > 0

    def test_several_tables_want_a_path(self, source: HubSource, here: Client) -> None:
        with pytest.raises(InvalidInput, match=r"several folders \(data, other\).* by --path"):
            here.datasets.import_from_hub(source, "copy")
        with pytest.raises(InvalidInput, match="no file of rows"):
            here.datasets.import_from_hub(source, "copy", path="nothing")

    def test_what_is_not_there(self, url: str, here: Client, stranger: Headers) -> None:
        with pytest.raises(NotFound, match=r"has no default/default\.pushed"):
            here.datasets.import_from_hub(HubSource(url, self.ID, token=token_of(stranger), kind="dataset"), "copy")


@pytest.mark.parametrize(
    ("path", "folder", "under"),
    [("a/b.csv", None, True), ("a/b.csv", "a", True), ("a/b.csv", "a/b.csv", True), ("ab/c.csv", "a", False)],
)
def test_is_under(path: str, folder: str | None, under: bool) -> None:
    assert is_under(path, folder) is under


def test_shards_of_one_folder_are_one_dataset() -> None:
    assert choose_row_paths(["README.md", "d/0.parquet", "d/1.parquet"]) == ["d/0.parquet", "d/1.parquet"]
