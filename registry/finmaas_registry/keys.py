"""The installation's keys behind one port, so that they can lie in a file, a KMS or a security module.

`sign` and `public_key` are for signatures of model versions. Code that needs a key asks for the port, never for a file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finmaas_core.errors import EnvironmentFault


class SigningKeyRing(Protocol):
    """The part of the key ring that signs: ECDSA over P-256, which every security module knows."""

    def sign(self, payload: bytes) -> bytes:
        """The DER signature of SHA-256 of the payload; EnvironmentFault where the key cannot be used."""
        ...

    def public_key(self) -> bytes:
        """The public key as PEM."""
        ...


class FileSigningKey:
    """A private key in a PEM file that only its owner can read, under a passphrase if one is given.

    The file is made at the first use. EnvironmentFault for one that others can read, or that cannot be opened.
    """

    def __init__(self, path: Path, passphrase: str = "") -> None:
        self._path = path
        self._passphrase = passphrase.encode() or None

    def sign(self, payload: bytes) -> bytes:
        return self._load().sign(payload, ec.ECDSA(hashes.SHA256()))

    def public_key(self) -> bytes:
        return encode_public_key(self._load().public_key())

    def _load(self) -> ec.EllipticCurvePrivateKey:
        if not self._path.exists():
            self._make()
        self._check_mode()
        try:
            key = serialization.load_pem_private_key(self._path.read_bytes(), self._passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise EnvironmentFault(
                f"the signing key {self._path} cannot be opened ({error}); is FINMAAS_SIGNING_KEY_PASSPHRASE right?"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise EnvironmentFault(f"the signing key {self._path} is not an ECDSA key over P-256; give one that is")
        return key

    def _make(self) -> None:
        """Writes a new key; of two processes at once the first one's stays."""
        key = ec.generate_private_key(ec.SECP256R1())
        hidden = (
            serialization.BestAvailableEncryption(self._passphrase)
            if self._passphrase
            else serialization.NoEncryption()
        )
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(pem)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.link(scratch, self._path)
        except FileExistsError:
            pass
        finally:
            scratch.unlink()

    def _check_mode(self) -> None:
        mode = stat.S_IMODE(self._path.stat().st_mode)
        if mode & 0o077:
            raise EnvironmentFault(
                f"the signing key {self._path} can be read by others (mode {mode:o}); run: chmod 600 {self._path}"
            )


class MemorySigningKey:
    """A key of this process alone, for tests."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload, ec.ECDSA(hashes.SHA256()))

    def public_key(self) -> bytes:
        return encode_public_key(self._key.public_key())


def encode_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
