"""Which blob store an installation has: wiring from settings, done once at the start of a control plane."""

from __future__ import annotations

from collections.abc import Sequence

from finmaas_core.clock import Clock
from finmaas_core.errors import EnvironmentFault
from finmaas_core.settings import Settings
from finmaas_platform.db.base import SessionFactory
from finmaas_platform.services.blob_keys import DatabaseKeys
from finmaas_registry.keyring import FileKeyRing, KeyRing, VaultKeyRing
from finmaas_registry.sealing import PLAIN, Codec, Sealed
from finmaas_registry.store import BlobStore, FolderStore


def make_store(settings: Settings, codecs: Sequence[Codec] = (PLAIN,)) -> BlobStore:
    """The store, ready: its folder or bucket is there, and what killed writers left is removed.

    Raises EnvironmentFault for settings that cannot be used, Unavailable for an S3 server that does not answer.
    """
    if settings.s3_endpoint:
        return _make_s3_store(settings, codecs)
    folder = FolderStore(settings.paths.blobs, codecs)
    folder.sweep()
    return folder


def make_codecs(settings: Settings, sessions: SessionFactory, clock: Clock) -> Sequence[Codec]:
    """How blobs are written (first) and read: sealed ones stay readable after encryption was switched off, and back."""
    ring = make_key_ring(settings)
    if ring is None:
        return (PLAIN,)
    sealed = Sealed(DatabaseKeys(ring, sessions, clock))
    return (PLAIN, sealed) if settings.blob_encryption == "off" else (sealed, PLAIN)


def make_key_ring(settings: Settings) -> KeyRing | None:
    """The ring that settings name; None where nothing was ever sealed."""
    path = settings.paths.secrets / "blob-ring.json"
    if settings.blob_encryption == "vault" or (settings.blob_encryption == "off" and settings.vault_url):
        if not settings.vault_url or not settings.vault_token.get_secret_value():
            raise EnvironmentFault("blob_encryption is vault; give FINMAAS_VAULT_URL and FINMAAS_VAULT_TOKEN")
        ca_file = settings.vault_ca_file
        return VaultKeyRing(settings.vault_url, settings.vault_token, settings.vault_key, ca_file=ca_file)
    if settings.blob_encryption == "pkcs11" or (settings.blob_encryption == "off" and settings.pkcs11_module):
        return _make_pkcs11_ring(settings)
    return FileKeyRing(path) if settings.blob_encryption == "file" or path.exists() else None


def _make_pkcs11_ring(settings: Settings) -> KeyRing:
    from finmaas_registry.pkcs11_ring import Pkcs11KeyRing  # the library is loaded only where it is used

    if settings.pkcs11_module is None or not settings.pkcs11_token or not settings.pkcs11_pin.get_secret_value():
        raise EnvironmentFault(
            "blob_encryption is pkcs11; give FINMAAS_PKCS11_MODULE, FINMAAS_PKCS11_TOKEN and FINMAAS_PKCS11_PIN"
        )
    return Pkcs11KeyRing(settings.pkcs11_module, settings.pkcs11_token, settings.pkcs11_pin, settings.pkcs11_key)


def _make_s3_store(settings: Settings, codecs: Sequence[Codec]) -> BlobStore:
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
    store = S3Store(address, codecs)
    store.ensure_bucket()
    store.sweep()
    return store
