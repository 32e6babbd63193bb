"""The S3 server of the tests: the one that FINMAAS_TEST_S3_* name, else one of our own, ended after the run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from finmaas_registry.s3_client import S3Address

STARTER = Path(__file__).parents[2] / "infra" / "start-s3"
BUCKET = "finmaas-tests"


@contextmanager
def run_s3() -> Iterator[S3Address]:
    """The address of a running server; skips the test where there is none and none can be started."""
    if "FINMAAS_TEST_S3_ENDPOINT" in os.environ:
        yield _address(dict(os.environ))
        return
    if shutil.which("radosgw", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip("no S3 server: `infra/start-s3 install` brings one, or set FINMAAS_TEST_S3_ENDPOINT and its keys")
    with tempfile.TemporaryDirectory(prefix="fm-s3-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        started = subprocess.run(
            [STARTER, "start", folder, str(port)], stdout=subprocess.PIPE, text=True, check=True, timeout=120
        )
        try:
            yield _address(dict(line.split("=", 1) for line in started.stdout.split()))
        finally:
            subprocess.run([STARTER, "stop", folder], check=True, timeout=60)


def own_prefix(address: S3Address) -> S3Address:
    """The same bucket, with a prefix that nobody else uses."""
    return replace(address, prefix=f"{uuid.uuid4().hex}/")


def _address(env: dict[str, str]) -> S3Address:
    keys = [SecretStr(env[f"FINMAAS_TEST_S3_{name}_KEY"]) for name in ("ACCESS", "SECRET")]
    return S3Address(env["FINMAAS_TEST_S3_ENDPOINT"], env.get("FINMAAS_TEST_S3_BUCKET", BUCKET), *keys)
