"""The lock for sites without internet: only what was built from source is checked against the folder's own note."""

from __future__ import annotations

import hashlib
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "offline_lock.py"
LOCK = "first==1.0 \\\n    --hash=sha256:{first}\nsource.only==2.0 \\\n    --hash=sha256:aaaa\n"


def run(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["offline_lock.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0


def test_a_built_wheel_gets_its_own_hash_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "first-1.0-py3-none-any.whl").write_bytes(b"as on the index")
    (tmp_path / "source_only-2.0-py3-none-any.whl").write_bytes(b"built here")
    (tmp_path / "stranger-9.9-py3-none-any.whl").write_bytes(b"not in the lock")
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK.format(first=hashlib.sha256(b"as on the index").hexdigest()))
    run("--note", lock, tmp_path, monkeypatch=monkeypatch)
    run(lock, tmp_path, monkeypatch=monkeypatch)
    built = hashlib.sha256(b"built here").hexdigest()
    assert capsys.readouterr().out.splitlines() == [
        *lock.read_text().splitlines()[:2],
        f"source-only==2.0 --hash=sha256:{built}",
    ]
