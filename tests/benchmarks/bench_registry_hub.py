"""Pulls through the Hub protocol by huggingface_hub, beside pulls by the SDK, of the same version: `hub_pull_ratio`.

Both talk to one control plane in a process of its own, each into an empty folder on the same disk, in turn first. Both
end with every file on the disk: the SDK syncs each, for huggingface_hub, which does not, it is done after it, and
counted. `cold` rounds drop the page cache before each side.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from figures import Figures
from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars

from finmaas_core.home import Home, read_secret
from finmaas_platform.sdk import Client


def measure_hub(figures: Figures, megabytes: int, rounds: int) -> bool:
    """The ratio of the SDK's time to huggingface_hub's: 1 is as fast."""
    from bench_registry import control_plane, make_model, median, pull, run_both, scratch

    disable_progress_bars()
    ratios: dict[str, list[float]] = {"warm": [], "cold": []}
    seconds: list[dict[str, float | str]] = []
    with scratch() as folder, control_plane(folder / "home") as client:
        client.models.import_folder(make_model(folder / "model", megabytes), "m")
        for number in range(rounds):
            for cache in ("warm", "cold"):
                sides = [
                    lambda: pull(client, "m", folder / "sdk"),
                    lambda: hub_pull(client, folder / "home", folder / "hub", folder / "cache"),
                ]
                ours, theirs = run_both(sides, number, cache)
                ratios[cache].append(ours / theirs)
                seconds.append({"cache": cache, "sdk": ours, "huggingface_hub": theirs})
                for used in ("sdk", "hub", "cache"):
                    shutil.rmtree(folder / used, ignore_errors=True)
    how = f"{megabytes} MB in 4 safetensors files; the SDK's seconds over snapshot_download's"
    return figures.add("hub_pull_ratio", median(ratios), at_least=0.8, how=how, rounds=ratios, seconds=seconds)


def hub_pull(client: Client, home: Path, target: Path, cache: Path) -> None:
    """By huggingface_hub, in this process as the SDK is; then every file is brought to the disk."""
    snapshot_download(
        "default/m",
        revision="v1",
        endpoint=client.url,
        token=read_secret(Home(home).admin_token),
        local_dir=target,
        cache_dir=cache,
    )
    for path in target.rglob("*"):
        if path.is_file() and ".cache" not in path.parts:
            with path.open("rb") as file:
                os.fsync(file.fileno())
