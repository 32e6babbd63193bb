"""`finmaas model export`, `import-archive`, `import --hub`, `release`, `drafts`, `discard`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from live_api import serve_live
from model_files import FILES

Headers = dict[str, str]
Finmaas = Callable[..., Any]


def make_folder(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return str(folder)


def test_a_version_goes_out_and_comes_in(finmaas: Finmaas, tmp_path: Path) -> None:
    assert finmaas("model", "import", make_folder(tmp_path), "--name", "tiny").code == 0
    out = tmp_path / "tiny.tar"
    told = finmaas("model", "export", "tiny@1", "-o", str(out), "--json").json
    assert (told["ref"], told["size_bytes"]) == ("default/default/tiny@1", out.stat().st_size)
    ran = finmaas("model", "export", "tiny", "-o", str(out))
    assert "There: finmaas model import-archive tiny.tar" in ran.err
    made = finmaas("model", "import-archive", str(out), "--name", "copy", "--json").json
    assert (made["ref"], made["digest"]) == ("default/default/copy@1", told["digest"])
    ran = finmaas("model", "import-archive", str(out), "--name", "copy")
    assert "bears no signature; it is a candidate here" in ran.err
    shown = finmaas("model", "origin", "copy@1")
    assert "default/default/tiny@1" in shown.out
    assert finmaas("model", "origin", "copy@1", "--json").json["verified_by"] is None
    assert finmaas("model", "origin", "tiny@1").code == 1
    out.write_bytes(out.read_bytes()[:-2000])
    ran = finmaas("model", "import-archive", str(out))
    assert (ran.code, "was cut off" in ran.err) == (1, True)


def test_a_repository_of_a_hub_comes_in(
    finmaas: Finmaas, app: FastAPI, admin: Headers, tmp_path: Path, monkeypatch: Any
) -> None:
    assert finmaas("model", "import", make_folder(tmp_path), "--name", "tiny").code == 0
    monkeypatch.setenv("HF_TOKEN", admin["Authorization"].removeprefix("Bearer "))
    with serve_live(app) as url:
        words = ("--hub", "default/tiny", "--endpoint", url, "--name", "copy")
        assert finmaas("model", "import", *words, "--json").json["ref"] == "default/default/copy@1"
        ran = finmaas("model", "import", "--hub", "default/none", "--endpoint", url, "--name", "copy")
        assert (ran.code, "has no default/none at main" in ran.err) == (1, True)
    assert finmaas("model", "import", "--name", "copy").code == 2
    assert finmaas("model", "import", str(tmp_path), "--hub", "a/b", "--name", "copy").code == 2


def test_drafts_are_listed_released_and_discarded(finmaas: Finmaas, client: TestClient, admin: Headers) -> None:
    for name in ("one", "two"):
        body = {"name": f"default.{name}", "organization": "default"}
        assert client.post("/api/repos/create", json=body, headers=admin).status_code == 200
        for path, content in FILES.items():
            url = f"/mlflow-artifacts/artifacts/models/default/{name}/draft/{path}"
            assert client.put(url, content=content, headers=admin).status_code == 200
    listed = finmaas("model", "drafts")
    assert "default/default/one" in listed.out
    assert len(finmaas("model", "drafts", "--json").json) == 2
    assert finmaas("model", "release", "one", "--json").json["ref"] == "default/default/one@1"
    assert finmaas("model", "discard", "two").code == 0
    assert finmaas("model", "drafts", "--json").json == []
    ran = finmaas("model", "release", "two")
    assert (ran.code, "no open draft" in ran.err) == (1, True)
