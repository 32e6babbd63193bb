"""The blob store as an admin sees it."""

from __future__ import annotations

from datetime import datetime

from finmaas_platform.sdk.objects import ApiObject
from finmaas_platform.sdk.transport import Transport


class Collection(ApiObject):
    """What a garbage collection found, and removed unless it was a dry run."""

    dry_run: bool
    blobs: int
    named: int
    waiting: int
    held: int = 0
    held_until: datetime | None = None
    removed: int
    removed_bytes: int
    examples: list[str]


class Store:
    """`client.store`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def collect(self, *, dry_run: bool = True, grace_hours: float = 24) -> Collection:
        """Removes what nothing names and nobody asked for within the grace period; a dry run only says what."""
        body = {"dry_run": dry_run, "grace_hours": grace_hours}
        return Collection.model_validate(self._http.write("POST", "/collections", body, is_long=True))

    def rotate_key(self) -> str:
        """Makes a new wrapping key over all data keys and names it. Conflict where blobs are not encrypted."""
        name: str = self._http.write("POST", "/collections/wrapping-key")["wrapping_key"]
        return name
