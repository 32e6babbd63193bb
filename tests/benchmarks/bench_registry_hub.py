"""Pulls through the Hub protocol by huggingface_hub's command, beside `finmaas model pull`: `hub_pull_ratio`.

Both commands talk to one control plane in a process of its own, each into an empty folder on the same disk, in turn
first. Both end with every file on the disk: ours syncs each, for `hf`, which does not, it is done after it, and
counted. `cold` rounds drop the page cache before each side.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from figures import Figures

from finmaas_core.home import Home, read_secret
from finmaas_platform.sdk.transfer import FETCHERS

BIN = Path(sys.executable).parent


def measure_hub(figures: Figures, megabytes: int, rounds: int) -> bool:
    """The ratio of our command's time to theirs: 1 is as fast."""
    from bench_registry import control_plane, make_model, median, run_both, scratch

    ratios: dict[str, list[float]] = {"warm": [], "cold": []}
    seconds: list[dict[str, float | str]] = []
    with scratch() as folder, control_plane(folder / "home") as client:
        client.models.import_folder(make_model(folder / "model", megabytes), "m")
        for number in range(rounds):
            for cache in ("warm", "cold"):
                sides = [
                    lambda: pull(client.url, folder / "home", folder / "ours"),
                    lambda: hub_pull(client.url, folder / "home", folder / "hub"),
                ]
                ours, theirs = run_both(sides, number, cache)
                ratios[cache].append(ours / theirs)
                seconds.append({"cache": cache, "finmaas": ours, "hf": theirs})
                for used in ("ours", "hub"):
                    shutil.rmtree(folder / used)
    how = f"{megabytes} MB in 4 safetensors files; seconds of `finmaas model pull` over those of `hf download`"
    return figures.add("hub_pull_ratio", median(ratios), at_least=0.8, how=how, rounds=ratios, seconds=seconds)


def pull(url: str, home: Path, target: Path) -> None:
    """By our command, with the token of the first admin."""
    env = os.environ | {"FINMAAS_URL": url, "FINMAAS_TOKEN": read_secret(Home(home).admin_token)}
    subprocess.run([BIN / "finmaas", "model", "pull", "m", target], env=env, check=True, capture_output=True)


def hub_pull(url: str, home: Path, target: Path) -> None:
    """By theirs; then every file is brought to the disk."""
    token = read_secret(Home(home).admin_token)
    env = os.environ | {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HOME": str(home / "hf")}
    words = ["download", "default/m", "--revision", "v1", "--local-dir", target]
    subprocess.run([BIN / "hf", *words], env=env, check=True, capture_output=True)
    files = [path for path in target.rglob("*") if path.is_file() and ".cache" not in path.parts]
    with ThreadPoolExecutor(FETCHERS) as pool:  # side by side, as the SDK does
        list(pool.map(_sync, files))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
