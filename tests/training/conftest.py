"""A control plane of the job protocol alone, over real HTTP, and tiny inputs: what a training needs to run for real."""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NODE_TOKEN, JOB_TOKEN = "fmn_test", "fmj_test"
ATTEMPT = re.compile(r"^/api/v1/jobs/job_test/attempts/(\d+)/(\w+)(/latest)?$")


class FakeControlPlane:
    """Keeps what jobs post; `changed` is notified at every post. `away` makes it answer 503."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.inputs: dict[str, Any] = {}
        self.points: dict[int, dict[str, float]] = {}
        self.progress: list[dict[str, Any]] = []
        self.checkpoints: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        self.cancel = False
        self.away = False
        self.current_attempt = 1
        self.tokens_given = 0
        self.changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_until(self, condition: Any, timeout_s: float = 300) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, timeout_s), "the awaited state did not come"

    def add_folder(self, folder: Path) -> list[dict[str, Any]]:
        """Puts a folder's files as blobs and returns their manifest entries."""
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            self.blobs[digest] = data
            files.append({"path": path.relative_to(folder).as_posix(), "sha256": digest, "size": len(data)})
        return files

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, bytes]:
        if self.away:
            return 503, b"{}"
        if path.startswith("/api/v1/blobs/"):
            return self._answer_blob(method, path.rsplit("/", 1)[1], body)
        match = ATTEMPT.match(path)
        if not match:
            return 404, _problem("not_found")
        attempt, noun, latest = int(match[1]), match[2], match[3]
        if attempt != self.current_attempt:
            return 409, _problem("stale_attempt")
        if noun == "token":
            self.tokens_given += 1
            return (201, json.dumps({"token": JOB_TOKEN}).encode()) if token == NODE_TOKEN else (401, b"{}")
        if token != JOB_TOKEN:
            return 401, _problem("not_authenticated")
        with self.changed:
            status, answer = self._answer_job(noun, bool(latest), json.loads(body) if body else {})
            self.changed.notify_all()
        return status, json.dumps(answer).encode()

    def _answer_blob(self, method: str, digest: str, body: bytes) -> tuple[int, bytes]:
        if method == "PUT":
            assert hashlib.sha256(body).hexdigest() == digest
            self.blobs[digest] = body
            return 201, b"{}"
        return (200, self.blobs[digest]) if digest in self.blobs else (404, _problem("not_found"))

    def _answer_job(self, noun: str, latest: bool, body: dict[str, Any]) -> tuple[int, Any]:
        if noun == "inputs":
            return 200, self.inputs
        if noun == "metrics":
            self.points.update({point["step"]: point["values"] for point in body["points"]})
            if body["progress"]:
                self.progress.append(body["progress"])
            return 200, {"cancel": self.cancel}
        if latest:
            newest = max(self.checkpoints, key=lambda c: c["step"], default=None)
            return (200, newest) if newest else (404, {"code": "not_found"})
        kept = {"checkpoints": self.checkpoints, "result": self.results, "failure": self.failures}[noun]
        kept.append(body)
        return 200, body


def _problem(code: str) -> bytes:
    return json.dumps({"code": code, "detail": code}).encode()


def _handler_of(control: FakeControlPlane) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = control.answer(self.command, self.path, token, body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_PUT = do_POST = do_HEAD = _handle  # noqa: N815 - names of the library

        def log_message(self, *_: object) -> None: ...

    return Handler


@pytest.fixture
def control() -> Iterator[FakeControlPlane]:
    plane = FakeControlPlane()
    yield plane
    plane.close()


TOPICS = {"card": "lost card block replace", "loan": "rate loan borrow repay", "transfer": "send money abroad account"}


@pytest.fixture(scope="session")
def tiny_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset folder (160 training rows, 3 labels) and a base of some 0.1 M parameters."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    base_model = pytest.importorskip("finmaas_training.base_model")
    rng = random.Random(5)
    rows = []
    for _ in range(220):
        label = rng.choice(sorted(TOPICS))
        words = rng.choices(TOPICS[label].split(), k=rng.randint(2, 12)) + rng.choices(["please", "now", "my"], k=2)
        rows.append({"text": " ".join(words), "label": label})
    folder = tmp_path_factory.mktemp("inputs")
    dataset, base = folder / "dataset", folder / "base"
    (dataset / "data").mkdir(parents=True)
    for split, part in (("train", rows[:160]), ("validation", rows[160:190]), ("test", rows[190:])):
        pq.write_table(pa.Table.from_pylist(part), dataset / "data" / f"{split}.parquet")
    shape = base_model.BaseShape(vocabulary=320, hidden=64, layers=2, heads=2, feed_forward=128, positions=128)
    base_model.build_base([f"{r['text']} {r['label']}" for r in rows], base, shape=shape)
    return dataset, base
