"""The registry as a Hub for the real tools, unchanged: transformers, datasets, the hf command and vLLM's server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from integration_helpers import wait_until
from live_api import serve_live

from finmaas_platform.sdk import Client
from finmaas_training.base_model import BaseShape, build_base

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
LIBRARIES = ROOT / "build" / "hub-clients"
SCRIPT = ROOT / "tests" / "clients" / "use_hub.py"
TEXTS = ["my card was lost", "my card has arrived", "我的卡丢了,请挂失", "card_lost", "card_arrived"] * 4
MODEL, DATASET = "default/default.small", "default/default.pushed"
Headers = dict[str, str]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "small"
    shape = BaseShape(vocabulary=400, hidden=64, layers=1, heads=2, feed_forward=96, positions=128)
    build_base(TEXTS, out, seed=3, shape=shape)
    return out


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serve_live(app) as url:
        yield url


@pytest.fixture
def env(url: str, engineer: Headers, tmp_path: Path) -> dict[str, str]:
    """What a user sets: HF_ENDPOINT, HF_TOKEN, and for uploads HF_HUB_DISABLE_XET."""
    assert (LIBRARIES / ".installed").exists(), "run `make clients` first: `datasets` has a folder of its own"
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": url,
        "HF_TOKEN": engineer["Authorization"].removeprefix("Bearer "),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "hf-home"),
        "PYTHONPATH": str(LIBRARIES),
    }


@pytest.fixture
def run(env: dict[str, str], tmp_path: Path) -> Run:
    def run(*command: str, **changes: str) -> str:
        done = subprocess.run(
            command, env={**env, **changes}, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, (
            f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[:1000]}…{done.stderr[-3000:]}"
        )
        return done.stdout

    return run


@pytest.fixture
def use_hub(run: Run, tmp_path: Path) -> Callable[..., Any]:
    def use_hub(*words: str) -> Any:
        run(sys.executable, str(SCRIPT), *words)
        return json.loads((tmp_path / "result.json").read_text())

    return use_hub


@pytest.fixture
def sdk(url: str, engineer: Headers) -> Iterator[Client]:
    with Client(url, engineer["Authorization"].removeprefix("Bearer ")) as client:
        yield client


def hf(run: Run, *words: str, **changes: str) -> str:
    return run(str(Path(sys.executable).with_name("hf")), *words, **changes)


class TestNotebooks:
    def test_push_to_hub_release_and_load_again(self, use_hub: Callable[..., Any], sdk: Client, base: Path) -> None:
        use_hub("write", str(base), MODEL, DATASET)
        version = sdk.drafts.release_model("small")
        assert {file.path for file in version.files} >= {"config.json", "tokenizer.json", "model.safetensors"}
        seen = use_hub("read", MODEL, "v1", DATASET, str(base))
        assert seen["same_weights"]
        assert seen["rows"]["text"] == ["我的卡丢了", "my card was lost"]

    def test_load_dataset_reads_what_an_import_made(
        self, use_hub: Callable[..., Any], sdk: Client, tmp_path: Path
    ) -> None:
        rows = tmp_path / "rows.csv"
        rows.write_text("text,label\n" + "".join(f"question {n} 问题,label-{n % 3}\n" for n in range(60)))
        version = sdk.datasets.import_file(rows, "questions")
        seen = use_hub("imported", "default/questions")
        assert seen["splits"] == {name: count for name, count in version.splits.items() if count}
        assert seen["first"]["text"].startswith("question")


class TestCommandLine:
    def test_hf_uploads_and_downloads(self, run: Run, sdk: Client, base: Path, tmp_path: Path) -> None:
        assert "default-ml-engineer" in hf(run, "auth", "whoami")
        hf(run, "upload", MODEL, str(base))
        version = sdk.drafts.release_model("small")
        hf(run, "download", MODEL, "--revision", "v1", "--local-dir", str(tmp_path / "out"))
        assert {
            file.path: (tmp_path / "out" / file.path).read_bytes() == (base / file.path).read_bytes()
            for file in version.files
        } == dict.fromkeys((file.path for file in version.files), True)

    def test_without_the_variable_small_files_go_and_large_ones_say_what_to_set(
        self, run: Run, env: dict[str, str], sdk: Client, base: Path, tmp_path: Path
    ) -> None:
        hf(run, "upload", MODEL, str(base), HF_HUB_DISABLE_XET="0")
        assert len(sdk.drafts.get("model", "small").files) == len(list(base.iterdir()))
        large = tmp_path / "large.safetensors"
        large.write_bytes(os.urandom(9 << 20))
        with pytest.raises(AssertionError, match="HF_HUB_DISABLE_XET=1"):
            hf(run, "upload", MODEL, str(large), HF_HUB_DISABLE_XET="0")


class TestVllm:
    def test_its_server_starts_from_a_version(
        self, env: dict[str, str], sdk: Client, base: Path, tmp_path: Path
    ) -> None:
        sdk.models.import_folder(base, "small")
        port = str(_free_port())
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", MODEL, "--revision", "v1",
            "--tokenizer-revision", "v1", "--port", port, "--host", "127.0.0.1", "--enforce-eager",
            "--max-model-len", "64", "--dtype", "bfloat16",
        ]  # fmt: skip
        with (tmp_path / "vllm.log").open("wb") as log:
            server = subprocess.Popen(
                command, env={**env, "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": ""}, stdout=log, stderr=log,
                cwd=tmp_path, start_new_session=True,
            )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}/v1"
            wait_until(lambda: server.poll() is not None or _answers(f"{url}/models"), 180, "vLLM to start")
            assert server.poll() is None, (tmp_path / "vllm.log").read_text()[-3000:]
            body = {"model": MODEL, "prompt": "my card", "max_tokens": 4, "temperature": 0}
            answer = httpx.post(f"{url}/completions", json=body, timeout=60, trust_env=False).json()
            assert answer["usage"]["completion_tokens"] >= 1
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(30)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
