"""What the control plane is wired with. Built once by `control_plane.build_deps`, or by a test fixture."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finmaas_core.clock import Clock
from finmaas_core.home import Home, read_secret
from finmaas_core.settings import Settings
from finmaas_platform.cluster.port import Cluster
from finmaas_platform.db.base import SessionFactory
from finmaas_platform.ledger_hub import Hub

if TYPE_CHECKING:
    from finmaas_platform.oidc import OidcVerifier
    from finmaas_platform.services.kept_blobs import KeptBlobs


@dataclass(frozen=True)
class PlatformSecrets:
    """The installation's own secrets, read once at the start; `repr` shows none of them."""

    pepper: str = field(repr=False)
    cluster_token: str = field(repr=False)
    gateway_token: str = field(repr=False)

    @classmethod
    def read(cls, home: Home) -> PlatformSecrets:
        """Reads the secret files that the first start wrote."""
        return cls(read_secret(home.pepper), read_secret(home.cluster_token), read_secret(home.gateway_token))

    def is_cluster_token(self, token: str) -> bool:
        """Constant-time comparison with the cluster token."""
        return hmac.compare_digest(self.cluster_token.encode(), token.encode())

    def is_gateway_token(self, token: str) -> bool:
        """Constant-time comparison with the gateway token."""
        return hmac.compare_digest(self.gateway_token.encode(), token.encode())


@dataclass(frozen=True)
class Deps:
    """Everything that routes, services and reconcilers reach outside themselves."""

    settings: Settings
    sessions: SessionFactory
    clock: Clock
    store: KeptBlobs
    cluster: Cluster
    secrets: PlatformSecrets
    oidc: OidcVerifier | None = None
    ledger_hub: Hub = field(default_factory=Hub)
