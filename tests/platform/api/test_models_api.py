from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from model_files import ADAPTER, FILES, URL, WEIGHTS, put, register

Headers = dict[str, str]


class TestRegister:
    def test_makes_a_version_once(self, client: TestClient, engineer: Headers) -> None:
        files = put(client, engineer, FILES)
        answer = register(client, engineer, files, description="a stand-in")
        made = answer.json()
        assert answer.status_code == 201, answer.text
        assert (made["ref"], made["kind"], made["description"]) == ("default/default/tiny@1", "full", "a stand-in")
        assert made["lineage"] == {"job_id": None, "dataset_version_id": None, "base_version_id": None}
        again = register(client, engineer, files[::-1])
        assert (again.status_code, again.json()) == (200, made)

    def test_an_adapter_names_its_base(self, client: TestClient, engineer: Headers) -> None:
        base = register(client, engineer, put(client, engineer, FILES)).json()
        files = put(client, engineer, ADAPTER)
        assert "give `base`" in register(client, engineer, files, kind="adapter").json()["detail"]
        made = register(client, engineer, files, kind="adapter", base="tiny@1").json()
        assert (made["version"], made["lineage"]["base_version_id"]) == (2, base["id"])

    @pytest.mark.parametrize(
        ("change", "detail"),
        [
            ({"pytorch_model.bin": b"x"}, "are pickles"),
            ({"modeling_x.py": b"x"}, "it is code"),
            ({"config.json": b'{"auto_map": {}}'}, "auto_map"),
            ({"../evil": b"x"}, "'..'"),
            ({"model.safetensors": WEIGHTS}, "was it copied whole?"),
        ],
    )
    def test_refuses_what_is_no_model(
        self, client: TestClient, engineer: Headers, change: dict[str, bytes], detail: str
    ) -> None:
        answer = register(client, engineer, put(client, engineer, FILES | change))
        assert answer.status_code == 422
        assert detail in answer.json()["detail"]
        assert client.get("/api/v1/models", headers=engineer).json()["items"] == []

    def test_the_bytes_must_have_been_sent(self, client: TestClient, engineer: Headers, stranger: Headers) -> None:
        files = put(client, stranger, FILES)
        answer = register(client, engineer, files)
        assert answer.status_code == 422
        assert "were not sent" in answer.json()["detail"]

    def test_sizes_must_be_true(self, client: TestClient, engineer: Headers) -> None:
        files = put(client, engineer, FILES)
        assert (
            "bytes long, not 99" in register(client, engineer, [*files[:2], files[2] | {"size": 99}]).json()["detail"]
        )

    def test_what_a_platform_admin_puts_becomes_the_tenants(
        self, client: TestClient, admin: Headers, engineer: Headers
    ) -> None:
        files = put(client, admin, FILES)
        url = f"/api/v1/blobs/{files[0]['sha256']}"
        assert client.head(url, headers=engineer).status_code == 404
        assert register(client, admin, files).status_code == 201
        assert client.head(url, headers=engineer).status_code == 200

    def test_is_for_those_who_may(
        self, client: TestClient, make_principal: Callable[..., Headers], engineer: Headers, stranger: Headers
    ) -> None:
        files = put(client, engineer, FILES)
        assert register(client, make_principal("app-developer"), files).status_code == 403
        assert register(client, stranger, files).status_code == 404


class TestReading:
    def test_shows_models_and_versions(self, client: TestClient, engineer: Headers, stranger: Headers) -> None:
        made = register(client, engineer, put(client, engineer, FILES)).json()
        (model,) = client.get("/api/v1/models", headers=engineer).json()["items"]
        assert client.get(URL, headers=engineer).json() == model
        assert client.get(f"{URL}/versions", headers=engineer).json()["items"] == [made]
        assert client.get(f"{URL}/versions/1", headers=engineer).json() == made
        assert client.get(f"{URL}/versions/1", headers=stranger).status_code == 404
        unknown = client.get("/api/v1/models/default/default/tinny", headers=engineer)
        assert "did you mean tiny?" in unknown.json()["detail"]

    def test_a_node_reads_any_version_by_id(self, client: TestClient, engineer: Headers, node: Headers) -> None:
        made = register(client, engineer, put(client, engineer, FILES)).json()
        url = f"/api/v1/node/model-versions/{made['id']}"
        assert client.get(url, headers=node).json()["files"] == made["files"]
        assert client.get(f"/api/v1/blobs/{made['files'][0]['sha256']}", headers=node).status_code == 200
        assert client.get(url, headers=engineer).status_code == 403
        assert client.get("/api/v1/node/model-versions/mdv_none", headers=node).status_code == 404
