"""Secrets of other systems at rest: sealed under a key that follows from the installation's pepper.

Who holds the pepper (control plane and gateways) can open them; a database, a backup of it or a snapshot cannot.
"""

from __future__ import annotations

import base64
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from finmaas_core.errors import Corrupt

_NONCE_BYTES = 12


def seal_secret(pepper: bytes, purpose: str, secret: str) -> str:
    """The secret as text that only the pepper opens, and only for this purpose."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_key(pepper)).encrypt(nonce, secret.encode(), purpose.encode())
    return base64.b64encode(nonce + sealed).decode()


def open_secret(pepper: bytes, purpose: str, sealed: str) -> str:
    """The secret again; Corrupt when another pepper or purpose sealed it, or the text was changed."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        return AESGCM(_key(pepper)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], purpose.encode()).decode()
    except (InvalidTag, ValueError) as error:
        raise Corrupt("a sealed secret does not open with this installation's pepper; set it anew") from error


def _key(pepper: bytes) -> bytes:
    return hmac.digest(pepper, b"finmaas sealed secrets v1", "sha256")
