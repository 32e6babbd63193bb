"""The typed Python SDK. The CLI is written on it, so whatever the CLI does, a script can do.

    from finmaas_platform.sdk import Client

    with Client() as finmaas:
        intents = finmaas.datasets.import_file("intents.csv", name="intents", text="text", label="label")
        job = finmaas.jobs.submit("training", {"base": "tiny", "dataset": intents.ref, "output": "intents"})
        job = finmaas.jobs.wait(job.id)

Errors are the classes of `finmaas_core.errors`, rebuilt from the API's problem documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finmaas_platform.sdk.client import Client

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    """Imports the client at first use: the CLI shows its help without httpx and pydantic."""
    if name == "Client":
        from finmaas_platform.sdk.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
