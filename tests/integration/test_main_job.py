"""The demo as the end-to-end test of the main job, and the faults that it must survive."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from client_runs import run_script
from integration_helpers import Installation, wait_until

from finmaas_platform.sdk import Client

pytestmark = [pytest.mark.integration]
DEMO_LIMIT_S = 600
SHAPES = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}


@pytest.fixture(scope="module")
def demo(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:  # type: ignore[type-arg]
    """The report of the demo, run on the shared installation in a folder of its own."""
    folder = tmp_path_factory.mktemp("demo")
    done = run_demo(installation, folder)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads((folder / "build" / "demo" / "report.json").read_text()), folder


def run_demo(installation: Installation, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "finmaas_platform.demo", *options],
        cwd=folder,
        env=installation.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_LIMIT_S * 2,
    )


@pytest.mark.timeout(DEMO_LIMIT_S * 2)
class TestDemo:
    def test_it_ends_in_time_with_a_model_that_beats_what_stands_beside_it(self, demo: tuple[dict, Path]) -> None:  # type: ignore[type-arg]
        report, _ = demo
        assert report["seconds_total"] <= DEMO_LIMIT_S
        scores = report["eval"]
        assert scores["exact_match"] >= 0.83  # 0.852 where it was measured; bf16 differs a little between processors
        assert scores["exact_match"] > scores["tfidf_exact_match"] > scores["base_exact_match"]
        assert report["train"]["tokens_per_s"] > 0
        assert report["gateway"]["tokens_per_s"] > 0
        assert report["gateway"]["ttft_ms_p50"] < 500

    def test_run_again_it_is_quick_and_repeats_nothing(
        self, demo: tuple[dict, Path], installation: Installation
    ) -> None:  # type: ignore[type-arg]
        first, folder = demo
        with installation.client() as client:
            before = count_things(client)
            done = run_demo(installation, folder)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
            again = json.loads((folder / "build" / "demo" / "report.json").read_text())
            assert again["seconds_total"] < 60
            assert again["eval"]["exact_match"] == first["eval"]["exact_match"]
            assert count_things(client) == before

    def test_the_stock_client_gets_the_right_answer_and_is_metered(
        self,
        demo: tuple[dict, Path],
        installation: Installation,  # type: ignore[type-arg]
    ) -> None:
        endpoint = demo[0]["endpoint"].rsplit("/", 1)[-1]
        with installation.client() as client:
            key = client.keys.create("default/default", "stock-client")
            assert key.key
            gateway = openai.OpenAI(base_url=f"{installation.settings.gateway_url}/v1", api_key=key.key, max_retries=5)
            wait_until(lambda: knows(gateway, endpoint), 30, "the gateway learns the key")
            row = client.datasets.rows("intents", split="train", limit=1)[0]
            answer = gateway.chat.completions.create(
                model=endpoint, messages=[{"role": "user", "content": row["text"]}], temperature=0
            )
            assert answer.choices[0].message.content == row["label"]
            wait_until(lambda: usage_of(client, key.id), 15, "the usage record arrives")

    def test_every_client_gets_answers_of_every_shape_from_the_engine(
        self,
        demo: tuple[dict, Path],
        installation: Installation,  # type: ignore[type-arg]
    ) -> None:
        endpoint = demo[0]["endpoint"].rsplit("/", 1)[-1]
        url = installation.settings.gateway_url
        with installation.client() as client:
            made = client.keys.create("default/default", "clients")
            assert made.key
            gateway = openai.OpenAI(base_url=f"{url}/v1", api_key=made.key, max_retries=5)
            wait_until(lambda: knows(gateway, endpoint), 30, "the gateway learns the key")
            scripts = ("use_openai.py", "use_anthropic.py", "use_openai.mjs", "use_langchain.py", "use_llamaindex.py")
            for script in scripts:
                seen = run_script(script, url, made.key, endpoint, live=True)
                texts = {name: text for name, text in seen.items() if isinstance(text, str)}
                assert all(texts.values()), (script, seen)
            wait_until(lambda: {r.path for r in usage_of(client, made.id)} >= SHAPES, 15, "usage of every shape")
            for record in usage_of(client, made.id):
                if record.status == 200 and record.path != "/v1/messages/count_tokens":
                    assert record.prompt_tokens > 0
                    assert record.completion_tokens > 0

    def test_a_policy_marks_what_the_endpoint_answers_and_the_mark_can_be_verified(
        self,
        demo: tuple[dict, Path],
        installation: Installation,  # type: ignore[type-arg]
    ) -> None:
        endpoint = demo[0]["endpoint"].rsplit("/", 1)[-1]
        policy = {
            "rules": [{"rule": "cn_mobile", "input": "mask"}, {"rule": "cloud_key", "input": "block"}],
            "marks": {"text": "（AI）", "provenance": True},
        }
        with installation.client() as client:
            key = client.keys.create("default/default", "marked").key
            headers = {"Authorization": f"Bearer {key}"}

            def ask(text: str, **more: object) -> httpx.Response:
                body = {"model": endpoint, "messages": [{"role": "user", "content": text}], "max_tokens": 16, **more}
                url = f"{installation.settings.gateway_url}/v1/chat/completions"
                return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)

            client.policies.set("default/default", policy)
            try:
                wait_until(
                    lambda: "provenance" in ask("我的手机13800138000").text, 30, "the gateway follows the policy"
                )
                for stream in (False, True):
                    answer = ask("我的手机13800138000丢了", stream=stream)
                    assert "（AI）" in answer.text
                    assert client.policies.prove(answer.text).verdict == "genuine"
                    assert client.policies.prove(answer.text.replace("（AI）", "")).verdict == "altered"
                assert ask("AKIAIOSFODNN7EXAMPLE").json()["error"]["code"] == "content_policy_violation"
            finally:
                client.policies.remove("default/default")


@pytest.mark.timeout(DEMO_LIMIT_S * 2)
class TestRealData:
    """The same job on BANKING77, with a third of the epochs: docs/benchmarks.md has the figure of the whole run."""

    def test_the_users_own_file_goes_the_same_way(
        self, real_data: Path, installation: Installation, tmp_path: Path
    ) -> None:
        file = real_data / "banking77" / "banking77.csv"
        options = ("--data", str(file), "--text", "text", "--label", "category", "--epochs", "3")
        done = run_demo(installation, tmp_path, *options)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        report = json.loads((tmp_path / "build" / "demo" / "report.json").read_text())
        assert report["endpoint"] == "default/default/banking77"
        assert report["dataset"]["rows"] > 9_000
        scores = report["eval"]
        assert scores["exact_match"] > 0.6 > scores["majority_exact_match"] >= 0.0
        assert report["gateway"]["exact_match"] > 0.5  # what the endpoint says agrees with what was evaluated


def knows(gateway: openai.OpenAI, endpoint: str) -> bool:
    try:
        return endpoint in {model.id for model in gateway.models.list()}
    except openai.AuthenticationError:
        return False


def usage_of(client: Client, key_id: str) -> list[object]:
    return [record for record in client.usage.records(project="default/default") if record.key_id == key_id]


def count_things(client: Client) -> dict[str, int]:
    def count(things: Iterator[object]) -> int:
        return sum(1 for _ in things)

    models = [model.name for model in client.models.list(project="default/default")]
    return {
        "datasets": count(client.datasets.versions("intents")),
        "model versions": sum(count(client.models.versions(name)) for name in models),
        "jobs": count(client.jobs.list(project="default/default")),
        "endpoints": count(client.endpoints.list(project="default/default")),
    }
