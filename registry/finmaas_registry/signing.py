"""Signatures of versions in OpenSSF's form (`model_signing`): a Sigstore bundle over names and digests of files.

The library hashes a folder; a version's digests are known already, so its manifest is built from them and no byte is
read. What is signed is the same, so the library's own command verifies a folder that was pulled from here. The signed
subject is the version's full name: a signature does not hold for another version, not even one of the same files.

The library takes a second to import (it brings Sigstore's client along), so that happens where something is signed or
verified. Its signer and verifier want key files; the two classes below give them our key port instead.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finmaas_core.errors import BadSignature, EnvironmentFault
from finmaas_registry.keys import SigningKeyRing, encode_public_key
from finmaas_registry.manifest import SIGNATURE_FILE, FileEntry, make_manifest

if TYPE_CHECKING:
    from model_signing.manifest import Manifest

"""Where the signature lies beside the files of a version that was pulled."""
_PEM = re.compile(rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----\s*", re.DOTALL)
_SHOWN = 3


@dataclass(frozen=True)
class Signed:
    """A signature, and the id of the key that it was made with."""

    bundle: str
    key_id: str


@dataclass(frozen=True)
class TrustRoot:
    """The public keys whose signatures count, by their id; it lies outside the registry that it watches over."""

    keys: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, *pems: bytes) -> TrustRoot:
        """The trust root of some public keys."""
        return cls(tuple((key_id_of(pem), pem) for pem in pems))


def read_trust_root(path: Path) -> TrustRoot:
    """The public keys of a PEM file, one after the other; EnvironmentFault where there is none."""
    try:
        blocks = _PEM.findall(path.read_bytes())
    except OSError as error:
        raise EnvironmentFault(f"the trust root {path} cannot be read: {error.strerror}") from error
    if not blocks:
        raise EnvironmentFault(f"the trust root {path} holds no public key; `finmaas model key` prints one as PEM")
    return TrustRoot.of(*(encode_public_key(_load_public(block, path)) for block in blocks))


def key_id_of(pem: bytes) -> str:
    """The id of a public key: SHA-256 of its PEM, as `model_signing` writes it into a bundle."""
    return hashlib.sha256(pem).hexdigest()


def sign_version(ring: SigningKeyRing, ref: str, files: Iterable[FileEntry]) -> Signed:
    """Signs the files of a version under its full name, `tenant/project/name@3`."""
    from model_signing._signing import sign_ec_key, signing

    class Signer(sign_ec_key.Signer):
        def __init__(self) -> None:
            self._private_key: Any = _RingKey(ring)

    signature = Signer().sign(signing.Payload(_to_manifest(ref, files)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SIGNATURE_FILE
        signature.write(path)
        return Signed(path.read_text(encoding="utf-8"), key_id_of(ring.public_key()))


def verify_version(bundle: str | None, trust: TrustRoot, ref: str, files: Sequence[FileEntry]) -> str:
    """Returns the id of the key that signed exactly these files under this name; BadSignature says what is wrong."""
    if bundle is None:
        raise BadSignature(f"{ref} bears no signature; approve it first: finmaas model approve {ref}", ref=ref)
    found: list[str] = []
    for key_id, pem in trust.keys:
        try:
            manifest = _open(bundle, pem)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, InvalidSignature) as error:
            found.append(str(error) or type(error).__name__)
            continue
        _compare(manifest, ref, files)
        return key_id
    reason = found[0].strip().rstrip(".") if found else "no key is trusted"
    raise BadSignature(f"the signature of {ref} does not hold under any trusted key: {reason}", ref=ref)


def verify_document(document: Mapping[str, Any], files: Sequence[FileEntry], trust: TrustRoot) -> str | None:
    """The id of the trusted key that signed what an archive's document tells of; None where it bears no signature.

    BadSignature for any other: it is not read as missing, so that a forged one is noticed.
    """
    signature = document.get("signature")
    if signature is None:
        return None
    ref, digest = str(document.get("ref")), make_manifest(files).digest
    try:
        if not isinstance(signature, Mapping) or not isinstance(signature.get("bundle"), str):
            raise BadSignature(f"the signature of {ref} cannot be read")
        return verify_version(signature["bundle"], trust, ref, files)
    except BadSignature as error:
        raise BadSignature(
            f"{error.message.rstrip('.')}; nothing was imported (its files have the digest {digest}). Export it anew "
            "where it was approved; if that site's key is not in your trust root, `finmaas model key` prints it there",
            **{**error.details, "ref": ref, "digest": digest},
        ) from error


def _open(bundle: str, pem: bytes) -> Manifest:
    """What was signed, if the signature holds under this key; the library raises many kinds of errors else."""
    from model_signing._signing import sign_ec_key, sign_sigstore_pb

    class Verifier(sign_ec_key.Verifier):
        def __init__(self) -> None:
            self._public_key: Any = serialization.load_pem_public_key(pem)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / SIGNATURE_FILE
        path.write_text(bundle, encoding="utf-8")
        signature = sign_sigstore_pb.Signature.read(path)
    named = signature.bundle.verification_material.public_key
    if named is None or not named.hint:
        raise ValueError("it names no key")
    return Verifier().verify(signature)


def _compare(manifest: Manifest, ref: str, files: Sequence[FileEntry]) -> None:
    if manifest.model_name != ref:
        raise BadSignature(f"the signature was made for {manifest.model_name}, not for {ref}", ref=ref)
    signed = {one.identifier: one.digest.digest_hex for one in manifest.resource_descriptors()}
    there = {file.path: file.sha256 for file in files}
    if signed == there:
        return
    changed = sorted(path for path in signed.keys() | there.keys() if signed.get(path) != there.get(path))
    more = ", …" if len(changed) > _SHOWN else ""
    raise BadSignature(
        f"{ref} is not what was signed: {', '.join(changed[:_SHOWN])}{more} changed, came or went since",
        ref=ref,
        files=changed,
    )


def _to_manifest(ref: str, files: Iterable[FileEntry]) -> Manifest:
    from model_signing import manifest as library
    from model_signing._hashing.hashing import Digest

    form = library.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": False})
    items = [
        library.FileManifestItem(path=PurePosixPath(file.path), digest=Digest("sha256", bytes.fromhex(file.sha256)))
        for file in make_manifest(files).files
    ]
    return library.Manifest(ref, items, form)


def _load_public(pem: bytes, path: Path) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnvironmentFault(f"a key of the trust root {path} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnvironmentFault(f"a key of the trust root {path} is not an elliptic-curve key; give one over P-256")
    return key


class _RingKey:
    """What the library's signer asks of a private key, from our port."""

    def __init__(self, ring: SigningKeyRing) -> None:
        self._ring = ring

    def public_key(self) -> Any:
        return serialization.load_pem_public_key(self._ring.public_key())

    def sign(self, payload: bytes, algorithm: Any) -> bytes:
        return self._ring.sign(payload)
