"""A model small enough to write out here, and how to register it through the REST API."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from fastapi.testclient import TestClient

Headers = dict[str, str]
URL = "/api/v1/models/default/default/tiny"
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER
FILES = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": WEIGHTS + bytes(8)}
ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS + bytes(8)}


def put(client: TestClient, headers: Headers, files: dict[str, bytes]) -> list[dict[str, Any]]:
    """Puts the blobs and returns the `files` of a version."""
    entries = []
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        assert client.put(f"/api/v1/blobs/{digest}", content=content, headers=headers).status_code == 201
        entries.append({"path": path, "sha256": digest, "size": len(content)})
    return entries


def register(client: TestClient, headers: Headers, files: list[dict[str, Any]], **more: Any) -> Any:
    return client.post(f"{URL}/versions", json={"kind": "full", "files": files, **more}, headers=headers)
