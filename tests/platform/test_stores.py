from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from s3_server import own_prefix

from finmaas_core.errors import EnvironmentFault
from finmaas_core.settings import Settings
from finmaas_platform.embedded.doctor import Verdict, check_store
from finmaas_platform.stores import make_store
from finmaas_registry.s3_client import S3Address


class TestMakeStore:
    def test_is_a_folder_of_the_home_by_default(self, tmp_path: Path) -> None:
        digest, _ = make_store(Settings(home=tmp_path)).put([b"x"])
        assert [path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == [digest]

    def test_is_a_bucket_where_settings_name_one(self, tmp_path: Path, s3_address: S3Address) -> None:
        address = own_prefix(s3_address)
        settings = Settings(
            home=tmp_path,
            s3_endpoint=address.endpoint,
            s3_prefix=address.prefix,
            s3_access_key=address.access_key,
            s3_secret_key=address.secret_key,
        )
        store = make_store(settings)
        digest, _ = store.put([b"x"])
        assert [*make_store(settings).list()] == [digest]
        assert not (tmp_path / "blobs").exists()
        assert [found.verdict for found in check_store(settings)] == [Verdict.OK]
        settings.s3_secret_key = SecretStr("wrong")
        (found,) = check_store(settings)
        assert (found.verdict, "FINMAAS_S3_SECRET_KEY" in found.found) == (Verdict.FAIL, True)

    def test_wants_the_keys(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentFault, match="FINMAAS_S3_SECRET_KEY"):
            make_store(Settings(home=tmp_path, s3_endpoint="http://127.0.0.1:1", s3_access_key=SecretStr("a")))
