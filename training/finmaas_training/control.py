"""How a job speaks with the control plane: its inputs, metrics, checkpoints and result, over HTTP.

Every call survives a control plane that is away for a while: it is repeated with growing pauses until its patience
ends. Calls are idempotent on the other side, so repeating is safe. Blobs travel by the registry's `RemoteBlobs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from finmaas_core.errors import FinmaasError, NotFound, StaleAttempt, Unavailable, all_error_classes
from finmaas_registry.manifest import FileEntry

PATIENCE_S = 30 * 60.0  # a control plane may be away for so long before a job gives up
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_ERRORS = {cls.code: cls for cls in all_error_classes()}


@dataclass(frozen=True)
class Credentials:
    """Where the control plane is, which attempt this is, and the attempt's token. Never printed whole."""

    api_url: str
    job_id: str
    attempt: int
    token: str = field(repr=False)


@dataclass(frozen=True)
class Artefact:
    """A dataset or model version among the inputs: `about` is its public description, `files` what it consists of."""

    about: Mapping[str, Any]
    files: tuple[FileEntry, ...]

    @property
    def id(self) -> str:
        return str(self.about["id"])

    @property
    def ref(self) -> str:
        return str(self.about.get("ref", self.id))


@dataclass(frozen=True)
class JobInputs:
    """What a job works on; `base` and `subject` are model versions and may be absent."""

    kind: str
    spec: Mapping[str, Any]
    dataset: Artefact
    base: Artefact | None = None
    subject: Artefact | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A registered checkpoint: the step it was taken after, its files, and what the loop needs beside them."""

    step: int
    files: tuple[FileEntry, ...]
    state: Mapping[str, Any]


def fetch_job_token(
    api_url: str, job_id: str, attempt: int, node_token: str, patience_s: float = PATIENCE_S
) -> Credentials:
    """Trades the node's token for this attempt's own. It is given out once; raises StaleAttempt when it is not ours."""
    headers = {"Authorization": f"Bearer {node_token}"}
    with httpx.Client(base_url=api_url, headers=headers, timeout=30, trust_env=False) as http:
        url = f"/api/v1/jobs/{job_id}/attempts/{attempt}/token"
        answer = _repeat(lambda: _checked(http.post(url)), patience_s)
    return Credentials(api_url, job_id, attempt, answer.json()["token"])


class JobClient:
    """The job protocol with one attempt's token. May be used by several threads."""

    def __init__(self, credentials: Credentials, patience_s: float = PATIENCE_S) -> None:
        self.credentials = credentials
        self._patience_s = patience_s
        self._path = f"/api/v1/jobs/{credentials.job_id}/attempts/{credentials.attempt}"
        self._http = httpx.Client(
            base_url=credentials.api_url,
            headers={"Authorization": f"Bearer {credentials.token}"},
            timeout=httpx.Timeout(60, connect=5),
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def get_inputs(self) -> JobInputs:
        """What this attempt is to work on."""
        body = self._call("GET", f"{self._path}/inputs").json()
        return JobInputs(
            kind=body["kind"],
            spec=body["spec"],
            dataset=_artefact(body["dataset"]),
            base=_artefact(body["base"]) if body.get("base") else None,
            subject=_artefact(body["subject"]) if body.get("subject") else None,
        )

    def post_metrics(
        self, points: Sequence[Mapping[str, Any]], progress: Mapping[str, Any] | None, patience_s: float = 0
    ) -> bool:
        """Sends metric points (idempotent by step) and the progress; True means the user asked to cancel."""
        body = {"points": list(points), "progress": progress}
        answer = self._call("POST", f"{self._path}/metrics", body, patience_s)
        return bool(answer.json().get("cancel", False))

    def register_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Makes an uploaded checkpoint the newest of this job."""
        body = {
            "step": checkpoint.step,
            "files": [file.as_json() for file in checkpoint.files],
            "state": dict(checkpoint.state),
        }
        self._call("POST", f"{self._path}/checkpoints", body)

    def find_latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint of any attempt of this job, or None."""
        try:
            body = self._call("GET", f"{self._path}/checkpoints/latest").json()
        except NotFound:
            return None
        return Checkpoint(int(body["step"]), _files(body["files"]), body.get("state") or {})

    def post_result(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Hands the result over; repeating it changes nothing. Returns what the control plane made of it."""
        answer: Mapping[str, Any] = self._call("POST", f"{self._path}/result", dict(body)).json()
        return answer

    def post_failure(self, message: str, final: bool) -> None:
        """Says why this attempt is about to end; a final reason is not tried again."""
        self._call("POST", f"{self._path}/failure", {"message": message or "unknown", "final": final})

    def _call(
        self, method: str, url: str, body: Mapping[str, Any] | None = None, patience_s: float | None = None
    ) -> httpx.Response:
        patience = self._patience_s if patience_s is None else patience_s
        return _repeat(lambda: _checked(self._http.request(method, url, json=body)), patience)


def _repeat(call: Callable[[], httpx.Response], patience_s: float) -> httpx.Response:
    """Calls until it works, a lasting error comes, or the patience ends (then raises Unavailable)."""
    end = time.monotonic() + patience_s
    pause = FIRST_PAUSE_S
    while True:
        try:
            return call()
        except httpx.TransportError as error:
            failure = Unavailable(f"the control plane does not answer ({error!r}); is it running?")
        except Unavailable as error:
            failure = error
        if time.monotonic() + pause > end:
            raise failure
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _checked(response: httpx.Response) -> httpx.Response:
    """Returns a good answer, else raises the error class that its problem document names."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    message = str(problem.get("detail") or problem.get("title") or response.reason_phrase)
    where = f"{response.request.method} {response.request.url.path}"
    if response.status_code in _TRANSIENT:
        raise Unavailable(f"{where} answered {response.status_code}: {message}")
    if response.status_code == 404:
        raise NotFound(f"{where}: {message}")
    code = str(problem.get("code", ""))
    if code == StaleAttempt.code:
        raise StaleAttempt(message)
    raise _ERRORS.get(code, FinmaasError)(f"{where} answered {response.status_code}: {message}")


def _artefact(body: Mapping[str, Any]) -> Artefact:
    about = {key: value for key, value in body.items() if key != "files"}
    return Artefact(about, _files(body["files"]))


def _files(items: Sequence[Mapping[str, Any]]) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(str(f["path"]), str(f["sha256"]), int(f["size"])) for f in items)
