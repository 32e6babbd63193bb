"""Seals claims of provenance in batches, and forgets what was kept for auditors long enough.

Killed at any point it does the same in the next step, once.
"""

from __future__ import annotations

from finmaas_core.telemetry import get_logger
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.leases import SharedWorkRow, claim, ensure_shared_work
from finmaas_platform.deps import Deps
from finmaas_platform.services.archive import forget_expired
from finmaas_platform.services.provenance import MAX_CLAIMS, read_signing_key, seal_claims

WORK = "provenance"
SEAL_EVERY_S = 10.0

log = get_logger()


class ProvenanceSealer:
    """One control plane at a time seals; its lease is taken and given back in the transaction that holds the batch."""

    name = WORK

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._key = read_signing_key(deps.settings.paths)

    def prepare(self) -> None:
        with unit_of_work(self._deps.sessions) as session:
            ensure_shared_work(session, WORK, self._deps.clock.now())

    def run_once(self) -> float:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            held = claim(session, SharedWorkRow, now, SharedWorkRow.id == WORK)
            if not held:
                return SEAL_EVERY_S
            sealed = seal_claims(session, self._key, now)
            forgotten = forget_expired(session, now)
            held[0].lease_token = held[0].lease_expires_at = None
        if sealed:
            log.info("provenance.sealed", claims=sealed)
        if forgotten:
            log.info("archive.forgotten", records=forgotten)
        return 0.0 if sealed == MAX_CLAIMS else SEAL_EVERY_S
