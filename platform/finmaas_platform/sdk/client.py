"""`Client`: one connection to a control plane, with a sub-client for each noun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

from finmaas_core.errors import Unavailable
from finmaas_platform.sdk.access_tokens import AccessTokens
from finmaas_platform.sdk.allowances import Allowances, Prices
from finmaas_platform.sdk.api_keys import ApiKeys
from finmaas_platform.sdk.archive import Archive
from finmaas_platform.sdk.audit_events import AuditEvents
from finmaas_platform.sdk.batches import Batches
from finmaas_platform.sdk.connection import find_address
from finmaas_platform.sdk.datasets import Datasets
from finmaas_platform.sdk.drafts import Drafts
from finmaas_platform.sdk.endpoints import Endpoints
from finmaas_platform.sdk.gateways import Gateways
from finmaas_platform.sdk.grants import Grants
from finmaas_platform.sdk.jobs import Jobs
from finmaas_platform.sdk.models import Models
from finmaas_platform.sdk.objects import WhoAmI
from finmaas_platform.sdk.policies import Policies
from finmaas_platform.sdk.principals import Principals
from finmaas_platform.sdk.projects import Projects
from finmaas_platform.sdk.providers import Providers
from finmaas_platform.sdk.store import Store
from finmaas_platform.sdk.tenant_sharing import TenantSharings
from finmaas_platform.sdk.tenants import Tenants
from finmaas_platform.sdk.traffic import Traffic
from finmaas_platform.sdk.transport import Transport
from finmaas_platform.sdk.usage import Usage
from finmaas_platform.sdk.version_archives import VersionArchives

if TYPE_CHECKING:
    import httpx


class Client:
    """The platform from Python.

    `url` and `token` come from the arguments, else from FINMAAS_URL and FINMAAS_TOKEN, else from the home folder of the
    installation on this machine. Unavailable when there is none, NotAuthenticated without a token. `http` replaces the
    HTTP client, for tests that run the application in this process. Close it, or use it as a context.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        home: str | os.PathLike[str] | None = None,
        *,
        http: httpx.Client | None = None,
    ) -> None:
        address = find_address(url, token, home)
        self.url = address.url
        self._gateway_url = address.gateway_url
        self._transport = Transport(address.url, address.token, http)
        self.tenants = Tenants(self._transport)
        self.projects = Projects(self._transport)
        self.principals = Principals(self._transport)
        self.tokens = AccessTokens(self._transport)
        self.keys = ApiKeys(self._transport)
        self.gateways = Gateways(self._transport)
        self.batches = Batches(self._transport)
        self.grants = Grants(self._transport)
        self.datasets = Datasets(self._transport)
        self.models = Models(self._transport)
        self.drafts = Drafts(self._transport)
        self.version_archives = VersionArchives(self._transport)
        self.jobs = Jobs(self._transport)
        self.store = Store(self._transport)
        self.endpoints = Endpoints(self._transport)
        self.traffic = Traffic(self._transport)
        self.providers = Providers(self._transport)
        self.sharing = TenantSharings(self._transport)
        self.policies = Policies(self._transport)
        self.allowances = Allowances(self._transport)
        self.prices = Prices(self._transport)
        self.usage = Usage(self._transport)
        self.archive = Archive(self._transport)
        self.audit = AuditEvents(self._transport)

    @property
    def gateway_url(self) -> str:
        """The gateway's address, without `/v1`; Unavailable when it is not known."""
        if not self._gateway_url:
            raise Unavailable(f"the gateway that belongs to {self.url} is not known here; set FINMAAS_GATEWAY_URL")
        return self._gateway_url

    def whoami(self) -> WhoAmI:
        """The principal behind the token in use."""
        return WhoAmI.model_validate(self._transport.get("/whoami"))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
