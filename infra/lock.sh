#!/usr/bin/env bash
# Resolves the lock files anew. Run it after a change of dependencies; commit what it writes.
# The CPU build of torch must be findable: set UV_FIND_LINKS or UV_EXTRA_INDEX_URL if PyPI alone is configured.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
common=(--python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet)

"$uv" pip compile pyproject.toml requirements/cpu.in --extra postgres --extra hsm --group dev \
  --override requirements/overrides.txt "${common[@]}" -o requirements/cpu.txt
# A folder or index with the CPU build must not be seen here: its version sorts above the CUDA build's.
env -u UV_FIND_LINKS -u UV_EXTRA_INDEX_URL \
  "$uv" pip compile pyproject.toml --extra postgres --extra hsm --extra training --extra serving --group dev \
  --python-platform x86_64-manylinux_2_28 "${common[@]}" -o requirements/gpu.txt

# Two parts are installed before the rest: uv itself, and the CPU build of torch, which has an index of its own.
python3 - <<'PY'
import pathlib, re
folder = pathlib.Path("requirements")
blocks = re.split(r"(?m)^(?=[a-z0-9])", (folder / "cpu.txt").read_text())
pick = lambda name: "".join(block for block in blocks if block.startswith(f"{name}=="))
(folder / "bootstrap.txt").write_text(pick("uv"))
(folder / "torch-cpu.txt").write_text(pick("torch"))
(folder / "cpu.txt").write_text("".join(block for block in blocks if not block.startswith("torch==")))
PY
# The SBOM tool runs in an environment of its own: a library it brings slows the start of every Ray process by a second.
"$uv" pip compile requirements/sbom.in --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --quiet -o requirements/sbom.txt
# So do the clients that tests try the gateway with; the lock of the Node client names no host it was found at.
"$uv" pip compile requirements/clients.in --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --quiet -o requirements/clients.txt
(cd tests/clients/node && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent)
# Gateways that the benchmark runs beside ours.
"$uv" pip compile requirements/peers.in --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --quiet -o requirements/peers.txt
# `datasets` is tried together with the transformers of .venv, so its lock holds only what .venv lacks, and fits the rest.
"$uv" pip compile requirements/hub-clients.in -c requirements/cpu.txt -c requirements/torch-cpu.txt "${common[@]}" \
  -o requirements/hub-clients.txt
python3 - <<'PY'
import pathlib, re
folder = pathlib.Path("requirements")
blocks = lambda file: [one for one in re.split(r"(?m)^(?=[a-z0-9])", (folder / file).read_text()) if one.strip()]
name = lambda block: block.split("==")[0]
held = {name(block) for file in ("cpu.txt", "torch-cpu.txt", "bootstrap.txt") for block in blocks(file)}
kept = [block for block in blocks("hub-clients.txt") if name(block) not in held]
(folder / "hub-clients.txt").write_text("".join(kept))
PY
# And the transfer that the registry's benchmark runs beside ours.
"$uv" pip compile requirements/bench.in --python-version 3.11 --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links --quiet -o requirements/bench.txt
