"""Training jobs on a real Ray cluster with DeepSpeed: they learn, survive the death of a worker, stop when asked."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from finmaas_core.home import write_secret
from finmaas_core.settings import Settings
from finmaas_platform.cluster.ray_head import ray_head_command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


class Cluster:
    """A Ray head of our own, started as the embedded profile starts it: its address and the environment of its jobs."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home, port_base=_free_block(), ray_slots=8)
        settings.paths.make()
        write_secret(settings.paths.ray_token, "0123456789abcdef" * 4)
        command, additional = ray_head_command(settings)
        self.env = {**os.environ, **additional, "CUDA_VISIBLE_DEVICES": ""}
        self.address = f"{settings.host}:{settings.port('ray_gcs')}"
        self._temp = settings.paths.ray_temp
        self._log_path = home / "head.log"
        for _ in range(5):
            with self._log_path.open("w") as log:
                self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=subprocess.STDOUT)
            if self._is_ready_in_the_end():
                return
            self.close()
        raise AssertionError(self._log_path.read_text())

    def _is_ready_in_the_end(self) -> bool:
        """False when it ends: the raylet gives its agents 15 s to start, which busy cores may exceed."""
        while "Ray runtime started" not in self._log_path.read_text():
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
            if self.process.poll() is not None:
                return False
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            head = psutil.Process(self.process.pid)
            family = [*head.children(recursive=True), head]
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            for process in psutil.wait_procs(family, timeout=20)[1]:
                process.kill()
        shutil.rmtree(self._temp, ignore_errors=True)

    def workers(self) -> list[psutil.Process]:
        """Living training workers of this cluster."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in family if any("RayTrainWorker" in part for part in _command(p))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _free_block(size: int = 90) -> int:
    """The first of `size` ports in a row below the system's own range, none of them taken now."""
    start = 20_000 + os.getpid() % 80 * 100
    for base in (20_000 + (start - 20_000 + 100 * i) % 8_000 for i in range(80)):
        if all(_is_free(port) for port in range(base, base + size)):
            return base
    raise AssertionError("no block of free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    for part in ("ray", "deepspeed", "torch", "transformers"):
        pytest.importorskip(part)
    with tempfile.TemporaryDirectory(prefix="fmT", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder))
        yield cluster
        cluster.close()


SPEC = {
    "base": "tiny@1",
    "dataset": "topics@1",
    "output": "topics-model",
    "workers": 2,
    "batch_size": 32,
    "epochs": 10,
    "learning_rate": 5e-3,
    "max_length": 64,
    "log_every_steps": 1,
    "checkpoint_every_steps": 7,
    "seed": 3,
}


class Run:
    """One attempt, started as Ray's job supervisor would start it."""

    def __init__(self, cluster: Cluster, control: Any, cache: Path, attempt: int = 1) -> None:
        node_token = cache / "node.token"
        node_token.write_text("fmn_test\n")
        env = {
            **cluster.env,
            "RAY_ADDRESS": cluster.address,
            "FINMAAS_API_URL": control.url,
            "FINMAAS_CLUSTER_TOKEN_FILE": str(node_token),
            "FINMAAS_CACHE_DIR": str(cache),
            "FINMAAS_JOB_ID": "job_test",
            "FINMAAS_ATTEMPT": str(attempt),
        }
        self._log = cache / f"job-{attempt}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finmaas_training.job_main"], env=env, stdout=log, stderr=subprocess.STDOUT
            )

    def wait(self, timeout_s: float = 400) -> int:
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()

    def wait_for_log(self, text: str, timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.log:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.5)
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log

    @property
    def log(self) -> str:
        return self._log.read_text()


def _prepare(control: Any, inputs: tuple[Path, Path], **changes: Any) -> None:
    dataset, base = inputs
    control.inputs = {
        "kind": "training",
        "spec": {**SPEC, **changes},
        "dataset": {
            "id": "dsv_1",
            "ref": "topics@1",
            "shape": "classification",
            "rows": 220,
            "files": control.add_folder(dataset),
        },
        "base": {"id": "mdv_1", "ref": "tiny@1", "kind": "full", "files": control.add_folder(base)},
        "subject": None,
    }


def _losses(control: Any) -> dict[int, float]:
    return {step: values["loss"] for step, values in control.points.items() if "loss" in values}


class TestTraining:
    def test_learns_on_two_workers_and_hands_in_a_model_that_loads(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs)
        run = Run(cluster, control, tmp_path)
        assert run.wait() == 0, run.log
        assert control.tokens_given == 1
        assert not control.failures
        losses = _losses(control)
        assert sorted(losses) == list(range(1, 51))
        assert losses[50] < 0.2 * losses[1]
        assert "validation_loss" in control.points[50]
        (result,) = control.results
        assert result["metrics"]["steps"] == 50
        assert "fmj_test" not in run.log
        model = tmp_path / "handed-in"
        model.mkdir()
        for file in result["files"]:
            (model / file["path"]).write_bytes(control.blobs[file["sha256"]])
        assert _answer(model, "block my lost card please") == "card"
        assert not (tmp_path / "jobs" / "job_test-1").exists()

    @pytest.mark.parametrize("precision", ["bf16", "fp32"])
    def test_killed_worker_goes_on_from_the_checkpoint_with_the_same_losses(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path, precision: str
    ) -> None:
        _prepare(control, tiny_inputs, precision=precision)
        assert Run(cluster, control, tmp_path).wait() == 0
        undisturbed, whole_result = _losses(control), control.results.pop()
        control.points.clear()
        control.checkpoints.clear()
        control.progress.clear()

        # Slow enough that the kill falls between the first checkpoint and the end, whatever the machine.
        run = Run(cluster, control, tmp_path)
        control.wait_until(lambda: control.checkpoints)
        victims = cluster.workers()
        assert len(victims) == 2, run.log
        victims[-1].send_signal(signal.SIGKILL)
        assert run.wait() == 0, run.log
        assert len([line for line in run.log.splitlines() if '"training.started"' in line]) == 2, run.log
        resumed = _losses(control)
        assert sorted(resumed) == sorted(undisturbed)
        for step, loss in undisturbed.items():
            assert math.isclose(resumed[step], loss, rel_tol=1e-5), (step, loss, resumed[step])
        assert control.results[0]["files"] == whole_result["files"]

    def test_a_later_attempt_goes_on_where_the_first_stood(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs)
        first = Run(cluster, control, tmp_path)
        control.wait_until(lambda: control.checkpoints)
        first.process.kill()
        first.process.wait()
        at = max(c["step"] for c in control.checkpoints)
        control.current_attempt = 2
        second = Run(cluster, control, tmp_path, attempt=2)
        assert second.wait() == 0, second.log
        started = [
            json.loads(line[line.index("{") :]) for line in second.log.splitlines() if "training.started" in line
        ]
        assert started[0]["step"] >= at

    def test_cancel_ends_the_run_without_a_result(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs, epochs=1000)
        run = Run(cluster, control, tmp_path)
        control.wait_until(lambda: len(control.points) > 3)
        control.cancel = True
        assert run.wait() == 3, run.log
        assert not control.results

    def test_goes_on_while_the_control_plane_is_away(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs, epochs=20)
        run = Run(cluster, control, tmp_path)
        control.wait_until(lambda: control.points)
        control.away = True
        run.wait_for_log('"step": 100, "loss"')  # the last step: trained to the end on its own
        control.away = False
        assert run.wait() == 0, run.log
        assert sorted(_losses(control)) == list(range(1, 101))
        assert len(control.results) == 1

    def test_zero_stage_three_learns_the_same_and_resumes(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs, precision="fp32", max_steps=12)
        assert Run(cluster, control, tmp_path).wait() == 0
        sharded_gradients, result = _losses(control), control.results.pop()
        control.points.clear()
        control.checkpoints.clear()

        _prepare(control, tiny_inputs, precision="fp32", max_steps=12, zero_stage=3)
        run = Run(cluster, control, tmp_path)
        assert run.wait() == 0, run.log
        assert _losses(control) == pytest.approx(sharded_gradients, rel=1e-4)
        weights = [f for f in control.results[0]["files"] if f["path"] == "model.safetensors"]
        assert [f["size"] for f in weights] == [f["size"] for f in result["files"] if f["path"] == "model.safetensors"]

        whole = _losses(control)
        run = Run(cluster, control, tmp_path)  # goes on from the checkpoint of step 7
        assert run.wait() == 0, run.log
        assert '"step": 7, "of": 12' in run.log
        assert _losses(control) == pytest.approx(whole, rel=1e-5)

    def test_inputs_that_cannot_work_are_refused_for_good(
        self, cluster: Cluster, control: Any, tiny_inputs: tuple[Path, Path], tmp_path: Path
    ) -> None:
        _prepare(control, tiny_inputs, max_length=4096)
        run = Run(cluster, control, tmp_path)
        assert run.wait() == 1, run.log
        (failure,) = control.failures
        assert failure["final"] is True
        assert "lower max_length" in failure["message"]


def _answer(folder: Path, text: str) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=8)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
