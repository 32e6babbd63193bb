"""What the control plane asks of a Ray cluster, as two small ports. Adapters speak HTTP; none imports ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class RunState(StrEnum):
    """State of a submitted job as the cluster tells it."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class JobSubmission:
    """One attempt of one job; `submission_id` is `<job id>-<attempt>` and fences it. `env` never holds secrets."""

    submission_id: str
    entrypoint: str
    env: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ObservedRun:
    """What the cluster says of one submission."""

    submission_id: str
    state: RunState
    message: str = ""


@dataclass(frozen=True)
class ServeApplication:
    """One endpoint as a Ray Serve application; `name` is the endpoint's id. `args` are JSON and hold no secret."""

    name: str
    import_path: str
    args: Mapping[str, Any]


class ApplicationState(StrEnum):
    """State of a Serve application as the cluster tells it."""

    DEPLOYING = "deploying"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    FAILED = "failed"
    DELETING = "deleting"


@dataclass(frozen=True)
class ObservedApplication:
    """What the cluster says of one Serve application; `replicas` are addresses `host:port` that take requests.

    `args` are those that the cluster now runs, so that a plan can tell whether they differ from the wanted ones.
    """

    name: str
    state: ApplicationState
    message: str = ""
    replicas: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)


class JobCluster(Protocol):
    """Runs jobs. Every method raises Unavailable when the cluster does not answer."""

    def submit(self, submission: JobSubmission) -> None:
        """Submits; a second call with the same id does nothing."""

    def observe_runs(self) -> Mapping[str, ObservedRun]:
        """All submissions that this cluster knows, by id."""
        ...

    def stop(self, submission_id: str) -> None:
        """Asks for the end of a run; unknown ids are no error."""

    def read_logs(self, submission_id: str, offset: int = 0) -> str:
        """The log text from a character offset on; empty when there is none (yet)."""
        ...


class ServeCluster(Protocol):
    """Holds Serve applications. Every method raises Unavailable when the cluster does not answer."""

    def put_applications(self, applications: Sequence[ServeApplication]) -> None:
        """Makes exactly these applications the wanted ones: Serve's document is whole, what it lacks is deleted."""

    def observe_applications(self) -> Mapping[str, ObservedApplication]:
        """All applications, by name; empty when Serve does not run yet."""
        ...


class Cluster(JobCluster, ServeCluster, Protocol):
    """A Ray cluster, whole."""
