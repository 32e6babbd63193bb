"""The base of request bodies: a field that nobody knows is an error, not silence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """What a client may send; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
