"""The registry as an artifact repository: by MLflow's own client, and by requests that it would not send."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from live_api import serve_live
from model_files import FILES, put, register

Headers = dict[str, str]
ROOT = Path(__file__).parents[3]
PYTHON = ROOT / "build" / "clients-venv" / "bin" / "python"
SCRIPT = ROOT / "tests" / "clients" / "use_mlflow.py"
BASE = "/mlflow-artifacts/artifacts"
MODEL = "models/default/default.tiny"


def run_client(*words: str, token: str) -> Any:
    assert PYTHON.exists(), "run `make clients` first: MLflow's client has a venv of its own"
    env = {**os.environ, "MLFLOW_TRACKING_TOKEN": token, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run([PYTHON, SCRIPT, *words], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


class TestMlflow:
    def test_logs_lists_and_loads_a_model(
        self, app: FastAPI, client: TestClient, engineer: Headers, tmp_path: Path
    ) -> None:
        folder = tmp_path / "model"
        files = FILES | {"notes/a.txt": b"a"}
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        token = engineer["Authorization"].removeprefix("Bearer ")
        with serve_live(app) as url:
            run_client("log", str(folder), f"{url}{BASE}/{MODEL}/draft", token=token)
            made = client.post("/api/v1/drafts/model/default/default/tiny/release", json={}, headers=engineer)
            assert made.status_code == 201, made.text
            listed = run_client("list", f"{url}{BASE}/{MODEL}/v1", token=token)
            files_of = [[f"v1/{name}", False, len(content)] for name, content in FILES.items()]
            assert listed == sorted([*files_of, ["v1/notes", True, None]])
            where = run_client("load", f"{url}{BASE}/{MODEL}/v1", str(tmp_path / "out"), token=token)
        assert {name: (Path(where) / name).read_bytes() for name in files} == files


class TestRoutes:
    @pytest.fixture(autouse=True)
    def _version(self, client: TestClient, engineer: Headers) -> None:
        register(client, engineer, put(client, engineer, FILES))

    @pytest.mark.parametrize(
        "path", ["", "models", "models/default/default.tiny", "runs/default/default.tiny/v1", "x/y/z/w"]
    )
    def test_paths_that_name_no_version(self, client: TestClient, engineer: Headers, path: str) -> None:
        assert client.get(BASE, params={"path": path}, headers=engineer).status_code == 422

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            (f"{MODEL}/v1/config.json", 200),
            (f"{MODEL}/v1/nothing", 404),
            (f"{MODEL}/v2/config.json", 404),
            (f"{MODEL}/v1/%2e%2e/config.json", 404),
        ],
    )
    def test_files(self, client: TestClient, engineer: Headers, stranger: Headers, path: str, status: int) -> None:
        assert client.get(f"{BASE}/{path}", headers=engineer).status_code == status
        assert client.get(f"{BASE}/{path}", headers=stranger).status_code == 404
        assert client.get(f"{BASE}/{path}").status_code == 401

    @pytest.mark.parametrize(
        ("path", "status", "said"),
        [
            (f"{MODEL}/v1/config.json", 422, "versions never change"),
            (f"{MODEL}/draft/python_model.pkl", 422, "are pickles"),
            (f"{MODEL}/draft/code/model.py", 422, "it is code"),
            (f"{MODEL}/draft/%2e%2e/x", 422, "'..'"),
            (f"{MODEL}/draft/config.json", 422, "not JSON"),
            ("models/default/nowhere.tiny/draft/a.txt", 404, "names no project"),
            ("models/default/other/draft/a.txt", 200, ""),
        ],
    )
    def test_what_is_logged_is_checked_as_every_commit(
        self, client: TestClient, engineer: Headers, path: str, status: int, said: str
    ) -> None:
        answer = client.put(f"{BASE}/{path}", content=b"{", headers=engineer)
        assert (answer.status_code, said in answer.text) == (status, True), answer.text

    def test_only_makers_write(
        self, client: TestClient, stranger: Headers, make_principal: Callable[..., Headers]
    ) -> None:
        for headers, status in ((make_principal("auditor"), 403), (stranger, 404)):
            answer = client.put(f"{BASE}/{MODEL}/draft/a.txt", content=b"x", headers=headers)
            assert answer.status_code == status
