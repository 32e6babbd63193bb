"""Watches over canaries: one that breaks its bounds in the usage records of all gateways is taken out of its plan.

Gateways stop sending to it by themselves, each by what it saw; this makes it final, and tells why. Killed at any point
it does the same in the next step, once: the judgement and its record are one transaction.
"""

from __future__ import annotations

from finmaas_core.telemetry import get_logger
from finmaas_platform.db.base import unit_of_work
from finmaas_platform.db.leases import SharedWorkRow, claim, ensure_shared_work
from finmaas_platform.deps import Deps
from finmaas_platform.services.traffic import judge_canaries

WORK = "canaries"
LOOK_EVERY_S = 2.0

log = get_logger()


class CanaryReconciler:
    """One control plane at a time judges; its lease is taken and given back in the transaction of the judgement."""

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
                return LOOK_EVERY_S
            ended = judge_canaries(session, now)
            held[0].lease_token = held[0].lease_expires_at = None
        for endpoint, reason in ended:
            log.warning("canary.rolled_back", endpoint=endpoint, reason=reason)
        return LOOK_EVERY_S
