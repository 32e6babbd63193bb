"""What every request of one gateway process shares."""

from __future__ import annotations

import asyncio
import hmac
import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway.allowances import Book
from finmaas_serving.gateway.cache import AnswerCache
from finmaas_serving.gateway.canary import CanaryWatch, Outcome
from finmaas_serving.gateway.external import OutsideBook
from finmaas_serving.gateway.lanes import Lane, LaneBook
from finmaas_serving.gateway.outbox import Outbox
from finmaas_serving.gateway.people import People
from finmaas_serving.gateway.schemas import Report
from finmaas_serving.gateway.screen import provenance_key
from finmaas_serving.gateway.snapshot import SnapshotFile, SnapshotHolder
from finmaas_serving.gateway.spool import Spool
from finmaas_serving.gateway.tally import Tally
from finmaas_serving.gateway.upstream import Replica, ReplicaBook

if TYPE_CHECKING:
    import httpx

    from finmaas_serving.gateway.archive import Archive
    from finmaas_serving.gateway.call import Call
    from finmaas_serving.gateway.course import Course
    from finmaas_serving.gateway.protocol import ClientConnection
    from finmaas_serving.gateway.snapshot import Route
    from finmaas_serving.gateway.tracing import Tracing

log = get_logger()
STOPPED: Final = "stopped"
_ENDS: Final = [f"{number:03x}" for number in range(4096)]  # of request ids


@dataclass(frozen=True, slots=True)
class Limits:
    """How much and how long, in bytes and seconds."""

    body_bytes: int = 4 * 1024 * 1024
    file_bytes: int = 100 * 1024 * 1024  # an upload, with the form around it
    uploads: int = 32  # at once; each holds a connection and room on the control plane's disk
    upload_s: float = 3600.0  # until the last byte of an upload
    head_bytes: int = 64 * 1024
    answer_bytes: int = 64 * 1024 * 1024  # an answer that is not streamed is held whole
    head_s: float = 10.0  # from the first byte of a head to its last
    body_s: float = 120.0
    idle_s: float = 75.0  # keep-alive
    first_byte_s: float = 600.0  # waiting for a replica's first byte
    longest_s: float = 3600.0  # that a client may ask to be waited for
    gap_s: float = 120.0  # between two pieces of an answer
    stalled_s: float = 60.0  # a client that does not read
    linger_s: float = 2.0  # reading on after a refusal, so that the client gets to see it
    attempts: int = 3
    drain_s: float = 30.0
    pipelined: int = 16  # requests waiting on one connection before reading stops


@dataclass(slots=True)
class Gateway:
    """The parts, and the counters that tell how they fare."""

    pepper: bytes
    snapshots: SnapshotHolder
    replicas: ReplicaBook
    spool: Spool
    loop: asyncio.AbstractEventLoop
    limits: Limits = field(default_factory=Limits)
    replica_file: SnapshotFile | None = None  # what Ray told last, for the next start
    connections: set[ClientConnection] = field(default_factory=set)
    draining: bool = False
    drained: asyncio.Event = field(default_factory=asyncio.Event)  # the last connection of a draining gateway is gone
    control_plane: httpx.AsyncClient | None = None
    uploading: int = 0  # files on their way to the control plane
    running: int = 0  # requests on their way to a replica and back
    name: str = "gateway"
    lanes: LaneBook = field(default_factory=LaneBook)
    canaries: CanaryWatch = field(default_factory=CanaryWatch)
    outside: OutsideBook = field(init=False)
    outbox: Outbox = field(init=False)
    shadows: set[Call] = field(default_factory=set)  # copies on their way, which no client waits for
    cache: AnswerCache = field(default_factory=AnswerCache)
    allowances: Book = field(default_factory=Book)
    tally: Tally = field(default_factory=Tally)
    people: People = field(default_factory=People)
    archive: Archive | None = None
    tracing: Tracing | None = None
    awake_s: float = 0.0  # for how long the loop stays awake after a write
    metrics_token: str = ""  # what a Prometheus server must send; empty: nobody may
    replicas_heard_at: float = 0.0  # when Ray last answered, epoch seconds
    provenance_key: bytes = field(init=False)
    _salts: dict[str, str] = field(default_factory=dict)
    _prefix: str = field(default_factory=lambda: "req_" + secrets.token_hex(6))
    _number: int = 0
    _stem: str = ""  # of the ids that are given now
    _turns: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.provenance_key = provenance_key(self.pepper)
        self.outside = OutsideBook(self.pepper)
        self.outbox = Outbox(self.loop, self, self.spool, self.awake_s)

    def new_request_id(self) -> str:
        """Unique over all gateways and restarts: random for the process, then a running number."""
        number = self._number
        self._number = number + 1
        end = number & 0xFFF
        if not end:
            self._stem = f"{self._prefix}{number >> 12:07x}"
        return self._stem + _ENDS[end]

    def cache_salt_of(self, tenant_id: str) -> str:
        """What keeps a tenant's prompts apart in the engines' prefix cache; nobody outside can guess it."""
        salt = self._salts.get(tenant_id)
        if salt is None:
            salt = self._salts[tenant_id] = hmac.digest(
                self.pepper, b"cache salt " + tenant_id.encode(), "sha256"
            ).hex()
        return salt

    def next_turn(self) -> int:
        return next(self._turns)

    def replicas_of(self, target: Route, course: Course | None = None) -> list[Replica]:
        """Who may be asked for a target: its replicas, or the provider outside."""
        if course is not None and (provider := course.hop.provider) is not None:
            outside = self.outside.find(provider)
            return [] if outside is None else [outside.replica]
        return self.replicas.of(target.app) if target.state != STOPPED else []

    def lane_of(self, target: Route) -> Lane:
        """The lane of a target, on the terms of the newest snapshot."""
        app = target.app
        lane = self.lanes.open(app, target.name, self.loop, lambda: len(self.replicas.of(app)))
        lane.set_terms(target.terms, self.snapshots.current.weights)
        return lane

    def follow_snapshot(self) -> None:
        """Forgets what was kept for plans and providers that the newest snapshot does not name."""
        snapshot = self.snapshots.current
        plans = {route.traffic.digest for route in snapshot.routes.values() if route.traffic is not None}
        self.canaries.keep_only(plans)
        self.outside.keep_only(set(snapshot.providers.values()))

    def note_canary(self, course: Course, *, failed: bool, first_byte_s: float | None) -> None:
        """Takes note of a canary's answer, and gives it up when it breaks its bounds."""
        traffic = course.traffic
        if traffic.canary is None:
            return
        outcome = Outcome(failed, None if first_byte_s is None else first_byte_s * 1000)
        reason = self.canaries.note(traffic.digest, outcome, traffic.canary.bounds)
        if reason is not None:
            log.warning("canary.given_up", endpoint=course.name, canary=traffic.canary.endpoint_id, reason=reason)

    def report(self) -> Report:
        """How this process fares, for the control plane and for Prometheus."""
        known = self.snapshots.current.number >= 0
        return Report(
            started_at=self.tally.started_at,
            snapshot=self.snapshots.current.number if known else None,
            snapshot_age_s=round(self.snapshots.age_s, 1) if known else None,
            replicas=self.replicas.count(),
            running=self.running,
            connections=len(self.connections),
            usage_waiting=self.spool.waiting,
            draining=self.draining,
            refused=self.tally.refused,
            lines=self.tally.lines,
        )

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether requests can be served, and how fresh what they are judged by is."""
        snapshot = self.snapshots.current
        ready = snapshot.number >= 0 and not self.draining and not self.spool.broken
        heard = self.replicas_heard_at
        return ready, {
            "status": "ready" if ready else "draining" if self.draining else "not ready",
            "snapshot": {
                "number": snapshot.number if snapshot.number >= 0 else None,
                "issued_at": snapshot.issued_at or None,
                "age_s": round(self.snapshots.age_s, 1) if snapshot.number >= 0 else None,
                "source": self.snapshots.source,
            },
            "replicas": {
                "count": self.replicas.count(),
                "age_s": round(time.time() - heard, 1) if heard else None,
            },
            "usage_waiting": self.spool.waiting,
            "running": self.running,
            "queued": self.lanes.waiting(),
        }
