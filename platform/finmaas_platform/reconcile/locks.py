"""Locks the bytes of released versions in the bucket. Killed at any point it does the same in the next step.

The store is asked between two transactions: one reads what to lock, the other notes that it was.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from finmaas_core.errors import FinmaasError
from finmaas_core.telemetry import get_logger
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.leases import claim, is_only_control_plane, release_all
from finmaas_platform.db.locks import VersionLockRow
from finmaas_platform.deps import Deps
from finmaas_platform.services.locks import (
    WAKES,
    LockStep,
    ask_for_missing_locks,
    begin_step,
    finish_step,
    lock_days,
    put_off_step,
)

LOOK_EVERY_S = 60.0
PARALLEL = 8

log = get_logger()


class LockReconciler:
    """One control plane at a time locks a version, by its lease; two at once would do the same."""

    name = WAKES

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    def prepare(self) -> None:
        with unit_of_work(self._deps.sessions) as session:
            if is_only_control_plane(self._deps.sessions):
                release_all(session, VersionLockRow, self._deps.clock.now())
            ask_for_missing_locks(session, self._deps)

    def run_once(self) -> float:
        deps, now = self._deps, self._deps.clock.now()
        with unit_of_work(deps.sessions) as session:
            claimed = claim(session, VersionLockRow, now, limit=1)
            steps = [begin_step(session, row, now, lock_days(deps, row.kind)) for row in claimed]
        for step in steps:
            if step is not None:
                self._take(step)
        return 0.0 if claimed else LOOK_EVERY_S

    def _take(self, step: LockStep) -> None:
        deps = self._deps
        try:
            with ThreadPoolExecutor(PARALLEL, thread_name_prefix="lock") as pool:
                supported = all(pool.map(deps.store.retain, step.ends.keys(), step.ends.values()))
        except FinmaasError as error:
            log.warning("locks.put_off", version=step.row.id, error=error.message)
            with unit_of_work(deps.sessions) as session:
                put_off_step(session, deps.clock.now(), step, error.message)
            return
        with unit_of_work(deps.sessions) as session:
            finish_step(session, deps, step, supported)
