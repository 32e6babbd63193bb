"""Data keys of sealed blobs: rows that hold them wrapped, opened by the installation's key ring.

Rotating makes a new wrapping key, wraps every data key anew under it, and begins a new data key; no blob is rewritten.
"""

from __future__ import annotations

import secrets
import threading

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_core.clock import Clock
from finmaas_core.errors import Conflict, EnvironmentFault
from finmaas_platform.db.base import SessionFactory, read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobKeyRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller, Role
from finmaas_platform.services.audit import record_audit
from finmaas_registry.keyring import KeyRing, Wrapped, make_data_key
from finmaas_registry.sealing import ID_BYTES


class DatabaseKeys:
    """The data keys of an installation (`finmaas_registry.sealing.DataKeys`), each unwrapped once a process."""

    def __init__(self, ring: KeyRing, sessions: SessionFactory, clock: Clock) -> None:
        self._ring = ring
        self._sessions = sessions
        self._clock = clock
        self._opened: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def current(self) -> tuple[bytes, bytes]:
        """The newest one; the first is made here. A process that has not seen a rotation yet may use an older one."""
        with read_unit(self._sessions) as session:
            newest = _find_newest(session)
        if newest is None:
            self._add(only_first=True)
            return self.current()
        return bytes.fromhex(newest.id), self._open(newest)

    def get(self, key_id: bytes) -> bytes:
        with read_unit(self._sessions) as session:
            row = session.get(BlobKeyRow, key_id.hex())
        if row is None:
            raise EnvironmentFault(f"the data key {key_id.hex()} of a sealed blob is not in the database; restore it")
        return self._open(row)

    def rotate(self) -> str:
        """A new wrapping key over every data key, and a new data key; returns the wrapping key's name."""
        name = self._ring.rotate()
        with read_unit(self._sessions) as session:
            rows = [*session.scalars(select(BlobKeyRow))]
        wrapped = {row.id: self._ring.wrap(self._open(row)) for row in rows}
        with unit_of_work(self._sessions) as session:
            for key_id, anew in wrapped.items():
                row = session.get_one(BlobKeyRow, key_id)
                row.wrapping_key, row.wrapped = anew.wrapping_key, anew.text
        self._add()
        return name

    def _add(self, *, only_first: bool = False) -> None:
        wrapped = self._ring.wrap(make_data_key())
        with unit_of_work(self._sessions) as session:
            if not only_first or _find_newest(session) is None:
                session.add(
                    BlobKeyRow(
                        id=secrets.token_hex(ID_BYTES),
                        wrapping_key=wrapped.wrapping_key,
                        wrapped=wrapped.text,
                        created_at=self._clock.now(),
                    )
                )

    def _open(self, row: BlobKeyRow) -> bytes:
        with self._lock:
            if row.id not in self._opened:
                self._opened[row.id] = self._ring.unwrap(Wrapped(row.wrapping_key, row.wrapped))
            return self._opened[row.id]


def rotate_wrapping_key(deps: Deps, caller: Caller) -> str:
    """Rotates the installation's ring. Conflict where blobs are not encrypted."""
    from finmaas_platform.stores import make_key_ring  # which wires this module

    caller.require(Role.PLATFORM_ADMIN)
    ring = make_key_ring(deps.settings)
    if ring is None:
        raise Conflict("blobs are not encrypted here; set FINMAAS_BLOB_ENCRYPTION first")
    name = DatabaseKeys(ring, deps.sessions, deps.clock).rotate()
    with unit_of_work(deps.sessions) as session:
        record_audit(session, caller, deps.clock.now(), "blob_key.rotate", "store", after={"wrapping_key": name})
    return name


def _find_newest(session: Session) -> BlobKeyRow | None:
    return session.scalars(select(BlobKeyRow).order_by(BlobKeyRow.created_at.desc(), BlobKeyRow.id).limit(1)).first()
