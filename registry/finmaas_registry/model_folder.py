"""What may be a model: checks the files of a Hugging Face folder before they become a version.

Only data passes. Pickles, Python files and `auto_map` would run code on the machine that loads them, so they are
refused with the reason. Weights are checked by their header alone: no tensor library is needed here, and a broken
file is found before a GPU waits for it. Whether the architecture can be served is not decided here.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from finmaas_core.errors import InvalidInput
from finmaas_registry.manifest import MAX_FILES, SIGNATURE_FILE, FileEntry, check_path
from finmaas_registry.store import read_chunks

MAX_HEADER_BYTES = 100 * 1024 * 1024  # as the safetensors library has it
MAX_CONFIG_BYTES = 64 * 1024 * 1024

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_CODE = {".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".jar", ".whl", ".zip"}
_OTHER_WEIGHTS = {".h5", ".msgpack", ".ot", ".onnx"}
_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"}, {"vocab.txt"}, {"spiece.model"})
_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6,
    "F4": 4,
}  # fmt: skip

OpenBlob = Callable[[str], Iterator[bytes]]
_ReadStart = Callable[[str, int, int], bytes]
"""(path, offset, at most so many bytes) → bytes"""


@dataclass(frozen=True)
class LocalFile:
    """A file to import: its path inside the version, and where it lies now."""

    path: str
    source: Path
    size: int


def scan_model_folder(folder: Path) -> list[LocalFile]:
    """The files of a model folder, checked. Hidden files and folders (.git, .cache) stay behind, and a signature.

    Raises InvalidInput: no folder, no model in it, or what `check_model_files` refuses.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is not a folder; give one with a config.json and *.safetensors files")
    files = [
        LocalFile(source.relative_to(folder).as_posix(), source, source.stat().st_size)
        for source in sorted(folder.rglob("*"))
        if source.is_file()
        and source != folder / SIGNATURE_FILE  # `model pull` puts it beside the files; it belongs to a version already
        and not any(part.startswith(".") for part in source.relative_to(folder).parts)
    ]
    if len(files) > MAX_FILES:
        raise InvalidInput(f"{folder} holds {len(files):,} files; a version may have {MAX_FILES:,}: pack some together")
    sources = {file.path: file.source for file in files}

    def read(path: str, offset: int, limit: int) -> bytes:
        with sources[path].open("rb") as opened:
            opened.seek(offset)
            return opened.read(limit)

    sizes = {file.path: file.size for file in files}
    _check(tell_kind(sizes), sizes, read)
    return files


def hash_file(file: LocalFile) -> FileEntry:
    """The manifest entry of a local file."""
    sha256 = hashlib.sha256()
    with file.source.open("rb") as opened:
        for chunk in read_chunks(opened):
            sha256.update(chunk)
    return FileEntry(file.path, sha256.hexdigest(), file.size)


def tell_kind(paths: Iterable[str]) -> str:
    """`adapter` for files with an adapter's configuration and no model's own, else `full`."""
    names = set(paths)
    return "adapter" if "adapter_config.json" in names and "config.json" not in names else "full"


def check_model_files(kind: str, files: Iterable[FileEntry], open_blob: OpenBlob) -> None:
    """Raises InvalidInput unless the files make a model of this kind; `open_blob` gives a digest's bytes."""
    by_path = {file.path: file for file in files}

    def read(path: str, offset: int, limit: int) -> bytes:
        return _take(open_blob(by_path[path].sha256), offset, limit)

    _check(kind, {path: file.size for path, file in by_path.items()}, read)


def check_one_file(file: FileEntry, open_blob: OpenBlob) -> None:
    """Raises InvalidInput for a file that no version may hold, whatever else it has: code, pickles, broken weights."""
    check_path(file.path)
    refuse_by_name(file.path)

    def read(path: str, offset: int, limit: int) -> bytes:
        return _take(open_blob(file.sha256), offset, limit)

    sizes = {file.path: file.size}
    if file.path.endswith(".json") and "/" not in file.path:
        _refuse_auto_map(file.path, _read_json(file.path, sizes, read))
    if file.path.endswith(".safetensors"):
        read_safetensors_header(file.path, file.size, partial(read, file.path))


def refuse_by_name(path: str) -> None:
    """Raises InvalidInput for a path whose ending says that it holds code or pickles."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in _PICKLES:
        raise InvalidInput(
            f"{path} is refused: files of this kind are pickles, which can run code when they are loaded; save the "
            "model as safetensors (model.save_pretrained(folder)) and leave this file out",
            path=path,
        )
    if suffix in _CODE:
        raise InvalidInput(
            f"{path} is refused: it is code, which a model version must not bring along; leave it out, and use an "
            "architecture that transformers and vLLM know by themselves",
            path=path,
        )
    if suffix in _OTHER_WEIGHTS:
        raise InvalidInput(f"{path} is refused: only safetensors weights are served; leave it out", path=path)


def read_safetensors_header(path: str, size: int, read: Callable[[int, int], bytes]) -> dict[str, Any]:
    """The tensors of a safetensors file by name: {dtype, shape, data_offsets}; `read` takes (offset, limit).

    Raises InvalidInput for a header that is broken, or offsets that do not cover the file exactly.
    Format: https://github.com/huggingface/safetensors#format
    """
    start = read(0, 8)
    if len(start) < 8:
        raise _broken(path, "it is too short to hold a header")
    (length,) = struct.unpack("<Q", start)
    if length > MAX_HEADER_BYTES or 8 + length > size:
        raise _broken(path, f"its header would be {length} bytes long, the file has {size}")
    try:
        header = json.loads(read(8, length))
    except ValueError as error:
        raise _broken(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _broken(path, "its header is not a JSON object")
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    _check_offsets(path, tensors, size - 8 - length)
    return tensors


def _check(kind: str, sizes: Mapping[str, int], read: _ReadStart) -> None:
    for path in sizes:
        check_path(path)
        refuse_by_name(path)
    if kind not in ("full", "adapter"):
        raise InvalidInput(f"the kind of a model version is full or adapter, not {kind[:40]!r}")
    config = "config.json" if kind == "full" else "adapter_config.json"
    if config not in sizes:
        raise InvalidInput(f"no {config} is among the files ({_list(sizes)}); give the folder that holds it")
    if kind == "full" and not any(names <= set(sizes) for names in _TOKENIZERS):
        raise InvalidInput("no tokenizer is among the files; save it beside the model (tokenizer.json)")
    for path in sizes:
        if path.endswith(".json") and "/" not in path:
            _refuse_auto_map(path, _read_json(path, sizes, read))
    _check_weights(sizes, read)


def _refuse_auto_map(path: str, content: Any) -> None:
    if isinstance(content, dict) and "auto_map" in content:
        raise InvalidInput(
            f"{path} is refused: its `auto_map` makes transformers run Python code from the folder; use an "
            "architecture that transformers knows by itself, and remove `auto_map`",
            path=path,
        )


def _check_weights(sizes: Mapping[str, int], read: _ReadStart) -> None:
    shards = [path for path in sizes if path.endswith(".safetensors")]
    if not shards:
        raise InvalidInput(f"no *.safetensors file is among the files ({_list(sizes)}); save the model as safetensors")
    tensors: dict[str, dict[str, Any]] = {}
    for path in shards:
        tensors[path] = read_safetensors_header(path, sizes[path], partial(read, path))
    for path in sizes:
        if path.endswith(".safetensors.index.json"):
            _check_index(path, _read_json(path, sizes, read), tensors)


def _check_index(path: str, index: Any, tensors: Mapping[str, Mapping[str, Any]]) -> None:
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise _broken(path, "it has no `weight_map`")
    folder = path.rpartition("/")[0]
    for name, shard in weights.items():
        full = f"{folder}/{shard}" if folder else str(shard)
        if full not in tensors:
            raise InvalidInput(f"{path} names the shard {shard}, which is not among the files; add it", path=full)
        if name not in tensors[full]:
            raise _broken(path, f"it says that {shard} holds {name}, which it does not")


def _check_offsets(path: str, tensors: Mapping[str, Any], data_bytes: int) -> None:
    spans = []
    for name, tensor in tensors.items():
        try:
            begin, end = (int(offset) for offset in tensor["data_offsets"])
            bits = _BITS[tensor["dtype"]] * prod(int(length) for length in tensor["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise _broken(path, f"the entry of {name[:80]} cannot be understood") from error
        if begin < 0 or bits < 0 or (end - begin) * 8 != bits:
            raise _broken(path, f"{name[:80]} does not have the size that its shape asks for")
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise _broken(path, f"its tensors overlap or leave a gap at byte {at}")
        at = end
    if at != data_bytes:
        raise _broken(path, f"its tensors need {at} bytes of data, it has {data_bytes}; was it copied whole?")


def _read_json(path: str, sizes: Mapping[str, int], read: _ReadStart) -> Any:
    if sizes[path] > MAX_CONFIG_BYTES:
        raise _broken(path, f"it is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        return json.loads(read(path, 0, sizes[path]))
    except (ValueError, RecursionError) as error:
        raise _broken(path, "it is not JSON") from error


def _take(chunks: Iterator[bytes], offset: int, limit: int) -> bytes:
    taken = bytearray()
    for chunk in chunks:
        taken += chunk
        if len(taken) >= offset + limit:
            break
    return bytes(taken[offset : offset + limit])


def _broken(path: str, why: str) -> InvalidInput:
    return InvalidInput(f"{path} is broken: {why}; download or save it again", path=path)


def _list(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:8]) + (", …" if len(ordered) > 8 else "") or "none"
