"""Who acts: principals, their roles, and the caller of a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finmaas_core.errors import InvalidInput, NotAllowed


class Role(StrEnum):
    """What a principal may do; see docs/concepts/access.md for the table."""

    PLATFORM_ADMIN = "platform-admin"
    TENANT_ADMIN = "tenant-admin"
    ML_ENGINEER = "ml-engineer"
    APP_DEVELOPER = "app-developer"
    ANNOTATOR = "annotator"
    APPROVER = "approver"
    AUDITOR = "auditor"


class CallerKind(StrEnum):
    """What sort of credential stands behind a request."""

    PRINCIPAL = "principal"  # an access token of a person or service account
    JOB = "job"  # a token scoped to one attempt of one job
    NODE = "node"  # a Ray node (the cluster token)
    GATEWAY = "gateway"


class PrincipalKind(StrEnum):
    """People and programs; both act by role."""

    USER = "user"
    SERVICE = "service"


@dataclass(frozen=True)
class Caller:
    """The authenticated sender of a request; `tenant_id` is None only for platform-wide callers."""

    kind: CallerKind
    id: str
    name: str
    role: Role | None = None
    tenant_id: str | None = None
    # The caller's tenant is frozen: reading goes on, changing does not.
    is_frozen: bool = False
    # Set for kind JOB only.
    job_id: str | None = None
    attempt: int | None = None
    # Set for kind PRINCIPAL only: what four eyes ask for.
    principal_kind: PrincipalKind | None = None
    token_holders: frozenset[str] = frozenset()
    """Other principals who may hold the token in use."""
    by_oidc: bool = False

    @property
    def is_platform_wide(self) -> bool:
        return self.role is Role.PLATFORM_ADMIN or (self.role is Role.AUDITOR and self.tenant_id is None)

    def require(self, *roles: Role) -> None:
        """Raises NotAllowed unless the caller holds one of the roles; platform-admin may do everything."""
        if self.kind is CallerKind.PRINCIPAL and self.role in (*roles, Role.PLATFORM_ADMIN):
            return
        wanted = " or ".join(roles) or "platform-admin"
        held = self.role or self.kind
        raise NotAllowed(f"{self.name} holds the role {held}; this needs {wanted}; ask a tenant-admin for it")


# Roles that a principal without a tenant may hold; platform-admin is held by no other.
PLATFORM_WIDE_ROLES = frozenset({Role.PLATFORM_ADMIN, Role.AUDITOR})


def check_role(caller: Caller, role: Role, tenant_id: str | None) -> None:
    """Raises unless the caller may give `role` to a principal of this tenant (None: of the whole platform).

    Nobody gives a role above their own: platform-wide principals and platform-admins come from platform-admins alone.
    """
    caller.require(Role.TENANT_ADMIN)
    if (role is Role.PLATFORM_ADMIN or tenant_id is None) and caller.role is not Role.PLATFORM_ADMIN:
        raise NotAllowed(f"{caller.name} holds the role {caller.role} and cannot give {role}; ask a platform-admin")
    if role is Role.PLATFORM_ADMIN and tenant_id is not None:
        raise InvalidInput("a platform-admin belongs to no tenant; leave `tenant` out, or give tenant-admin")
    if tenant_id is None and role not in PLATFORM_WIDE_ROLES:
        raise InvalidInput(f"the role {role} acts inside a tenant; say which in `tenant`")
