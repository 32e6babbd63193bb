"""Which blob store an installation has: wiring from settings, done once at the start of a control plane."""

from __future__ import annotations

from finmaas_core.errors import EnvironmentFault
from finmaas_core.settings import Settings
from finmaas_registry.store import BlobStore, FolderStore


def make_store(settings: Settings) -> BlobStore:
    """The store, ready: its folder or bucket is there, and what killed writers left is removed.

    Raises EnvironmentFault for settings that cannot be used, Unavailable for an S3 server that does not answer.
    """
    if settings.s3_endpoint:
        return _make_s3_store(settings)
    folder = FolderStore(settings.paths.blobs)
    folder.sweep()
    return folder


def _make_s3_store(settings: Settings) -> BlobStore:
    from finmaas_registry.s3_client import S3Address
    from finmaas_registry.s3_store import S3Store  # the SDK is loaded only where it is used

    if not settings.s3_access_key.get_secret_value() or not settings.s3_secret_key.get_secret_value():
        raise EnvironmentFault(
            "s3_endpoint is set, its keys are not; give FINMAAS_S3_ACCESS_KEY and FINMAAS_S3_SECRET_KEY"
        )
    address = S3Address(
        settings.s3_endpoint,
        settings.s3_bucket,
        settings.s3_access_key,
        settings.s3_secret_key,
        settings.s3_region,
        settings.s3_prefix,
        settings.s3_ca_file,
    )
    store = S3Store(address)
    store.ensure_bucket()
    store.sweep()
    return store
