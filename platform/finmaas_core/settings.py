"""Settings of one installation. Profiles change settings only, never code paths.

Order: environment (`FINMAAS_*`), then `config.toml` of the home folder, then the defaults here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from finmaas_core.errors import EnvironmentFault
from finmaas_core.home import Home, find_home

DEFAULT_PORT_BASE = 8100
# Offsets from `port_base`. Serve replicas and Ray's internals take the rest of the block.
PORT_OFFSETS = {"gateway": 0, "api": 1, "ray_dashboard": 2, "ray_gcs": 3, "serve_http": 4, "ray_client": 5}
REPLICA_PORTS = 60  # replica ports: port_base + 20 up to port_base + 20 + REPLICA_PORTS


class Settings(BaseSettings):
    """Everything that can be set; read once, at the start of a process."""

    model_config = SettingsConfigDict(env_prefix="FINMAAS_", extra="forbid")

    home: Path
    profile: Literal["embedded", "cluster", "kubernetes"] = "embedded"
    host: str = "127.0.0.1"
    port_base: int = DEFAULT_PORT_BASE
    # Empty: SQLite in the home folder. Else a SQLAlchemy URL, e.g. postgresql+psycopg://…
    database_url: str = ""
    # Logical CPU slots that the embedded Ray declares: a policy, not the number of cores.
    ray_slots: int = 16
    # The address of an existing Ray dashboard (profile cluster); empty: the embedded one.
    ray_dashboard_url: str = ""
    gateway_id: str = "gw-1"
    # How many processes serve the gateway's port on this machine, each with its own spool: `gw-1`, `gw-1-2`, `gw-1-3` …
    gateway_processes: int = Field(1, ge=1, le=64)
    # For how many microseconds after each write a gateway that has little to do looks for what comes next before it
    # sleeps: it then answers sooner, for some processor time. 0: it sleeps at once. On cores of its own: 10,000.
    gateway_busy_poll_us: int = Field(300, ge=0, le=1_000_000)
    # PEM files; with both, the gateway speaks TLS. A renewed certificate is taken up without a restart.
    gateway_tls_cert: Path | None = None
    gateway_tls_key: Path | None = None
    # Gateway processes on all machines together, which share the replicas; 0: those of this machine.
    gateways_in_all: int = Field(0, ge=0, le=1000)
    # Where traces go, e.g. http://127.0.0.1:4318 (OTLP over HTTP); empty: nowhere. And the share of calls traced.
    otlp_url: str = ""
    trace_share: float = Field(1.0, ge=0, le=1)
    max_request_bytes: int = 4 * 1024 * 1024
    # The largest file that applications can upload (the input of a batch), and how many lines of batches run at once.
    max_file_bytes: int = 100 * 1024 * 1024
    batch_concurrency: int = 8
    # The largest file that can be imported as a dataset, and the largest single file of a model.
    max_dataset_bytes: int = 16 << 30
    max_blob_bytes: int = 64 << 30
    # Where blobs lie. Empty: a folder of the home. Else the address of an S3 server (MinIO, Ceph, AWS).
    s3_endpoint: str = ""
    s3_bucket: str = "finmaas"
    s3_region: str = "us-east-1"
    s3_prefix: str = "blobs/"
    s3_access_key: SecretStr = SecretStr("")
    s3_secret_key: SecretStr = SecretStr("")
    # A file with the certificate authorities that sign the server's certificate; empty: the usual ones.
    s3_ca_file: Path | None = None
    # For how many days a bucket with object lock keeps the bytes of an approved model and of a released dataset from
    # everybody, its owner included; renewed while the version stays approved or released. 0: not at all.
    lock_model_days: int = Field(30, ge=0, le=36_500)
    lock_dataset_days: int = Field(30, ge=0, le=36_500)
    # Whether new blobs are encrypted at rest, and by whose key: a file of the secrets, Vault's transit engine,
    # or a token of a security module by PKCS#11 (the extra `hsm`).
    blob_encryption: Literal["off", "file", "vault", "pkcs11"] = "off"
    vault_url: str = ""
    vault_token: SecretStr = SecretStr("")
    vault_key: str = "finmaas-blobs"
    vault_ca_file: Path | None = None
    # The vendor's PKCS#11 library, the label and PIN of the token, and how the names of our keys in it begin.
    pkcs11_module: Path | None = None
    pkcs11_token: str = ""
    pkcs11_pin: SecretStr = SecretStr("")
    pkcs11_key: str = "finmaas-blobs"

    # The bank's identity provider: people log in there, and its tokens are taken beside access tokens. Empty: none.
    oidc_issuer: str = ""
    oidc_client_id: str = "finmaas"
    # A further audience that tokens may name; the client id always counts.
    oidc_audience: str = ""
    # What approvals sign with: a PEM file; left out, `secrets/signing.key` of the home, made at its first use.
    signing_key: Path | None = None
    signing_key_passphrase: SecretStr = SecretStr("")
    # A PEM file of public keys, kept outside the registry: whose signatures count. With it, nodes serve and `pull`
    # fetches only what bears one; `require_signature` says otherwise.
    trust_root: Path | None = None
    require_signature: bool | None = None

    @property
    def requires_signature(self) -> bool:
        """Whether an unsigned version is refused: where a trust root is configured, unless it was decided otherwise."""
        return self.trust_root is not None if self.require_signature is None else self.require_signature

    @property
    def paths(self) -> Home:
        return Home(self.home)

    def port(self, name: str) -> int:
        """The port of a part named in PORT_OFFSETS."""
        return self.port_base + PORT_OFFSETS[name]

    @property
    def api_url(self) -> str:
        return f"http://{self.host}:{self.port('api')}"

    @property
    def gateway_url(self) -> str:
        scheme = "http" if self.gateway_tls_cert is None else "https"
        return f"{scheme}://{self.host}:{self.port('gateway')}"

    @property
    def dashboard_url(self) -> str:
        return self.ray_dashboard_url or f"http://{self.host}:{self.port('ray_dashboard')}"

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.paths.database}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which arrives as init values."""
        return env_settings, init_settings


def load_settings(home: str | Path | None = None) -> Settings:
    """Settings of the installation in `home` (see `find_home`); EnvironmentFault for a config that cannot be read."""
    found = find_home(home)
    values: dict[str, Any] = {}
    if found.config.exists():
        try:
            values = tomllib.loads(found.config.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise EnvironmentFault(f"{found.config} is not valid TOML: {error}; mend or delete it") from error
    settings = Settings(**{**values, "home": found.root})
    return settings.model_copy(update={"home": found.root})
