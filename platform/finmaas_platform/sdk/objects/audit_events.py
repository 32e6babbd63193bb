"""The audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finmaas_platform.sdk.objects.base import ApiObject


class AuditEvent(ApiObject):
    """Who did what to which, before and after."""

    id: str
    at: datetime
    caller_name: str = ""
    caller_kind: str = ""
    action: str
    target: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    request_id: str | None = None
