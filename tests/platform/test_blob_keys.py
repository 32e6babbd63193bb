from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from soft_hsm import PIN, TOKEN
from sqlalchemy import select

from finmaas_core.clock import FakeClock
from finmaas_core.errors import EnvironmentFault
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobKeyRow
from finmaas_platform.deps import Deps
from finmaas_platform.services.blob_keys import DatabaseKeys
from finmaas_platform.stores import make_codecs, make_key_ring, make_store
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


class TestSecurityModule:
    def test_blobs_are_sealed_under_a_key_that_never_leaves_the_token(
        self, deps: Deps, clock: FakeClock, hsm_module: Path
    ) -> None:
        settings = deps.settings.model_copy(
            update={
                "blob_encryption": "pkcs11",
                "pkcs11_module": hsm_module,
                "pkcs11_token": TOKEN,
                "pkcs11_pin": SecretStr(PIN),
                "pkcs11_key": "platform",
            }
        )
        store = make_store(settings, make_codecs(settings, deps.sessions, clock))
        before, _ = store.put([b"before"])
        ring = make_key_ring(settings)
        assert ring is not None
        name = DatabaseKeys(ring, deps.sessions, clock).rotate()
        assert name.startswith("pkcs11:platform-2-")
        off = settings.model_copy(update={"blob_encryption": "off"})
        for later in (settings, off):
            restarted = make_store(later, make_codecs(later, deps.sessions, clock))
            assert b"".join(restarted.open(before)) == b"before"
        assert {path.name for path in settings.paths.secrets.iterdir()} == set(), "no key lies in the home"

    def test_a_setting_that_is_missing_is_named(self, deps: Deps) -> None:
        settings = deps.settings.model_copy(update={"blob_encryption": "pkcs11"})
        with pytest.raises(EnvironmentFault, match="FINMAAS_PKCS11_MODULE"):
            make_key_ring(settings)
