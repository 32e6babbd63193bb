"""A Ray cluster over its REST APIs (jobs and Serve). Nothing here imports ray.

Both APIs are remote code execution by design, so the dashboard wants Ray's token as a bearer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from finmaas_core.errors import InvalidInput, Unavailable
from finmaas_core.home import read_secret
from finmaas_platform.cluster.port import (
    ApplicationState,
    JobSubmission,
    ObservedApplication,
    ObservedRun,
    RunState,
    ServeApplication,
)
from finmaas_serving.replicas import parse_replicas

_RUN_STATES = {
    "PENDING": RunState.PENDING,
    "RUNNING": RunState.RUNNING,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "STOPPED": RunState.STOPPED,
}
_APPLICATION_STATES = {
    "NOT_STARTED": ApplicationState.DEPLOYING,
    "DEPLOYING": ApplicationState.DEPLOYING,
    "RUNNING": ApplicationState.RUNNING,
    "UNHEALTHY": ApplicationState.UNHEALTHY,
    "DEPLOY_FAILED": ApplicationState.FAILED,
    "DELETING": ApplicationState.DELETING,
}
_SERVE = "/api/serve/applications/"
# Starting Serve (the first PUT) starts its controller process, which takes several seconds on a busy machine.
_PUT_TIMEOUT_S = 120.0
_MESSAGE_CHARS = 4000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# Where a traceback says what happened: a dotted or telling name at the beginning of a line. The rest is the message.
_EXCEPTION = re.compile(r"^((?:[a-z_]\w*\.)+[A-Z]\w*|[A-Z]\w*(?:Error|Exception))(?:\(\w+\))?: ", re.MULTILINE)


class RayCluster:
    """Jobs and Serve applications of one Ray cluster. Every method raises Unavailable when it does not answer."""

    def __init__(
        self,
        dashboard_url: str,
        token_file: Path,
        *,
        http_host: str = "127.0.0.1",
        http_port: int = 8000,
        timeout_s: float = 10.0,
    ) -> None:
        self._url = dashboard_url
        self._token_file = token_file
        self._http_options = {"host": http_host, "port": http_port}
        self._client = httpx.Client(base_url=dashboard_url, timeout=httpx.Timeout(timeout_s, connect=3.0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def submit(self, submission: JobSubmission) -> None:
        """Submits a job; one with the same submission id is left as it is."""
        body = {
            "submission_id": submission.submission_id,
            "entrypoint": submission.entrypoint,
            "runtime_env": {"env_vars": dict(submission.env)},
            "metadata": dict(submission.metadata),
        }
        answer = self._request("POST", "/api/jobs/", json=body, timeout=60.0)
        if answer.is_success or self._knows_run(submission.submission_id):
            return
        raise self._failure("submit a job", answer)

    def observe_runs(self) -> Mapping[str, ObservedRun]:
        """All submissions that this cluster knows, by id. Drivers that nobody submitted are left out."""
        jobs = self._get("/api/jobs/").json()
        return {job["submission_id"]: _observed_run(job) for job in jobs if job.get("type") == "SUBMISSION"}

    def stop(self, submission_id: str) -> None:
        """Asks for the end of a run; unknown ids and ended runs are no error."""
        answer = self._request("POST", f"/api/jobs/{submission_id}/stop")
        if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
            raise self._failure("stop a job", answer)

    def read_logs(self, submission_id: str, offset: int = 0) -> str:
        """The job's log from a character offset on; empty when there is none (yet)."""
        answer = self._request("GET", f"/api/jobs/{submission_id}/logs")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return ""
        if not answer.is_success:
            raise self._failure("read a job's log", answer)
        return str(answer.json().get("logs") or "")[offset:]

    def put_applications(self, applications: Sequence[ServeApplication]) -> None:
        """Makes exactly these applications the wanted ones. Those whose document did not change are not touched."""
        document = plan_serve_document(applications, self._http_options)
        answer = self._request("PUT", _SERVE, json=document, timeout=_PUT_TIMEOUT_S)
        if not answer.is_success:
            raise self._failure("deploy", answer)

    def observe_applications(self) -> Mapping[str, ObservedApplication]:
        """All applications, by name; empty when Serve does not run yet."""
        return parse_applications(self._get(_SERVE).json())

    def _knows_run(self, submission_id: str) -> bool:
        return self._request("GET", f"/api/jobs/{submission_id}").is_success

    def _get(self, path: str) -> httpx.Response:
        answer = self._request("GET", path)
        if not answer.is_success:
            raise self._failure(f"read {path}", answer)
        return answer

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            # Read each time: a new head may have a new token.
            headers = {"Authorization": f"Bearer {read_secret(self._token_file)}"}
            answer = self._client.request(method, path, headers=headers, **kwargs)
        except (httpx.HTTPError, OSError) as error:
            raise Unavailable(
                f"Ray at {self._url} does not answer ({type(error).__name__}: {error}); "
                "it is being started, or see `finmaas logs ray`"
            ) from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise Unavailable(f"Ray at {self._url} refuses the token in {self._token_file}; is this another one's Ray?")
        return answer

    def _failure(self, doing: str, answer: httpx.Response) -> Exception:
        text = answer.text[-_MESSAGE_CHARS:]
        message = f"Ray at {self._url} could not {doing}: {answer.status_code} {text}"
        return InvalidInput(message) if answer.status_code == httpx.codes.BAD_REQUEST else Unavailable(message)


def plan_serve_document(applications: Sequence[ServeApplication], http_options: Mapping[str, Any]) -> dict[str, Any]:
    """Serve's whole configuration. The order is that of the names, so that equal plans give equal documents."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": dict(http_options),
        "applications": [
            {
                "name": application.name,
                "route_prefix": f"/{application.name}",
                "import_path": application.import_path,
                "args": dict(application.args),
            }
            for application in sorted(applications, key=lambda one: one.name)
        ],
    }


def parse_applications(document: Mapping[str, Any]) -> dict[str, ObservedApplication]:
    """What Serve's REST document says of each application."""
    replicas = parse_replicas(document)
    return {
        name: ObservedApplication(
            name=name,
            state=_APPLICATION_STATES.get(str(details.get("status")), ApplicationState.DEPLOYING),
            message=_explain(details),
            replicas=tuple(f"{host}:{port}" for host, port in replicas.get(name, [])),
            args=(details.get("deployed_app_config") or {}).get("args") or {},
        )
        for name, details in (document.get("applications") or {}).items()
    }


def _explain(details: Mapping[str, Any]) -> str:
    """What the application and its deployments say, without the stacks of a failure."""
    parts = [str(details.get("message") or "")]
    parts += [str(one.get("message") or "") for one in (details.get("deployments") or {}).values()]
    return "\n".join(dict.fromkeys(find_reason(part) for part in parts if part))[:_MESSAGE_CHARS]


def find_reason(text: str) -> str:
    """The last exception of a traceback in a text, as `Name: message`; our own errors without the name.

    A text without a traceback is returned as it is, without colours.
    """
    plain = _COLOURS.sub("", text).strip()
    if "Traceback (most recent call last)" not in plain:
        return plain
    found = list(_EXCEPTION.finditer(plain))
    if not found:
        return plain.splitlines()[-1]
    last = found[-1]
    name, message = last[1], plain[last.end() :]
    return message if name.startswith("finmaas_core.errors.") else f"{name.rsplit('.', 1)[-1]}: {message}"


def _observed_run(job: Mapping[str, Any]) -> ObservedRun:
    state = _RUN_STATES.get(str(job.get("status")), RunState.PENDING)
    return ObservedRun(str(job["submission_id"]), state, str(job.get("message") or "")[-_MESSAGE_CHARS:])
