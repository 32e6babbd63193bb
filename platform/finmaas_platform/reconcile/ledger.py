"""Cleans the ledger once an hour. Killed at any point it goes on in the next step."""

from __future__ import annotations

from finmaas_core.telemetry import get_logger
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.leases import SharedWorkRow, claim, ensure_shared_work
from finmaas_platform.deps import Deps
from finmaas_platform.services.ledger_cleaning import MAX_ROWS, clean_ledger

WORK = "ledger"
CLEAN_EVERY_S = 3600.0

log = get_logger()


class LedgerCleaner:
    """One control plane at a time cleans; its lease is taken and given back in the transaction that removes."""

    name = WORK

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def prepare(self) -> None:
        with unit_of_work(self._deps.sessions) as session:
            ensure_shared_work(session, WORK, self._deps.clock.now())

    def run_once(self) -> float:
        now = self._deps.clock.now()
        with unit_of_work(self._deps.sessions) as session:
            held = claim(session, SharedWorkRow, now, SharedWorkRow.id == WORK)
            if not held:
                return CLEAN_EVERY_S
            cleaned = clean_ledger(session, now)
            held[0].lease_token = held[0].lease_expires_at = None
        if cleaned:
            log.info("ledger.cleaned", slices=cleaned)
        return 0.0 if cleaned == MAX_ROWS else CLEAN_EVERY_S
