"""Runs the reconcilers, one thread each: woken by commits of this process, else by their own time. Nothing sleeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Protocol

from finmaas_core.telemetry import get_logger
from finmaas_platform.db.leases import on_wake
from finmaas_platform.deps import Deps
from finmaas_platform.reconcile.batches import BatchReconciler
from finmaas_platform.reconcile.canaries import CanaryReconciler
from finmaas_platform.reconcile.endpoints import EndpointReconciler
from finmaas_platform.reconcile.jobs import JobReconciler
from finmaas_platform.reconcile.ledger import LedgerCleaner
from finmaas_platform.reconcile.locks import LockReconciler
from finmaas_platform.reconcile.provenance import ProvenanceSealer

PAUSE_AFTER_ERROR_S = 2.0
STOP_TIMEOUT_S = 5.0

log = get_logger()


class Reconciler(Protocol):
    """Moves the world towards the rows, one step at a time; killing it between any two instructions is harmless."""

    name: str

    def prepare(self) -> None:
        """Done once, before the first step."""

    def run_once(self) -> float:
        """Claims what is due, observes, plans and applies; returns the seconds until it wants to look again."""
        ...


def start_reconcilers(deps: Deps) -> Callable[[], None]:
    """Starts the reconcilers of this control plane; returns the function that ends them."""
    kinds = (
        JobReconciler,
        EndpointReconciler,
        CanaryReconciler,
        ProvenanceSealer,
        BatchReconciler,
        LedgerCleaner,
        LockReconciler,
    )
    return run_reconcilers(deps, [kind(deps) for kind in kinds])


def run_reconcilers(deps: Deps, reconcilers: Sequence[Reconciler]) -> Callable[[], None]:
    """Runs each in a thread of its own; returns the function that ends them (a call to the cluster may outlive it)."""
    stopping = Event()
    wakes = {reconciler.name: Event() for reconciler in reconcilers}
    forget = on_wake(deps.sessions, lambda name: wakes[name].set() if name in wakes else None)
    threads = [
        Thread(target=_run, args=(one, wakes[one.name], stopping), name=f"reconcile-{one.name}", daemon=True)
        for one in reconcilers
    ]
    for thread in threads:
        thread.start()

    def stop() -> None:
        stopping.set()
        for wake in wakes.values():
            wake.set()
        for thread in threads:
            thread.join(STOP_TIMEOUT_S)
        forget()

    return stop


def _run(reconciler: Reconciler, wake: Event, stopping: Event) -> None:
    prepared = False
    while not stopping.is_set():
        wake.clear()
        try:
            if not prepared:
                reconciler.prepare()
                prepared = True
            wait_s = reconciler.run_once()
        except Exception:
            # A reconciler must outlive whatever the database or the cluster does; the next step starts afresh.
            log.exception("reconcile.failed", reconciler=reconciler.name)
            wait_s = PAUSE_AFTER_ERROR_S
        if wait_s > 0 and not stopping.is_set():
            wake.wait(wait_s)
