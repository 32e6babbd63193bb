"""Signatures of model versions on the client's side: nothing here believes the registry about itself.

With FINMAAS_TRUST_ROOT (or `trust_root`), a version without a signature that holds is refused before a byte is fetched.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from finmaas_core.errors import BadSignature, NotFound
from finmaas_platform.sdk.model_life import version_path
from finmaas_platform.sdk.objects import ModelVersion, Verification
from finmaas_platform.sdk.refs import DEFAULT_PROJECT
from finmaas_platform.sdk.transport import Transport
from finmaas_registry.manifest import FileEntry, make_manifest

TRUST_ROOT = "FINMAAS_TRUST_ROOT"


class ModelTrust:
    """`client.models.trust`."""

    def __init__(self, transport: Transport) -> None:
        self._http = transport

    def signature(self, ref: str, project: str = DEFAULT_PROJECT) -> str | None:
        """The signature of a version, a Sigstore bundle; None where it was not approved."""
        try:
            return self._http.request("GET", f"{version_path(self._http, ref, project)}/signature").text
        except NotFound as error:
            if "bears no signature" in error.message:
                return None
            raise

    def public_key(self) -> str:
        """The platform's public key as PEM. Compare its id on another way before you trust it."""
        return self._http.request("GET", "/signing-key").text

    def verify_stored(self, ref: str, project: str = DEFAULT_PROJECT) -> Verification:
        """What the platform finds when it reads every byte of a version anew."""
        return Verification.model_validate(self._http.get(f"{version_path(self._http, ref, project)}/verification"))

    def check(self, version: ModelVersion, trust_root: str | os.PathLike[str] | None = None) -> str | None:
        """The id of the key that signed a version, by the trust root; None without one. BadSignature, Corrupt."""
        root = find_trust_root(trust_root)
        if root is None:
            return None
        from finmaas_registry.signing import read_trust_root, verify_version

        bundle = self.signature(version.ref)
        return verify_version(bundle, read_trust_root(root), version.ref, _entries(version))

    def check_folder(
        self, version: ModelVersion, folder: str | os.PathLike[str], trust_root: str | os.PathLike[str] | None = None
    ) -> str | None:
        """As `check`, and that a folder holds the version's bytes; BadSignature names the first file that differs."""
        key_id = self.check(version, trust_root)
        for file in version.files:
            path = Path(folder) / file.path
            if not path.is_file() or _digest_of(path) != file.sha256:
                raise BadSignature(f"{path} is not what {version.ref} holds under that name; pull it again")
        return key_id


def find_trust_root(given: str | os.PathLike[str] | None = None) -> Path | None:
    """The trust root to use: the one given, else that of the environment."""
    found = given or os.environ.get(TRUST_ROOT)
    return Path(found) if found else None


def _entries(version: ModelVersion) -> tuple[FileEntry, ...]:
    return make_manifest(FileEntry(file.path, file.sha256, file.size) for file in version.files).files


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
