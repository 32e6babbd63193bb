"""Keys, routes and grants as the control plane numbers them, indexed for look-up, and their copy on disk.

The copy is readable by its owner alone and carries an HMAC under a key derived from the gateway's token, so that
whoever can write the file but does not know the token cannot add a key to it.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from finmaas_core.errors import Corrupt, Unavailable
from finmaas_core.prices import Price, index_prices
from finmaas_serving.gateway.lanes import Terms
from finmaas_serving.gateway.screen import BrokenGuard, GuardBook
from finmaas_serving.gateway.traffic import Traffic
from finmaas_serving.guard.policy import Guard

_PURPOSE = b"finmaas gateway snapshot v1"
_MAC_BYTES = 64
CUT_OFF_RETRY_S = 10


class Key(msgspec.Struct, frozen=True):
    """One API key: `hash` is hex HMAC-SHA256(pepper, key), `models` endpoint names or `*`, `expires_at` in epoch s."""

    hash: str
    key_id: str
    project_id: str
    project: str
    tenant_id: str
    name: str = ""
    models: tuple[str, ...] = ("*",)
    methods: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ()
    expires_at: float | None = None
    line: str = ""  # of a batch, on whose behalf the control plane calls
    batch: bool = False  # its requests wait for those of others


class Route(msgspec.Struct, frozen=True):
    """One endpoint: `name` is tenant/project/endpoint, `app` its Serve application, `model_name` its engine's name.

    `traffic` says where its requests go, if not to itself; `terms` how its replicas are shared.
    """

    endpoint_id: str
    name: str
    short_name: str
    project_id: str
    app: str
    model_name: str
    state: str
    model_version_id: str | None = None
    model_version: str | None = None
    max_model_len: int | None = None
    terms: Terms = Terms()
    traffic: Traffic | None = None
    served: bytes = b""  # the header lines that tell who answered; not in the document

    def __post_init__(self) -> None:
        served = b"x-finmaas-endpoint: %b\r\n" % self.name.encode()
        if self.model_version is not None:
            served += b"x-finmaas-model-version: %b\r\n" % self.model_version.encode()
        msgspec.structs.force_setattr(self, "served", served)


class TenantTerms(msgspec.Struct, frozen=True):
    """What holds for a tenant: its weight among those that wait, and how old a snapshot it may be judged by."""

    tenant_id: str
    weight: float = 1.0
    max_staleness_s: float | None = None


class Provider(msgspec.Struct, frozen=True):
    """An OpenAI-compatible service outside, and the projects that are approved for it. The secret is sealed."""

    provider_id: str
    name: str
    base_url: str
    sealed: str
    projects: tuple[str, ...] = ()


class Grant(msgspec.Struct, frozen=True):
    """Lets a project call an endpoint of another one."""

    project_id: str
    endpoint_id: str


class Allowance(msgspec.Struct, frozen=True):
    """What may be spent in a window: by a tenant, a project, a key, or (scope `model`) by everybody at one endpoint.

    `model` is an endpoint's full name, or empty: every endpoint. `limit` counts nano-units for money.
    """

    allowance_id: str
    tenant_id: str
    scope: str
    scope_id: str
    model: str
    unit: str
    window: str
    limit: int
    currency: str = ""
    label: str = ""


class PriceEntry(msgspec.Struct, frozen=True):
    """What tokens of a model (full name, or `*`) cost from a day on, in nano-units for a million."""

    model: str
    currency: str
    valid_from: str
    input_nano: int
    cached_nano: int
    output_nano: int
    reasoning_nano: int


class Calendar(msgspec.Struct, frozen=True):
    """In which zone a tenant's days begin, on which day its months, and what money it pays in."""

    tenant_id: str
    time_zone: str = "UTC"
    fiscal_day: int = 1
    currency: str = "CNY"


class Person(msgspec.Struct, frozen=True):
    """A principal that is linked to the identity provider; without a tenant it is the whole platform's."""

    issuer: str
    subject: str
    principal_id: str
    name: str
    role: str
    tenant_id: str | None = None
    disabled: bool = False


class Project(msgspec.Struct, frozen=True):
    """A project that people may act for; `ref` is tenant/project."""

    project_id: str
    ref: str
    tenant_id: str


class Policy(msgspec.Struct, frozen=True):
    """The guardrail policy of a project; `digest` tells whether it changed."""

    project_id: str
    digest: str
    document: msgspec.Raw


class Document(msgspec.Struct, frozen=True):
    """The snapshot as it travels."""

    number: int
    issued_at: str
    keys: tuple[Key, ...] = ()
    routes: tuple[Route, ...] = ()
    grants: tuple[Grant, ...] = ()
    policies: tuple[Policy, ...] = ()
    replica_secret: str = ""
    archive_key: str = ""
    tenants: tuple[TenantTerms, ...] = ()
    providers: tuple[Provider, ...] = ()
    allowances: tuple[Allowance, ...] = ()
    prices: tuple[PriceEntry, ...] = ()
    calendars: tuple[Calendar, ...] = ()
    people: tuple[Person, ...] = ()
    projects: tuple[Project, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A document indexed: keys by hash, the routes each project may call by the names it may use, guards by project."""

    number: int
    issued_at: str
    keys: dict[str, Key]
    visible: dict[str, dict[str, Route]]
    guards: dict[str, Guard | BrokenGuard] = field(default_factory=dict)
    replica_header: bytes = b""  # the line that opens the replicas' ports
    archive_key: str = ""  # public, hex: what is kept for auditors is sealed to it
    routes: dict[str, Route] = field(default_factory=dict)  # by endpoint id
    providers: dict[str, Provider] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)  # of tenants, where it is not 1
    staleness: dict[str, float] = field(default_factory=dict)  # of tenants that bound it, in seconds
    strictest_s: float = math.inf  # the least of those
    allowances: tuple[Allowance, ...] = ()
    prices: dict[tuple[str, str], list[Price]] = field(default_factory=dict)
    calendars: dict[str, Calendar] = field(default_factory=dict)
    people: dict[tuple[str, str], Person] = field(default_factory=dict)  # by issuer and subject
    projects: tuple[Project, ...] = ()


EMPTY = Snapshot(number=-1, issued_at="", keys={}, visible={})
_decode = msgspec.json.Decoder(Document).decode


def read_snapshot(raw: bytes, guards: GuardBook | None = None) -> Snapshot:
    """Indexes a document; Corrupt when it cannot be read. `guards` keeps what was compiled for earlier ones."""
    try:
        document = _decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Corrupt(f"the snapshot cannot be read: {error}") from None
    staleness = {one.tenant_id: one.max_staleness_s for one in document.tenants if one.max_staleness_s is not None}
    return Snapshot(
        document.number,
        document.issued_at,
        {key.hash: key for key in document.keys},
        _visible(document),
        (guards or GuardBook()).compile_all((one.project_id, one.digest, one.document) for one in document.policies),
        f"authorization: Bearer {document.replica_secret}\r\n".encode() if document.replica_secret else b"",
        document.archive_key,
        {route.endpoint_id: route for route in document.routes},
        {provider.provider_id: provider for provider in document.providers},
        {one.tenant_id: one.weight for one in document.tenants},
        staleness,
        min(staleness.values(), default=math.inf),
        document.allowances,
        index_prices((one.model, one.currency, _price(one)) for one in document.prices),
        {one.tenant_id: one for one in document.calendars},
        {(one.issuer, one.subject): one for one in document.people},
        document.projects,
    )


def _price(one: PriceEntry) -> Price:
    return Price(one.valid_from, one.input_nano, one.cached_nano, one.output_nano, one.reasoning_nano)


def _visible(document: Document) -> dict[str, dict[str, Route]]:
    """Own endpoints by short and full name, granted ones by full name."""
    by_id = {route.endpoint_id: route for route in document.routes}
    visible: dict[str, dict[str, Route]] = {}
    for grant in document.grants:
        if route := by_id.get(grant.endpoint_id):
            visible.setdefault(grant.project_id, {})[route.name] = route
    for route in document.routes:
        own = visible.setdefault(route.project_id, {})
        own[route.name] = route
        own[route.short_name] = route
    return visible


class SnapshotFile:
    """The copy on disk, written whole or not at all."""

    def __init__(self, path: Path, gateway_token: str) -> None:
        self._path = path
        self._saved: bytes | None = None
        self._key = hmac.digest(gateway_token.encode(), _PURPOSE, "sha256")

    def load(self) -> tuple[bytes, float] | None:
        """The document and when it was last known to be current (epoch seconds); None when there is no copy.

        Raises Corrupt when the copy was not written by a gateway with this token.
        """
        try:
            held = self._path.read_bytes()
            confirmed_at = self._path.stat().st_mtime
        except FileNotFoundError:
            return None
        mac, raw = held[:_MAC_BYTES], held[_MAC_BYTES + 1 :]
        if not hmac.compare_digest(mac, self._mac(raw)):
            raise Corrupt(
                f"{self._path} was not written by this gateway; it is left aside until the control plane answers"
            )
        return raw, confirmed_at

    def save(self, raw: bytes) -> None:
        """Replaces the copy."""
        scratch = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(self._mac(raw) + b"\n" + raw)
            out.flush()
            os.fsync(out.fileno())
        scratch.replace(self._path)
        self._saved = raw

    def save_if_changed(self, raw: bytes) -> None:
        """Replaces the copy when it differs from what this process saved last; else notes that it is current."""
        if raw == self._saved and self._path.exists():
            self.confirm()
            return
        self.save(raw)

    def confirm(self) -> None:
        """Notes that the copy is current now."""
        os.utime(self._path)

    def _mac(self, raw: bytes) -> bytes:
        return hmac.new(self._key, raw, hashlib.sha256).hexdigest().encode()


class SnapshotHolder:
    """The snapshot that requests are judged by. Replaced whole: a request that runs keeps the one it began with."""

    def __init__(self, file: SnapshotFile) -> None:
        self._file = file
        self._guards = GuardBook()
        self.current = EMPTY
        self.source = "none"
        self._confirmed = -math.inf  # on the monotonic clock: a jump of the time of day makes nothing older or fresher

    @property
    def age_s(self) -> float:
        """Seconds since the control plane last said that this snapshot is current."""
        return time.monotonic() - self._confirmed

    def check_fresh(self, tenant_id: str) -> None:
        """Unavailable when this gateway has been cut off for longer than the tenant lets itself be judged by."""
        snapshot = self.current
        if (age_s := time.monotonic() - self._confirmed) <= snapshot.strictest_s:
            return
        if age_s > snapshot.staleness.get(tenant_id, math.inf):
            raise Unavailable(
                f"this gateway has not heard from the control plane for {age_s:.0f} s, longer than your tenant's "
                f"`max_staleness_s` of {snapshot.staleness[tenant_id]:.0f} allows; another gateway may answer",
                openai_code="gateway_cut_off",
                retry_after_s=CUT_OFF_RETRY_S,
            )

    def load_from_disk(self) -> bool:
        """Takes the copy on disk, if there is one. Raises Corrupt."""
        held = self._file.load()
        if held is None:
            return False
        raw, confirmed_at = held
        self._confirmed = time.monotonic() - max(0.0, time.time() - confirmed_at)
        self.current = read_snapshot(raw, self._guards)
        self.source = "disk"
        return True

    def take(self, raw: bytes) -> bool:
        """Takes a document from the control plane, unless its number is older than the one held. Raises Corrupt."""
        fresh = read_snapshot(raw, self._guards)
        if fresh.number < self.current.number:
            return False
        self.current = fresh
        self._file.save(raw)
        self._note_fresh()
        return True

    def confirm(self) -> None:
        """The control plane has nothing newer."""
        if self.current is not EMPTY:
            self._file.confirm()
            self._note_fresh()

    def _note_fresh(self) -> None:
        self.source = "control-plane"
        self._confirmed = time.monotonic()
