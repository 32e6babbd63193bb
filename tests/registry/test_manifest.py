from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finmaas_core.errors import InvalidInput
from finmaas_registry.manifest import FileEntry, check_path, make_manifest

A = "a" * 64
B = "b" * 64


class TestCheckPath:
    @pytest.mark.parametrize("path", ["config.json", "data/train.parquet", "模型/权重.safetensors", "a..b", ".hidden"])
    def test_takes_plain_relative_paths(self, path: str) -> None:
        assert check_path(path) == path

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/etc/passwd",
            "..",
            "a/../b",
            "./a",
            "a//b",
            "a/",
            "a\\b",
            "C:x",
            "a\nb",
            "a\x00b",
            "a\x85b",
            "x" * 256,
            "a/" * 600 + "b",
            "\ud800",
        ],
    )
    def test_refuses_the_rest(self, path: str) -> None:
        with pytest.raises(InvalidInput):
            check_path(path)

    @given(st.text())
    def test_whatever_passes_stays_below_its_folder(self, path: str) -> None:
        try:
            check_path(path)
        except InvalidInput:
            return
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        path.encode()


class TestMakeManifest:
    def test_the_order_given_does_not_matter(self) -> None:
        files = [FileEntry(f"f{number}", A, number) for number in range(9)]
        shuffled = random.Random(1).sample(files, len(files))
        assert make_manifest(files).digest == make_manifest(shuffled).digest

    def test_the_digest_is_pinned(self) -> None:
        # SHA-256 of {"files":[{"path":"a","sha256":"aaaa…","size":1}]}, by sha256sum(1).
        found = make_manifest([FileEntry("a", A, 1)]).digest
        assert found == "ea4b95e4ce8db46aa790ea8fc7b239fe5be3e9c759c051b587158ab8700424a9"

    @pytest.mark.parametrize(
        "other", [FileEntry("b", A, 1), FileEntry("a", B, 1), FileEntry("a", A, 2)], ids=["path", "digest", "size"]
    )
    def test_every_field_counts(self, other: FileEntry) -> None:
        assert make_manifest([other]).digest != make_manifest([FileEntry("a", A, 1)]).digest

    @pytest.mark.parametrize(
        "files",
        [
            [],
            [FileEntry("a", A, 1), FileEntry("a", B, 2)],
            [FileEntry("a", A, 1), FileEntry("A", B, 2)],
            [FileEntry("a", A, 1), FileEntry("a/b", B, 2)],
            [FileEntry("a", "nonsense", 1)],
            [FileEntry("a", A, -1)],
            [FileEntry("../a", A, 1)],
        ],
        ids=["none", "twice", "case", "file and folder", "digest", "size", "path"],
    )
    def test_refuses(self, files: list[FileEntry]) -> None:
        with pytest.raises(InvalidInput):
            make_manifest(files)

    def test_adds_up_sizes(self) -> None:
        assert make_manifest([FileEntry("a", A, 1), FileEntry("b", B, 2)]).size_bytes == 3
