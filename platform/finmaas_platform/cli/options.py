"""Options and arguments that several commands share, and the connection that each command opens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finmaas_platform.sdk.refs import DEFAULT_PROJECT

if TYPE_CHECKING:
    from finmaas_platform.sdk.client import Client
    from finmaas_platform.sdk.hub_import import HubSource

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
ProjectOption = Annotated[
    str,
    typer.Option("--project", "-p", envvar="FINMAAS_PROJECT", help="Project, as tenant/project."),
]
AnyProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", envvar="FINMAAS_PROJECT", help="Only this project, as tenant/project.", show_default=False
    ),
]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end and show how it goes.")]

HUB = "https://huggingface.co"
EndpointOption = Annotated[
    str, typer.Option("--endpoint", envvar="HF_ENDPOINT", help="With --hub: the Hub, or a mirror of it.")
]
RevisionOption = Annotated[str, typer.Option("--revision", help="With --hub: branch, tag or commit of the repository.")]

DATA = "Data and models"
WORK = "Training and evaluation"
SERVING = "Serving"
ADMINISTRATION = "Administration"

__all__ = ["DEFAULT_PROJECT"]


def connect() -> Client:
    """The client of this installation; tests put another in its place."""
    from finmaas_platform.sdk.client import Client

    return Client()


def open_hub(endpoint: str, repo: str, revision: str, kind: Literal["model", "dataset"]) -> HubSource:
    """A repository of a Hub, read with HF_TOKEN if it is set."""
    from finmaas_platform.sdk.hub_import import HubSource

    return HubSource(endpoint, repo, revision, os.environ.get("HF_TOKEN"), kind=kind)


def complete_job(incomplete: str) -> list[str]:
    """Ids of jobs for the shell; nothing where the platform does not answer."""
    return _complete_quietly(incomplete, lambda client: (job.id for job in client.jobs.list(limit=100)))


def complete_endpoint(incomplete: str) -> list[str]:
    """Names of endpoints for the shell."""
    return _complete_quietly(incomplete, lambda client: (item.name for item in client.endpoints.list()))


def complete_model(incomplete: str) -> list[str]:
    """Names of models for the shell."""
    return _complete_quietly(incomplete, lambda client: (item.name for item in client.models.list()))


def complete_dataset(incomplete: str) -> list[str]:
    """Names of datasets for the shell."""
    return _complete_quietly(incomplete, lambda client: (item.name for item in client.datasets.list()))


def _complete_quietly(incomplete: str, find_names: Callable[[Client], Iterable[str]]) -> list[str]:
    from finmaas_core.errors import FinmaasError

    try:
        with connect() as client:
            return [name for name in find_names(client) if name.startswith(incomplete)]
    except FinmaasError:
        return []
