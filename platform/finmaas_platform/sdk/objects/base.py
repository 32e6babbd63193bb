"""What all objects of the API share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ApiObject(BaseModel):
    """Base of everything here; `to_json()` gives it back as plain JSON values."""

    # `model_` and `schema` are ordinary words of this API.
    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=(), populate_by_name=True)

    def to_json(self) -> dict[str, Any]:
        """JSON values under the API's own field names."""
        return self.model_dump(mode="json", by_alias=True)
