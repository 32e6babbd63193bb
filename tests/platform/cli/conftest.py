"""Fixtures of the CLI's tests: `finmaas("tenant", "list")` runs a command against the real application."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from finmaas_platform.cli.main import app
from finmaas_platform.cli.terminal import quiet_logs
from finmaas_platform.sdk import client as sdk_client


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command of the tree as it is, in a home of its own."""
    monkeypatch.setenv("FINMAAS_HOME", str(tmp_path / "cli-home"))
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("FINMAAS_URL", "FINMAAS_TOKEN", "FINMAAS_GATEWAY_URL", "FINMAAS_PROJECT", "FINMAAS_KEY"):
        monkeypatch.delenv(name, raising=False)

    quiet_logs()  # the application runs in this process; its own lines would mix with what commands print

    def run(*arguments: str, input: str | None = None) -> Ran:  # noqa: A002 (CliRunner's own word)
        result = CliRunner().invoke(app, list(arguments), input=input)
        assert "Traceback" not in result.output
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def finmaas(run: Run, client: TestClient, admin: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same, against the application in this process."""
    token = admin["Authorization"].removeprefix("Bearer ")
    real = sdk_client.Client
    monkeypatch.setenv("FINMAAS_GATEWAY_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(sdk_client, "Client", lambda: real(url="http://testserver", token=token, http=client))
    return run


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    topics = ("cards", "loans", "转账")
    lines = [f"message {i} about {topics[i % 3]},{topics[i % 3]}" for i in range(120)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """The smallest folder that is a model: one tensor of one float."""
    folder = tmp_path / "tiny-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    return folder
