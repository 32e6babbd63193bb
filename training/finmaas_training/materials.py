"""What made a model version, as the machine that made it knows it: a bill of materials for auditors.

Every package of the environment by version, a digest of the list and of our own code, the data and base by digest, the
parameters and seed, and the machine. Names of hosts and users, and paths, stay out.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finmaas_training.control import Artefact, JobInputs

OWN_PACKAGES = ("finmaas_core", "finmaas_registry", "finmaas_training")


def collect_materials(inputs: JobInputs, workers: int, on_gpu: bool) -> dict[str, Any]:
    """The bill of materials of one training run."""
    packages = list_packages()
    return {
        "code": {"finmaas": _own_version(), "digest": digest_code()},
        "packages": packages,
        "packages_digest": digest_of(packages),
        "dataset": _describe(inputs.dataset),
        "base": None if inputs.base is None else _describe(inputs.base),
        "parameters": dict(inputs.spec),
        "seed": inputs.spec.get("seed"),
        "hardware": {"workers": workers, **describe_hardware(on_gpu)},
    }


def list_packages() -> dict[str, str]:
    """Every distribution of the environment, by name."""
    found = {str(one.metadata["Name"]).lower(): one.version for one in distributions() if one.metadata["Name"]}
    return dict(sorted(found.items()))


@cache
def digest_code() -> str:
    """SHA-256 over the Python files of our own packages that ran here, by name and content."""
    digest = hashlib.sha256()
    for package in OWN_PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.origin:
            continue
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def describe_hardware(on_gpu: bool) -> dict[str, Any]:
    """Processor, memory, and GPUs where they were used."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
    }
    if on_gpu:
        import torch

        found["gpus"] = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return found


def digest_of(value: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _describe(artefact: Artefact) -> dict[str, Any]:
    return {name: artefact.about.get(name) for name in ("id", "ref", "digest")}


def _own_version() -> str | None:
    try:
        return version("finmaas")
    except PackageNotFoundError:
        return None
