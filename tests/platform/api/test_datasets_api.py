from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from finmaas_core.clock import FakeClock
from finmaas_platform.db.audit_events import AuditEventRow
from finmaas_platform.db.base import read_unit
from finmaas_platform.db.datasets import DatasetVersionRow
from finmaas_platform.deps import Deps
from finmaas_platform.services import dataset_imports
from finmaas_platform.services.dataset_imports import import_scratch
from finmaas_registry.store import MemoryStore

Headers = dict[str, str]
URL = "/api/v1/datasets/default/default/intents"
ROWS = "text,label\n" + "".join(f"question {number},l{number % 4}\n" for number in range(200))


def send(client: TestClient, headers: Headers, content: str = ROWS, **params: str) -> Any:
    return client.post(f"{URL}/versions", params={"filename": "rows.csv", **params}, content=content, headers=headers)


def count_versions(deps: Deps) -> int:
    with read_unit(deps.sessions) as session:
        return session.scalar(select(func.count()).select_from(DatasetVersionRow)) or 0


class TestImport:
    def test_makes_a_version(self, client: TestClient, engineer: Headers) -> None:
        answer = send(client, engineer)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert (made["ref"], made["version"], made["rows"]) == ("default/default/intents@1", 1, 200)
        assert made["schema"][0] == {"name": "text", "type": "string", "role": "part", "source": "text"}
        assert sum(made["splits"].values()) == 200
        assert made["stats"]["labels"] == {"l0": 50, "l1": 50, "l2": 50, "l3": 50}

    def test_the_same_content_is_the_same_version(self, client: TestClient, engineer: Headers, deps: Deps) -> None:
        first = send(client, engineer).json()
        again = send(client, engineer)
        assert (again.status_code, again.json()) == (200, first)
        assert send(client, engineer, ROWS + "one more,l1\n").json()["version"] == 2
        assert count_versions(deps) == 2

    def test_writes_an_audit_event(self, client: TestClient, engineer: Headers, deps: Deps) -> None:
        made = send(client, engineer).json()
        with read_unit(deps.sessions) as session:
            events = session.scalars(select(AuditEventRow).where(AuditEventRow.target == made["id"])).all()
        assert [event.action for event in events] == ["dataset_version.create"]

    @pytest.mark.parametrize(
        ("content", "params", "code", "detail"),
        [
            ("", {}, "bad_input", "rows.csv is empty"),
            ("text,label\na\n", {}, "bad_row", "rows.csv line 2"),
            ("a,b\n1,2\n", {}, "bad_input", "its columns (a, b) fit no shape"),
            (ROWS, {"label": "lable"}, "bad_input", "did you mean 'label'?"),
            (ROWS, {"splits": "0.5,0.5"}, "bad_input", "three fractions"),
            (ROWS, {"filename": "rows.xls"}, "bad_input", "save it as .xlsx"),
            (ROWS, {"filename": ".."}, "bad_input", "cannot be imported"),
        ],
    )
    def test_what_cannot_be_used_leaves_nothing(
        self,
        client: TestClient,
        engineer: Headers,
        deps: Deps,
        store: MemoryStore,
        content: str,
        params: dict[str, str],
        code: str,
        detail: str,
    ) -> None:
        answer = send(client, engineer, content, **params)
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert detail in answer.json()["detail"]
        assert count_versions(deps) == 0
        assert [*store.list()] == []
        assert not import_scratch(deps).exists() or [*import_scratch(deps).iterdir()] == []

    def test_a_bad_row_is_named_in_fields_too(self, client: TestClient, engineer: Headers) -> None:
        problem = send(client, engineer, "text,label\na,x\n,x\n").json()
        assert (problem["file"], problem["line"], problem["column"]) == ("rows.csv", 3, "text")

    def test_a_file_that_is_too_long_is_refused(self, client: TestClient, engineer: Headers, deps: Deps) -> None:
        deps.settings.max_dataset_bytes = 100
        assert "longer than 100 bytes" in send(client, engineer).json()["detail"]

    def test_a_failed_commit_is_no_success(
        self, client: TestClient, engineer: Headers, deps: Deps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("the database went away")

        with monkeypatch.context() as patch:
            patch.setattr(dataset_imports, "register_dataset_version", fail)
            assert send(client, engineer).status_code == 500
        assert count_versions(deps) == 0
        assert send(client, engineer).json()["version"] == 1

    def test_a_full_store_is_507(
        self, client: TestClient, engineer: Headers, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "_capacity_bytes", 100)
        assert send(client, engineer).status_code == 507

    def test_is_for_those_who_may(
        self, client: TestClient, make_principal: Callable[..., Headers], stranger: Headers
    ) -> None:
        assert send(client, make_principal("app-developer")).status_code == 403
        assert send(client, stranger).status_code == 404


class TestReport:
    def test_is_stored_with_the_version(self, client: TestClient, engineer: Headers, clock: FakeClock) -> None:
        until = (clock.now().date() - timedelta(days=1)).isoformat()
        rows = "".join(
            f"question number {n} by mail,l{n % 2},u{n}@example.com,{until if n < 3 else ''}\n" for n in range(40)
        )
        content = "text,label,mail,until\n" + rows
        send(client, engineer, content, retain_until="until", id_column="mail")
        told = client.get(f"{URL}/versions/1/report", headers=engineer).json()
        assert (told["ref"], told["rows"], told["expired"]) == ("default/default/intents@1", 40, 3)
        assert told["report"]["privacy"]["columns"]["mail"]["rows"] == 40
        assert told["report"]["id"] == "mail"

    def test_a_packed_file_is_converted_in_another_process(self, client: TestClient, engineer: Headers) -> None:
        packed = io.BytesIO()
        pq.write_table(pa.table({"text": [f"t{n}" for n in range(50)], "label": ["a"] * 50}), packed)
        answer = client.post(
            f"{URL}/versions", params={"filename": "r.parquet"}, content=packed.getvalue(), headers=engineer
        )
        assert (answer.status_code, answer.json()["rows"]) == (201, 50)

    def test_importing_again_with_other_tags_tells_anew(self, client: TestClient, engineer: Headers) -> None:
        send(client, engineer)
        assert client.get(f"{URL}/versions/1/report", headers=engineer).json()["report"]["id"] is None
        for column in ("text", "label", "text"):
            assert send(client, engineer, id_column=column).json()["version"] == 1
        assert client.get(f"{URL}/versions/1/report", headers=engineer).json()["report"]["id"] == "text"

    def test_is_not_for_strangers(self, client: TestClient, engineer: Headers, stranger: Headers) -> None:
        send(client, engineer)
        assert client.get(f"{URL}/versions/1/report", headers=stranger).status_code == 404


class TestReading:
    def test_shows_datasets_versions_and_rows(self, client: TestClient, engineer: Headers) -> None:
        made = send(client, engineer).json()
        (dataset,) = client.get("/api/v1/datasets?project=default/default", headers=engineer).json()["items"]
        assert (dataset["name"], dataset["project"], dataset["latest_version"]) == ("intents", "default/default", 1)
        assert client.get(URL, headers=engineer).json() == dataset
        assert client.get(f"{URL}/versions", headers=engineer).json()["items"] == [made]
        assert client.get(f"{URL}/versions/1", headers=engineer).json() == made
        rows = client.get(f"{URL}/versions/1/rows?split=test&limit=2", headers=engineer).json()["items"]
        assert len(rows) == 2
        assert set(rows[0]) == {"text", "label", "_row", "_group"}

    def test_unknown_names_suggest_near_ones(self, client: TestClient, engineer: Headers) -> None:
        send(client, engineer)
        url = "/api/v1/datasets/default/default"
        assert "did you mean intents?" in client.get(f"{url}/intent", headers=engineer).json()["detail"]
        assert "its newest is intents@1" in client.get(f"{URL}/versions/7", headers=engineer).json()["detail"]

    def test_another_tenants_datasets_are_not_there(
        self, client: TestClient, engineer: Headers, stranger: Headers
    ) -> None:
        send(client, engineer)
        assert client.get("/api/v1/datasets", headers=stranger).json()["items"] == []
        for path in ("", "/versions", "/versions/1", "/versions/1/rows"):
            assert client.get(URL + path, headers=stranger).status_code == 404
