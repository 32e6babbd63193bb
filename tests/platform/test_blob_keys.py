from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.errors import EnvironmentFault
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobKeyRow
from finmaas_platform.deps import Deps
from finmaas_platform.services.blob_keys import DatabaseKeys
from finmaas_platform.stores import make_codecs, make_store
from finmaas_registry.keyring import FileKeyRing


class TestDatabaseKeys:
    def test_a_rotation_wraps_all_anew_and_rewrites_no_blob(self, deps: Deps, clock: FakeClock, tmp_path: Path) -> None:
        settings = deps.settings.model_copy(update={"blob_encryption": "file"})
        store = make_store(settings, make_codecs(settings, deps.sessions, clock))
        before, _ = store.put([b"before"])
        (stored,) = (path for path in settings.paths.blobs.rglob("*.sealed"))
        assert b"before" not in (sealed := stored.read_bytes())

        ring = FileKeyRing(settings.paths.secrets / "blob-ring.json")
        clock.advance(1)
        name = DatabaseKeys(ring, deps.sessions, clock).rotate()
        with read_unit(deps.sessions) as session:
            assert {row.wrapping_key for row in session.scalars(select(BlobKeyRow))} == {name}
        assert stored.read_bytes() == sealed

        restarted = make_store(settings, make_codecs(settings, deps.sessions, clock))
        after, _ = restarted.put([b"after"])
        assert b"".join(restarted.open(before, 2)) == b"fore"
        assert b"".join(restarted.open(after)) == b"after"
        assert restarted.stat(after) == 5
        assert {*restarted.list()} == {before, after}

    def test_switching_it_off_still_reads_what_is_sealed(self, deps: Deps, clock: FakeClock) -> None:
        sealing = deps.settings.model_copy(update={"blob_encryption": "file"})
        digest, _ = make_store(sealing, make_codecs(sealing, deps.sessions, clock)).put([b"sealed"])
        plain = make_store(deps.settings, make_codecs(deps.settings, deps.sessions, clock))
        assert b"".join(plain.open(digest)) == b"sealed"
        assert plain.put([b"plain"]).size == 5
        assert len([*deps.settings.paths.blobs.rglob("*.sealed")]) == 1

    def test_a_lost_data_key_is_named(self, deps: Deps, clock: FakeClock) -> None:
        settings = deps.settings.model_copy(update={"blob_encryption": "file"})
        store = make_store(settings, make_codecs(settings, deps.sessions, clock))
        digest, _ = store.put([b"x"])
        with unit_of_work(deps.sessions) as session:
            session.delete(session.scalars(select(BlobKeyRow)).one())
        with pytest.raises(EnvironmentFault, match="not in the database"):
            b"".join(store.open(digest))
