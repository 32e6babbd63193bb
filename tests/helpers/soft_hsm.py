"""A security module in software: SoftHSM with one token of its own, in a folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODULES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so")
TOKEN, PIN = "finmaas tests", "7316-pin"


def make_token(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Makes the token and gives the module's path. Skips the test where there is no SoftHSM."""
    module = next((Path(path) for path in MODULES if Path(path).is_file()), None)
    tool = shutil.which("softhsm2-util")
    if module is None or tool is None:
        pytest.skip("no SoftHSM: `infra/install-softhsm` brings it")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    patch.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
    words = [tool, "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", "the officer's"]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    return module
