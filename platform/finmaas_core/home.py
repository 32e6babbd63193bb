"""The home folder of an embedded installation: where everything of it lies, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

MARKER = ".finmaas"


def find_home(given: str | os.PathLike[str] | None = None) -> Home:
    """The home to use: the one given, else FINMAAS_HOME, else the nearest `.finmaas` above, else `~/.finmaas`."""
    if given is not None:
        return Home(Path(given).expanduser().resolve())
    if from_env := os.environ.get("FINMAAS_HOME"):
        return Home(Path(from_env).expanduser().resolve())
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / MARKER).is_dir():
            return Home((folder / MARKER).resolve())
    return Home(Path.home() / MARKER)


@dataclass(frozen=True)
class Home:
    """Paths inside one home folder. Secrets are files that only their owner can read."""

    root: Path

    @property
    def config(self) -> Path:
        """Settings chosen at the first `finmaas up` (ports, profile), as TOML."""
        return self.root / "config.toml"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def admin_token(self) -> Path:
        """Access token of the first platform-admin; the CLI reads it when no other token is given."""
        return self.secrets / "admin.token"

    @property
    def pepper(self) -> Path:
        """Key of the HMAC under which API keys and access tokens are stored."""
        return self.secrets / "pepper"

    @property
    def cluster_token(self) -> Path:
        """Credential of Ray nodes: fetches scoped job tokens and the model versions to serve."""
        return self.secrets / "cluster.token"

    @property
    def gateway_token(self) -> Path:
        """Credential of gateways: fetches snapshots, delivers usage."""
        return self.secrets / "gateway.token"

    @property
    def provenance_key(self) -> Path:
        """Private Ed25519 key (PEM) that signs batches of provenance claims."""
        return self.secrets / "provenance.key"

    @property
    def archive_key(self) -> Path:
        """Private X25519 key (hex) that opens what gateways keep for auditors."""
        return self.secrets / "archive.key"

    @property
    def metrics_token(self) -> Path:
        """What a Prometheus server sends to read metrics (its `credentials_file`)."""
        return self.secrets / "metrics.token"

    @property
    def ray_token(self) -> Path:
        """Ray's own token (RAY_AUTH_TOKEN_PATH)."""
        return self.secrets / "ray.token"

    @property
    def database(self) -> Path:
        return self.root / "db" / "finmaas.db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def cache(self) -> Path:
        """Model folders laid out for engines, and inputs of jobs; may be deleted at any time when nothing runs."""
        return self.root / "cache"

    @property
    def gateway(self) -> Path:
        """Snapshot and usage spool of the gateway."""
        return self.root / "gateway"

    @property
    def run(self) -> Path:
        """Pid and state files of the supervisor."""
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def ray_temp(self) -> Path:
        """Ray's session folder. Short, because Unix socket paths end at 107 bytes; private to this user and home."""
        tag = hashlib.sha256(str(self.root).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"fm-{os.getuid()}-{tag}"

    def make(self) -> None:
        """Makes the folders, the secret one readable by its owner alone."""
        for folder in (self.root, self.secrets, self.gateway, self.blobs, self.database.parent):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.cache, self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)


def write_secret(path: Path, text: str) -> None:
    """Writes a secret so that it is never, not even for a moment, readable by others."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    scratch.replace(path)


def make_secret(path: Path, text: str) -> None:
    """Writes a secret unless there is one: of several processes that try at once, one succeeds."""
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    write_secret(fresh, text)
    with contextlib.suppress(FileExistsError):
        path.hardlink_to(fresh)
    fresh.unlink()


def read_secret(path: Path) -> str:
    """The secret in a file, without its trailing newline."""
    return path.read_text(encoding="utf-8").strip()
