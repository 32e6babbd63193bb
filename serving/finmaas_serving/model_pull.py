"""Fetches a model version from the control plane into this node's cache, checked by digest, for an engine to read.

Every node does so for itself with the cluster token: no folder is shared, and no job or client can ask for this.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from finmaas_core.errors import Corrupt, EnvironmentFault, InvalidInput, NotFound, Unavailable
from finmaas_core.home import read_secret
from finmaas_registry.manifest import FileEntry, Manifest, make_manifest
from finmaas_registry.materialise import check_folder, materialise
from finmaas_registry.remote import RemoteBlobs
from finmaas_registry.signing import read_trust_root, verify_version

_TRIES_OF_CONNECTING = 8


def pull_model(version_id: str) -> Path:
    """The folder that holds a model version; fetched at the first call, checked quickly at later ones.

    Raises NotFound, Unavailable (no control plane), StoreFull, Corrupt, BadSignature, and InvalidInput for an adapter
    without its base.
    """
    url, token, cache = _node_settings()
    version = _get_version(url, token, version_id)
    manifest = _check_version(version)
    with RemoteBlobs(url, token) as blobs:
        folder = materialise(manifest.files, blobs.fetch, cache / "models" / version_id)
    if _requires_signature():
        check_folder(manifest, folder)
    return folder


def check_model(version_id: str) -> None:
    """Raises what `pull_model` would raise for a version that is unknown or cannot be served, fetching nothing."""
    url, token, _ = _node_settings()
    _check_version(_get_version(url, token, version_id))


def _check_version(version: Mapping[str, Any]) -> Manifest:
    """The files of a version, if the list is the one that was registered and, where that is asked, signed."""
    ref = str(version["ref"])
    manifest = make_manifest(FileEntry(file["path"], file["sha256"], file["size"]) for file in version["files"])
    if manifest.digest != version["digest"]:
        raise Corrupt(f"the list of files of {ref} has the digest {manifest.digest}, not {version['digest']}", ref=ref)
    if _requires_signature():
        verify_version(version.get("signature"), read_trust_root(_trust_root()), ref, manifest.files)
    return manifest


def _requires_signature() -> bool:
    """By default where a trust root is set. A setting that cannot be understood asks for one: it fails closed."""
    wanted = os.environ.get("FINMAAS_REQUIRE_SIGNATURE", "").strip().lower()
    if wanted:
        return wanted not in ("0", "false", "no", "off")
    return bool(os.environ.get("FINMAAS_TRUST_ROOT"))


def _trust_root() -> Path:
    root = os.environ.get("FINMAAS_TRUST_ROOT")
    if not root:
        raise EnvironmentFault(
            "this node asks for signatures and has no trust root; set FINMAAS_TRUST_ROOT to a PEM file of public keys"
        )
    return Path(root)


def _get_version(url: str, token: str, version_id: str) -> dict[str, Any]:
    transport = httpx.HTTPTransport(retries=_TRIES_OF_CONNECTING)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=url, headers=headers, transport=transport, timeout=30) as http:
            answer = http.get(f"/api/v1/node/model-versions/{version_id}")
    except httpx.HTTPError as error:
        raise Unavailable(f"the control plane at {url} does not answer this node ({error!r})") from error
    if answer.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"there is no model version {version_id}; deploy one that `finmaas model versions` lists")
    if not answer.is_success:
        raise Unavailable(f"the control plane refuses this node the model version {version_id}: {answer.text[:300]}")
    version: dict[str, Any] = answer.json()
    if version.get("kind", "full") == "adapter":
        raise InvalidInput(f"model version {version_id} is an adapter; merge it into its base to serve it")
    return version


def read_cluster_token() -> str:
    """The credential of this Ray node; EnvironmentFault where it lacks one."""
    return _node_settings()[1]


def _node_settings() -> tuple[str, str, Path]:
    """What every Ray node has in its environment: the control plane's URL, the cluster token, the cache folder."""
    try:
        url, token_file, cache = (
            os.environ[f"FINMAAS_{name}"] for name in ("API_URL", "CLUSTER_TOKEN_FILE", "CACHE_DIR")
        )
        return url, read_secret(Path(token_file)), Path(cache)
    except (KeyError, OSError) as error:
        raise EnvironmentFault(
            f"this Ray node lacks {error}; start Ray with FINMAAS_API_URL, FINMAAS_CLUSTER_TOKEN_FILE and "
            "FINMAAS_CACHE_DIR in its environment"
        ) from error
