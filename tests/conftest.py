"""Shared by all tests: where real data lies, and the rule on skips.

A skip is only accepted for a part that cannot be installed on this machine: its reason must begin with one of
ALLOWED_SKIPS. Any other skip fails the run, and all are printed (`-ra`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from finmaas_registry.s3_client import S3Address

# Settings of whoever runs the tests are not those of the tests: the environment would win over what they set.
for _name in [name for name in os.environ if name.startswith("FINMAAS_")]:
    if not _name.startswith(("FINMAAS_TEST_", "FINMAAS_DATA")):
        del os.environ[_name]

# The gateway's tests run on the sources; with this, on what they were compiled to (`make test` does both).
if os.environ.get("FINMAAS_TEST_COMPILED"):
    from finmaas_serving import compiled

    if not compiled.install():
        raise SystemExit("the gateway's hot path is not compiled: run `make setup`")

ALLOWED_SKIPS = ("no GPU", "no Kubernetes", "no Node.js", "no real data", "no S3 server", "no SoftHSM")
_forbidden_skips: list[str] = []


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real finance data, from FINMAAS_DATA; a test that needs it is skipped where there is none."""
    folder = os.environ.get("FINMAAS_DATA")
    if not folder:
        pytest.skip("no real data: set FINMAAS_DATA to its folder")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_address() -> Iterator[S3Address]:
    """A running S3 server with the tests' bucket in it; one for the whole run."""
    from s3_server import run_s3

    from finmaas_registry.s3_store import S3Store

    with run_s3() as address:
        S3Store(address).ensure_bucket()
        yield address


@pytest.fixture(scope="session")
def hsm_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The library of a security module in software. A process loads it once, so the whole run has one token."""
    from soft_hsm import make_token

    with pytest.MonkeyPatch.context() as patch:
        yield make_token(tmp_path_factory.mktemp("softhsm"), patch)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes every skip that this machine could have avoided."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
            _forbidden_skips.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails a run that skipped what could have been installed."""
    if _forbidden_skips and exitstatus == pytest.ExitCode.OK:
        print("\nskipped, though its part could have been installed:", *_forbidden_skips, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# A busy machine is no failing property.
hypothesis.settings.register_profile("finmaas", deadline=None)
hypothesis.settings.load_profile("finmaas")
