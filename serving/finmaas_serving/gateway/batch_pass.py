"""The pass with which the control plane sends a line of a batch through the gateway, on behalf of the key that made it.

It holds the key's hash (nothing that could be used as a key), the line's name and a moment after which it is void,
under a code that only holders of the pepper can make. A key that was revoked is not in the snapshot, so its lines stop.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping

import msgspec

from finmaas_serving.gateway.snapshot import Key

PREFIX = b"fmb_"
VALID_S = 900
_PURPOSE = b"finmaas batch line v1"
_SHAPE = re.compile(rb"fmb_([0-9a-f]{64})_([0-9]{1,12})_([0-9a-z_.]{1,64})_([0-9a-f]{64})")


def make_batch_pass(pepper: str, key_hash: str, line: str, now: float) -> str:
    """A pass for one line."""
    claim = f"fmb_{key_hash}_{int(now) + VALID_S}_{line}"
    return f"{claim}_{_code(pepper.encode(), claim.encode())}"


def find_batch_key(keys: Mapping[str, Key], pepper: bytes, credential: bytes, now: float) -> Key | None:
    """The key that a pass stands for, with the line's name; None for what is no valid pass.

    Networks do not bind it: where the key was used from was checked when the batch was made.
    """
    found = _SHAPE.fullmatch(credential)
    if found is None or int(found[2]) < now:
        return None
    if not hmac.compare_digest(_code(pepper, credential[: found.start(4) - 1]).encode(), found[4]):
        return None
    key = keys.get(found[1].decode())
    return None if key is None else msgspec.structs.replace(key, line=found[3].decode(), networks=())


def _code(pepper: bytes, claim: bytes) -> str:
    secret = hmac.digest(pepper, _PURPOSE, "sha256")
    return hmac.digest(secret, claim, "sha256").hex()
