"""The S3 half of `make bench-registry`: our adapter against boto3's transfer and rclone on one server, file by file.

Each side is a process of its own and ends when the server has confirmed the last byte (push), or the file is synced
(pull). Ours cuts the file into blocks, as the platform does, and so hashes each, and the whole; the others do not.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import Figures
from s3_server import own_prefix, run_s3

from finmaas_registry.s3_client import S3Address
from finmaas_registry.s3_store import S3Store

ROOT = Path(__file__).parents[2]
BOTO3 = ROOT / "build/bench-venv/bin/python"

OURS = """
import hashlib, json, os, sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from mmap import ACCESS_READ, mmap
from pathlib import Path
from pydantic import SecretStr
from finmaas_core.memory import keep_buffers
from finmaas_registry.blocks import Block, Recipe, plan_file, read_recipe
from finmaas_registry.hashing import SideHasher
from finmaas_registry.manifest import FileEntry
from finmaas_registry.materialise import materialise
from finmaas_registry.s3_client import S3Address
from finmaas_registry.s3_store import S3Store
what, path = sys.argv[1], Path(sys.argv[2])
keep_buffers()  # as the control plane does
e = os.environ
keys = SecretStr(e["ACCESS"]), SecretStr(e["SECRET"])
store = S3Store(S3Address(e["ENDPOINT"], e["BUCKET"], *keys, prefix=e["PREFIX"]))
recipe_file = Path(e["RECIPE"])
if what == "push":
    blocks, sending = [], deque()
    with path.open("rb") as file, SideHasher() as whole, ThreadPoolExecutor(4) as pool:
        view = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
        for span in plan_file(path):
            data = view[span.start : span.start + span.size]
            whole.update(data)
            blocks.append((hashlib.sha256(data).hexdigest(), span.size))
            if len(sending) == 4:
                sending.popleft().result()
            sending.append(pool.submit(store.put_expected, blocks[-1][0], [data]))
        for future in sending:
            future.result()
        recipe_file.write_text(json.dumps([whole.hexdigest(), whole.size, blocks]))
else:
    digest, size, blocks = json.loads(recipe_file.read_text())
    recipe = Recipe(digest, size, tuple(Block(*block) for block in blocks))
    materialise([FileEntry("file", digest, size)], lambda _: read_recipe(store, recipe), path)
"""

THEIRS = """
import os, sys
import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
what, path, key = sys.argv[1:]
e = os.environ
config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
s3 = boto3.client("s3", endpoint_url=e["ENDPOINT"], aws_access_key_id=e["ACCESS"], aws_secret_access_key=e["SECRET"],
                  region_name="us-east-1", config=config)
transfer = TransferConfig(multipart_chunksize=16 << 20, max_concurrency=10)
if what == "push":
    s3.upload_file(path, e["BUCKET"], e["PREFIX"] + key, Config=transfer)
else:
    s3.download_file(e["BUCKET"], e["PREFIX"] + key, path, Config=transfer)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
"""


def measure_s3(figures: Figures, megabytes: int, rounds: int) -> bool:
    """Median over rounds of the faster of the others' seconds over ours."""
    rclone = shutil.which("rclone")
    pushes: list[float] = []
    pulls: list[float] = []
    seconds: list[dict[str, float]] = []
    with run_s3() as given, tempfile.TemporaryDirectory(prefix="bench-s3-", dir=ROOT / "build") as folder:
        address = own_prefix(given)
        S3Store(address).ensure_bucket()
        for number in range(rounds):
            source = Path(folder) / "source"
            _write_random(source, megabytes)
            took = {}
            for what, target in (("push", source), ("pull", source)):
                for side in _sides(number, rclone):
                    key = f"{side}-{number}"
                    if what == "pull":
                        target = Path(folder) / f"{side}-{number}"
                    os.sync()
                    started = time.perf_counter()
                    _run(side, what, target, key, address, rclone)
                    took[f"{side}_{what}"] = round(time.perf_counter() - started, 2)
            others = [side for side in ("boto3", "rclone") if f"{side}_push" in took]
            pushes.append(min(took[f"{side}_push"] for side in others) / took["ours_push"])
            pulls.append(min(took[f"{side}_pull"] for side in others) / took["ours_pull"])
            seconds.append(took)
            print(took, flush=True)
            store = S3Store(address)
            client = store._client
            for found in [*client.list_objects(address.bucket, address.prefix, recursive=True, include_version=True)]:
                client.remove_object(address.bucket, found.object_name, found.version_id)
    how = f"{megabytes} MB, one file, against the faster of {' and '.join(others)}"
    met = [
        figures.add("s3_push_ratio", round(statistics.median(pushes), 3), at_least=1.0, how=how, seconds=seconds),
        figures.add("s3_pull_ratio", round(statistics.median(pulls), 3), at_least=1.0, how=how, rounds=pulls),
    ]
    return all(met)


def _sides(number: int, rclone: str | None) -> list[str]:
    sides = ["ours", "boto3", *(["rclone"] if rclone else [])]
    return sides[number % len(sides) :] + sides[: number % len(sides)]


def _run(side: str, what: str, path: Path, key: str, address: S3Address, rclone: str | None) -> None:
    # rclone cannot use a certificate bundle from AWS's own variables, and the server speaks plain HTTP anyway.
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "ENDPOINT": address.endpoint,
        "BUCKET": address.bucket,
        "PREFIX": address.prefix,
        "RECIPE": str(path.parent / "recipe.json"),
        "ACCESS": address.access_key.get_secret_value(),
        "SECRET": address.secret_key.get_secret_value(),
    }
    if side == "rclone":
        assert rclone is not None
        subprocess.run(_rclone(rclone, what, path, key, env), env=env, check=True)
        if what == "pull":
            subprocess.run(["sync", path], check=True)
        return
    python, program = (sys.executable, OURS) if side == "ours" else (str(BOTO3), THEIRS)
    subprocess.run([python, "-c", program, what, str(path), key], env=env, check=True)


def _rclone(rclone: str, what: str, path: Path, key: str, env: dict[str, str]) -> list[str]:
    env |= {
        "RCLONE_CONFIG_S3_TYPE": "s3",
        "RCLONE_CONFIG_S3_PROVIDER": "Ceph",
        "RCLONE_CONFIG_S3_ENDPOINT": env["ENDPOINT"],
        "RCLONE_CONFIG_S3_ACCESS_KEY_ID": env["ACCESS"],
        "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": env["SECRET"],
    }
    remote = f"s3:{env['BUCKET']}/{env['PREFIX']}{key}"
    tuned = ["--s3-chunk-size=16M", "--s3-upload-concurrency=8", "--multi-thread-streams=8", "--s3-no-check-bucket"]
    places = [str(path), remote] if what == "push" else [remote, str(path)]
    return [rclone, "copyto", "--ignore-times", *tuned, *places]


def _write_random(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
