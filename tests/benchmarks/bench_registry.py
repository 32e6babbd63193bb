"""Transfer of blobs measured: `make bench-registry`, which writes build/bench/registry.json.

    push_ratio, pull_ratio        the SDK through a control plane of its own process onto a folder store, against `cp`
                                  and sha256sum of the same bytes on the same disk, both with fsync
    s3_push_ratio, s3_pull_ratio  the store's S3 adapter against boto3's transfer and rclone, each with its own process
    hub_pull_ratio                huggingface_hub's snapshot_download against the SDK's download of the same version
    resend_ratio                  one of 100 tensors changed: bytes sent over that tensor's bytes
    import_*, list_*              see bench_datasets.py

Every round takes fresh random bytes and runs both sides one after the other, in turn first; the figure is the median of
the ratios of rounds. `cold` rounds drop the page cache before each side, where this process may.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from bench_datasets import measure_import, measure_lists
from bench_registry_hub import measure_hub
from bench_registry_s3 import measure_s3
from figures import Figures
from integration_helpers import find_port_block

from finmaas_core.home import read_secret
from finmaas_core.settings import Settings
from finmaas_platform.sdk import Client

ROOT = Path(__file__).parents[2]
TENSORS = 100


def main() -> int:
    options = _parse()
    for name in [name for name in os.environ if name.startswith("FINMAAS_") and not name.startswith("FINMAAS_TEST_")]:
        del os.environ[name]  # every part has an installation of its own, whatever the Makefile names
    figures = Figures(ROOT / "build/bench/registry.json")
    parts: dict[str, Callable[[], bool]] = {
        "folder": lambda: measure_folder(figures, options.megabytes, options.rounds),
        "s3": lambda: measure_s3(figures, options.megabytes, options.rounds),
        "import": lambda: measure_import(figures, options.rows),
        "lists": lambda: measure_lists(figures),
        "hub": lambda: measure_hub(figures, options.megabytes, options.rounds),
    }
    met = [run() for name, run in parts.items() if options.only in ("", name)]
    return 0 if all(met) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="", choices=["", "folder", "s3", "import", "lists", "hub"])
    return parser.parse_args()


def measure_folder(figures: Figures, megabytes: int, rounds: int) -> bool:
    """Push and pull through a control plane, and what a second version sends."""
    pushes: dict[str, list[float]] = {"warm": [], "cold": []}
    pulls: dict[str, list[float]] = {"warm": [], "cold": []}
    seconds: list[dict[str, float | str]] = []
    with scratch() as folder, control_plane(folder / "home") as client:
        for number in range(rounds):
            for cache in ("warm", "cold"):
                model = make_model(folder / "model", megabytes)
                sides = [
                    lambda model=model: copy_and_hash(model, folder / "copy"),
                    lambda model=model, number=number, cache=cache: push(client, model, f"m-{number}-{cache}"),
                ]
                copied, pushed = run_both(sides, number, cache)
                again, pulled = run_both(
                    [
                        lambda: copy_and_hash(folder / "copy", folder / "again"),
                        lambda number=number, cache=cache: pull(client, f"m-{number}-{cache}", folder / "pulled"),
                    ],
                    number,
                    cache,
                )
                pushes[cache].append(copied / pushed)
                pulls[cache].append(again / pulled)
                seconds.append({"cache": cache, "cp": copied, "push": pushed, "cp_again": again, "pull": pulled})
                print(seconds[-1], flush=True)
                for used in ("copy", "again", "pulled"):
                    shutil.rmtree(folder / used)
                _drop_blobs(folder / "home")
        resent = measure_resend(client, folder, min(megabytes, 200))
    how = f"{megabytes} MB in 4 safetensors files, SDK → control plane → folder, against cp + sha256sum + fsync"
    met = [
        figures.add("push_ratio", median(pushes), at_least=0.8, how=how, rounds=pushes, seconds=seconds),
        figures.add("pull_ratio", median(pulls), at_least=0.8, how=how, rounds=pulls),
        figures.add("resend_ratio", resent, at_most=1.05, how=f"1 of {TENSORS} tensors changed; body bytes received"),
    ]
    return all(met)


def measure_resend(client: Client, folder: Path, megabytes: int) -> float:
    """What arrives at the store for a second version, over the bytes of the tensor that changed."""
    tensor = (megabytes << 20) // TENSORS
    model = folder / "resend"
    write_safetensors(model, "model.safetensors", TENSORS, tensor)
    client.models.import_folder(model, "resend")
    before = _stored_bytes(folder / "home")
    with (model / "model.safetensors").open("r+b") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        file.seek(start + 42 * tensor)
        file.write(os.urandom(tensor))
    client.models.import_folder(model, "resend")
    return (_stored_bytes(folder / "home") - before) / tensor


def push(client: Client, model: Path, name: str) -> None:
    """Files are on the disk when the control plane answers: its store syncs each."""
    client.models.import_folder(model, name)


def pull(client: Client, name: str, target: Path) -> None:
    """Files are on the disk when this returns: each is synced before it is renamed."""
    client.models.download(name, target)


def copy_and_hash(source: Path, target: Path) -> None:
    """What a careful person would do by hand: copy, have it on the disk, and check every byte."""
    subprocess.run(["cp", "-r", source, target], check=True)
    for path in target.rglob("*"):
        if path.is_file():
            subprocess.run(["sync", path], check=True)
    files = [path for path in source.rglob("*") if path.is_file()]
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)


def make_model(folder: Path, megabytes: int) -> Path:
    """A model folder of random bytes that nobody has seen."""
    shutil.rmtree(folder, ignore_errors=True)
    for shard in range(4):
        write_safetensors(folder, f"model-{shard}.safetensors", 25, (megabytes << 20) // 100)
    os.sync()
    return folder


def write_safetensors(folder: Path, name: str, count: int, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        f"{name}.{n}": {"dtype": "U8", "shape": [size], "data_offsets": [n * size, (n + 1) * size]}
        for n in range(count)
    }
    head = json.dumps(header).encode()
    with (folder / name).open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for _ in range(count):
            file.write(os.urandom(size))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")


@contextmanager
def control_plane(home: Path) -> Iterator[Client]:
    """A control plane in a process of its own, with an empty home."""
    port = find_port_block()
    settings = Settings(home=home, port_base=port)
    env = os.environ | {"FINMAAS_HOME": str(home), "FINMAAS_PORT_BASE": str(port)}
    log = home.with_suffix(".log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "finmaas_platform.control_plane"], env=env, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(settings):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the control plane did not start; see {home.with_suffix('.log')}")
            time.sleep(0.1)
        with Client(url=settings.api_url, token=read_secret(settings.paths.admin_token)) as client:
            client.whoami()
            yield client
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk of the checkout: /tmp may be memory."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-registry-", dir=ROOT / "build") as folder:
        yield Path(folder)


def drop_cache() -> None:
    """Forgets cached file pages, where we may; else the caller's figure is a warm one, and says so."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError as error:
        raise SystemExit(f"cold rounds need leave to drop the page cache ({error})") from error


def run_both(sides: list[Callable[[], None]], number: int, cache: str) -> tuple[float, float]:
    """Seconds of both sides; which goes first changes with the round."""
    took = [0.0, 0.0]
    for side in (0, 1) if number % 2 == 0 else (1, 0):
        os.sync()
        if cache == "cold":
            drop_cache()
        started = time.perf_counter()
        sides[side]()
        took[side] = time.perf_counter() - started
    return took[0], took[1]


def median(ratios: dict[str, list[float]]) -> float:
    """Over all rounds, warm and cold."""
    return round(statistics.median(one for many in ratios.values() for one in many), 3)


def _answers(settings: Settings) -> bool:
    import httpx

    try:
        return httpx.get(f"{settings.api_url}/api/v1/health", trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def _stored_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "blobs").rglob("*") if path.is_file())


def _drop_blobs(home: Path) -> None:
    """Makes room on the disk. Tensors of earlier rounds are not read again; small blocks may be."""
    for path in (home / "blobs").rglob("*"):
        if path.is_file() and path.stat().st_size >= 1 << 20:
            path.unlink()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    raise SystemExit(main())
