"""Who there is: business units, their projects, the people and services in them, and what these sign in with."""

from __future__ import annotations

from datetime import datetime

from finmaas_platform.sdk.objects.base import ApiObject


class WhoAmI(ApiObject):
    """The principal behind the token in use."""

    id: str
    name: str
    kind: str = ""
    role: str | None = None
    tenant: str | None = None


class Tenant(ApiObject):
    """A business unit."""

    id: str
    name: str
    display_name: str = ""
    state: str
    created_at: datetime
    version: int = 1
    time_zone: str = "UTC"
    fiscal_day: int = 1
    currency: str = "CNY"
    cost_centre: str = ""


class Project(ApiObject):
    """A use case inside a tenant; `ref` is `tenant/project`."""

    id: str
    name: str
    tenant: str
    display_name: str = ""
    created_at: datetime
    version: int = 1
    cost_centre: str = ""

    @property
    def ref(self) -> str:
        return f"{self.tenant}/{self.name}"


class Principal(ApiObject):
    """A user or service account."""

    id: str
    name: str
    role: str
    kind: str = "user"
    tenant: str | None = None
    disabled: bool = False
    issuer: str | None = None
    subject: str | None = None
    created_at: datetime
    version: int = 1


class AccessToken(ApiObject):
    """A principal's credential; `token` is there once, in the answer that made it."""

    id: str
    principal_id: str
    principal: str = ""
    token: str | None = None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class ApiKey(ApiObject):
    """A project's gateway credential; `key` is there once, in the answer that made it."""

    id: str
    name: str
    project: str
    models: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ()
    priority: str = "interactive"
    key: str | None = None
    created_at: datetime
    created_by: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
