"""Runs the real clients of tests/clients as programs of their own, each in the environment that holds it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "clients"
CLIENTS_PYTHON = ROOT / "build" / "clients-venv" / "bin" / "python"
NODE_FOLDER = ROOT / "build" / "clients-node"
CLIENT_TIMEOUT_S = 90


def run_script(script: str, url: str, key: str, model: str, *, live: bool = False) -> dict[str, Any]:
    """What a client's script prints as JSON; its own words when it fails. Skips where the client cannot be had."""
    file = SCRIPTS / script
    command = _interpreter(script)
    if script.endswith(".mjs"):  # Node looks for libraries beside the script
        file = Path(shutil.copy(SCRIPTS / "node" / script, NODE_FOLDER / script))
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "ANTHROPIC"))},
        "FINMAAS_URL": url, "FINMAAS_KEY": key, "FINMAAS_MODEL": model, "FINMAAS_LIVE": "1" if live else "",
        "NO_PROXY": "127.0.0.1", "LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1",
    }  # fmt: skip
    done = subprocess.run(
        [*command, str(file)], env=env, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, f"{script}:\n{done.stdout}\n{done.stderr}"
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _interpreter(script: str) -> list[str]:
    if script.endswith(".mjs"):
        node = shutil.which("node")
        if node is None or shutil.which("npm") is None:
            pytest.skip("no Node.js on this machine: OpenAI's Node client is not tried")
        if not (NODE_FOLDER / "node_modules" / "openai").is_dir():
            pytest.skip("the Node client is not installed: run `make clients`")
        return [node, "--no-warnings"]
    if script in ("use_openai.py", "use_anthropic.py"):
        return [sys.executable]
    if not CLIENTS_PYTHON.exists():
        pytest.skip("the client libraries are not installed: run `make clients`")
    return [str(CLIENTS_PYTHON)]
