"""Checkpoints of a running job: each worker's part is uploaded beside the training, then rank 0 registers the whole.

A checkpoint counts from the moment it is registered, so a death at any moment leaves the one before. While an upload
is still under way (the control plane may be away), the next one is left out rather than piled up.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from finmaas_core.errors import FinmaasError
from finmaas_core.telemetry import get_logger
from finmaas_registry.manifest import FileEntry
from finmaas_registry.materialise import Fetch, materialise
from finmaas_registry.store import Stored
from finmaas_training.blobs import describe_folder, upload_folder
from finmaas_training.control import Checkpoint
from finmaas_training.engine import load_state, save_state

_LOOK_EVERY_S = 0.2  # how often rank 0 looks whether the other workers' parts have arrived


class CheckpointPort(Protocol):
    """Where checkpoints are registered; `JobClient` is it."""

    def register_checkpoint(self, checkpoint: Checkpoint) -> None: ...

    def find_latest_checkpoint(self) -> Checkpoint | None: ...


class BlobPort(Protocol):
    """Where their bytes go; the registry's `RemoteBlobs` is it."""

    def has(self, digest: str) -> bool: ...

    def put(self, path: Path) -> Stored: ...


class Checkpoints:
    """One worker's side of saving and restoring. Methods that end in "together" are collective."""

    def __init__(
        self, port: CheckpointPort, blobs: BlobPort, scratch: Path, before_register: Callable[[], None]
    ) -> None:
        self._port = port
        self._blobs = blobs
        self._scratch = scratch
        # Metric points up to the checkpoint arrive before it: whoever goes on from there will not send them again.
        self._before_register = before_register
        self._rank = dist.get_rank()
        self._upload: threading.Thread | None = None

    def save_together(self, engine: Any, step: int) -> None:
        """Writes the state and starts its upload, unless a worker still uploads the one before."""
        if self._is_anybody_busy(engine.device):
            get_logger().warning("checkpoint.skipped", step=step, reason="the one before is still being uploaded")
            return
        folder = self._scratch / f"step-{step}-rank-{self._rank}"
        save_state(engine, folder, {"step": step})
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, describe_folder(folder))
        checkpoint = Checkpoint(step, tuple(sorted(file for part in parts for file in part)), {"step": step})
        self._upload = threading.Thread(
            target=self._deliver, args=(folder, checkpoint), name="finmaas-checkpoint", daemon=True
        )
        self._upload.start()

    def restore_together(self, engine: Any, fetch: Fetch, leads_node: bool) -> int:
        """Brings back the newest checkpoint of any attempt and returns its step, 0 when there is none."""
        newest: list[Checkpoint | None] = [self._port.find_latest_checkpoint() if self._rank == 0 else None]
        dist.broadcast_object_list(newest, src=0, device=engine.device)
        checkpoint = newest[0]
        if checkpoint is None:
            return 0
        folder = self._scratch / f"restored-{checkpoint.step}"
        if leads_node:
            materialise(checkpoint.files, fetch, folder)
        dist.barrier()
        load_state(engine, folder)
        dist.barrier()
        if leads_node:
            shutil.rmtree(folder)
        return checkpoint.step

    def close(self, patience_s: float) -> None:
        """Waits for an upload under way."""
        if self._upload is not None:
            self._upload.join(patience_s)

    def _is_anybody_busy(self, device: Any) -> bool:
        busy = self._upload is not None and self._upload.is_alive()
        flag = torch.tensor([float(busy)], device=device)
        dist.all_reduce(flag)
        return bool(flag.item())

    def _deliver(self, folder: Path, checkpoint: Checkpoint) -> None:
        try:
            started = time.monotonic()
            upload_folder(self._blobs.put, folder)
            if self._rank == 0:
                self._await_parts(checkpoint.files)
                self._before_register()
                self._port.register_checkpoint(checkpoint)
                seconds = round(time.monotonic() - started, 2)
                get_logger().info("checkpoint.registered", step=checkpoint.step, upload_s=seconds)
        except FinmaasError as error:
            get_logger().warning("checkpoint.lost", step=checkpoint.step, reason=str(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _await_parts(self, files: tuple[FileEntry, ...]) -> None:
        for file in files:
            while not self._blobs.has(file.sha256):
                time.sleep(_LOOK_EVERY_S)
