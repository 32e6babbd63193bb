"""Identifiers: a prefix that tells the kind, then 26 characters that sort by creation time."""

from __future__ import annotations

import os
import time
from typing import NewType

TenantId = NewType("TenantId", str)
ProjectId = NewType("ProjectId", str)
PrincipalId = NewType("PrincipalId", str)
DatasetVersionId = NewType("DatasetVersionId", str)
ModelVersionId = NewType("ModelVersionId", str)
JobId = NewType("JobId", str)
EndpointId = NewType("EndpointId", str)

PREFIXES = {
    "tenant": "ten",
    "project": "prj",
    "principal": "pri",
    "access_token": "tok",
    "api_key": "key",
    "grant": "grt",
    "dataset": "ds",
    "dataset_version": "dsv",
    "deletion_request": "del",
    "model": "mdl",
    "model_version": "mdv",
    "draft": "drf",
    "job": "job",
    "endpoint": "ep",
    "audit_event": "aud",
    "model_alias": "als",
    "model_event": "mev",
    "model_card": "crd",
    "provider": "prv",
    "usage_record": "use",
    "allowance": "alw",
    "price": "prc",
    "checkpoint": "ckp",
    "file": "file",
    "batch": "batch",
    "batch_line": "batch_req",
}

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base 32, lower case


def new_id(kind: str) -> str:
    """A fresh id of a kind, e.g. `job_06f2…`: 48 bits of milliseconds, then 82 random bits.

    Raises KeyError for a kind that is not in PREFIXES.
    """
    value = (time.time_ns() // 1_000_000) << 82 | int.from_bytes(os.urandom(11)) & ((1 << 82) - 1)
    chars = [""] * 26
    for i in range(25, -1, -1):
        chars[i] = _ALPHABET[value & 31]
        value >>= 5
    return f"{PREFIXES[kind]}_{''.join(chars)}"
