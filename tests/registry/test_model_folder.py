from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from finmaas_core.errors import InvalidInput
from finmaas_registry.manifest import FileEntry
from finmaas_registry.model_folder import check_model_files, hash_file, scan_model_folder, tell_kind
from finmaas_registry.store import MemoryStore

Tensors = dict[str, dict[str, Any]]
WEIGHTS: Tensors = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]},
    "scalar": {"dtype": "I64", "shape": [], "data_offsets": [22, 30]},
}


def safetensors(tensors: Tensors, data_bytes: int | None = None) -> bytes:
    """A file in the format of https://github.com/huggingface/safetensors#format."""
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    return struct.pack("<Q", len(header)) + header + bytes(end if data_bytes is None else data_bytes)


def make_folder(tmp_path: Path, **changes: bytes | None) -> Path:
    """A folder with a whole model; `changes` replace files by name (None: leave it out)."""
    files: dict[str, bytes | None] = {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": b"{}",
        "model.safetensors": safetensors(WEIGHTS),
        "README.md": b"# card",
        ".git/config": b"secret",
    }
    for path, content in {**files, **changes}.items():
        if content is not None:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
    return tmp_path


class TestScanModelFolder:
    def test_takes_what_belongs_to_the_model(self, tmp_path: Path) -> None:
        files = scan_model_folder(make_folder(tmp_path))
        assert [file.path for file in files] == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
        assert hash_file(files[0]).size == 6

    def test_takes_shards_with_their_index(self, tmp_path: Path) -> None:
        index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}
        folder = make_folder(
            tmp_path,
            **{
                "model.safetensors": None,
                "one.safetensors": safetensors(WEIGHTS),
                "model.safetensors.index.json": json.dumps(index).encode(),
            },
        )
        assert len(scan_model_folder(folder)) == 5

    def test_a_signature_that_was_pulled_with_it_stays_behind(self, tmp_path: Path) -> None:
        folder = make_folder(tmp_path)
        before = [file.path for file in scan_model_folder(folder)]
        (folder / "model.sig").write_text("{}")
        assert [file.path for file in scan_model_folder(folder)] == before

    def test_more_files_than_a_version_may_have(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("finmaas_registry.model_folder.MAX_FILES", 2)
        with pytest.raises(InvalidInput, match="a version may have 2"):
            scan_model_folder(make_folder(tmp_path))

    def test_takes_an_adapter(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text("{}")
        (tmp_path / "adapter_model.safetensors").write_bytes(safetensors(WEIGHTS))
        assert tell_kind(file.path for file in scan_model_folder(tmp_path)) == "adapter"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"config.json": None}, "no config.json is among the files"),
            ({"tokenizer.json": None}, "no tokenizer is among the files"),
            ({"model.safetensors": None}, "no \\*.safetensors file"),
            ({"config.json": b"{"}, "config.json is broken: it is not JSON"),
            ({"config.json": b'{"auto_map": {"AutoModel": "m.M"}}'}, "`auto_map` makes transformers run Python code"),
            ({"tokenizer_config.json": b'{"auto_map": {}}'}, "tokenizer_config.json is refused: its `auto_map`"),
            ({"pytorch_model.bin": b""}, "pytorch_model.bin is refused: files of this kind are pickles"),
            ({"sub/optimizer.PT": b""}, "sub/optimizer.PT is refused: files of this kind are pickles"),
            ({"modeling.py": b""}, "modeling.py is refused: it is code"),
            ({"tf_model.h5": b""}, "only safetensors weights are served"),
            ({"model.safetensors": b"short"}, "too short to hold a header"),
            ({"model.safetensors": struct.pack("<Q", 10**9) + b"{}"}, "its header would be 1000000000 bytes long"),
            ({"model.safetensors": struct.pack("<Q", 2) + b"[]"}, "its header is not a JSON object"),
            ({"model.safetensors": struct.pack("<Q", 2) + b"xx"}, "its header is not JSON"),
            ({"model.safetensors": safetensors(WEIGHTS, 29)}, "need 30 bytes of data, it has 29"),
            ({"model.safetensors": safetensors(WEIGHTS, 31)}, "need 30 bytes of data, it has 31"),
        ],
        ids=str,
    )
    def test_refuses(self, tmp_path: Path, changes: dict[str, bytes | None], message: str) -> None:
        with pytest.raises(InvalidInput, match=message):
            scan_model_folder(make_folder(tmp_path, **changes))

    @pytest.mark.parametrize(
        ("tensor", "message"),
        [
            ({"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}, "does not have the size that its shape asks for"),
            ({"dtype": "F32", "shape": [-2], "data_offsets": [8, 0]}, "does not have the size"),
            ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "cannot be understood"),
            ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "overlap or leave a gap at byte 0"),
            ({"dtype": "F32", "shape": [1]}, "cannot be understood"),
        ],
    )
    def test_refuses_offsets_that_lie(self, tmp_path: Path, tensor: dict[str, Any], message: str) -> None:
        header = json.dumps({"x": tensor}).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(8)
        with pytest.raises(InvalidInput, match=message):
            scan_model_folder(make_folder(tmp_path, **{"model.safetensors": content}))

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ({"weight_map": {"a": "gone.safetensors"}}, "names the shard gone.safetensors, which is not among"),
            ({"weight_map": {"zz": "model.safetensors"}}, "model.safetensors holds zz, which it does not"),
            ({"weight_map": {"a": "../../etc/passwd"}}, "which is not among"),
            ({}, "it has no `weight_map`"),
        ],
    )
    def test_refuses_an_index_that_lies(self, tmp_path: Path, index: dict[str, Any], message: str) -> None:
        content = json.dumps(index).encode()
        with pytest.raises(InvalidInput, match=message):
            scan_model_folder(make_folder(tmp_path, **{"model.safetensors.index.json": content}))

    def test_names_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="is not a folder"):
            scan_model_folder(tmp_path / "absent")


class TestCheckModelFiles:
    def put(self, folder: Path, store: MemoryStore) -> list[FileEntry]:
        files = []
        for local in scan_model_folder(folder):
            store.put([local.source.read_bytes()])
            files.append(hash_file(local))
        return files

    def test_reads_what_it_needs_from_the_store(self, tmp_path: Path) -> None:
        store = MemoryStore()
        files = self.put(make_folder(tmp_path), store)
        check_model_files("full", files, store.open)

    def test_an_adapters_configuration_is_no_full_model(self, tmp_path: Path) -> None:
        store = MemoryStore()
        files = self.put(make_folder(tmp_path), store)
        with pytest.raises(InvalidInput, match=r"no adapter_config\.json"):
            check_model_files("adapter", files, store.open)
