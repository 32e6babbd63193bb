"""The route of garbage collection: what nothing names is removed from the blob store, after a look without a touch."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import APIRouter
from pydantic import BaseModel, Field

from finmaas_platform.api.dependencies import CallerDep, DepsDep
from finmaas_platform.api.requests import RequestBody
from finmaas_platform.services.blob_keys import rotate_wrapping_key
from finmaas_platform.services.collection import collect

router = APIRouter(prefix="/collections", tags=["blobs"])


class CollectionBody(RequestBody):
    """How to collect."""

    dry_run: bool = Field(True, description="Only say what would be removed.")
    grace_hours: float = Field(24, ge=1, le=24 * 365, description="What was asked for so lately stays.")


class CollectionView(BaseModel):
    """What was found, and removed unless it was a dry run."""

    dry_run: bool
    blobs: int
    named: int
    waiting: int
    held: int = Field(description="Garbage that the bucket keeps locked, the last of it until `held_until`.")
    held_until: datetime | None
    removed: int
    removed_bytes: int
    examples: list[str]


@router.post("", summary="Collect garbage of the blob store")
def post_collection(body: CollectionBody, caller: CallerDep, deps: DepsDep) -> CollectionView:
    """Blobs that no version, draft, job or file names. Platform-admins only; safe beside uploads."""
    found = collect(deps, caller, dry_run=body.dry_run, grace=timedelta(hours=body.grace_hours))
    return CollectionView(**vars(found))


class WrappingKeyView(BaseModel):
    """The key that wraps the data keys now."""

    wrapping_key: str


@router.post("/wrapping-key", summary="Rotate the key that wraps blobs' data keys")
def post_wrapping_key(caller: CallerDep, deps: DepsDep) -> WrappingKeyView:
    """Wraps every data key anew; no blob is rewritten. Platform-admins only; 409 where blobs are not encrypted."""
    return WrappingKeyView(wrapping_key=rotate_wrapping_key(deps, caller))
