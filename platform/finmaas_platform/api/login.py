"""How to log in here: what the CLI needs to know of the identity provider. Needs no token."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from finmaas_core.errors import NotFound
from finmaas_platform.api.dependencies import DepsDep

router = APIRouter(tags=["platform"])


class LoginView(BaseModel):
    """The identity provider of this installation, and the client that the CLI is to it."""

    issuer: str
    client_id: str


@router.get("/login", summary="How to log in")
def get_login(deps: DepsDep) -> LoginView:
    """404 where no identity provider is configured; then access tokens are the only way."""
    if deps.oidc is None:
        raise NotFound("no identity provider is configured here (FINMAAS_OIDC_ISSUER); use an access token")
    return LoginView(issuer=deps.oidc.issuer, client_id=deps.oidc.client_id)
