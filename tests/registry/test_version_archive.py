"""Archives of versions: what is written is read again, and nothing else is."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finmaas_core.errors import Corrupt, FinmaasError, InvalidInput
from finmaas_registry.manifest import FileEntry, make_manifest
from finmaas_registry.version_archive import DOCUMENT, FORMAT, VersionArchive, distinct, read_archive, write_archive

CONTENT = {"a.json": b"{}", "b/c.bin": b"x" * 1000, "b/same.bin": b"x" * 1000, "empty": b""}
BLOBS = {hashlib.sha256(content).hexdigest(): content for content in CONTENT.values()}
FILES = [FileEntry(path, hashlib.sha256(content).hexdigest(), len(content)) for path, content in CONTENT.items()]
MANIFEST = make_manifest(FILES)
DOCUMENT_OF = {"kind": "model", "digest": MANIFEST.digest, "files": [file.as_json() for file in MANIFEST.files]}


def fetch(file: FileEntry) -> Iterator[bytes]:
    content = BLOBS[file.sha256]
    return iter([content[:7], content[7:]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    out = tmp_path / "version.tar"
    with out.open("wb") as file:
        write_archive(file, DOCUMENT_OF, MANIFEST, fetch)
    return out


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo | str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def document(**changes: Any) -> bytes:
    return json.dumps({**DOCUMENT_OF, "format": FORMAT, **changes}).encode()


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def is_damaged(archive: VersionArchive, file: FileEntry) -> bool:
    try:
        archive.check_blob(file)
    except Corrupt:
        return True
    return False


class TestRoundTrip:
    def test_every_byte_comes_back_once(self, path: Path) -> None:
        archive = read_archive(path)
        assert (archive.kind, archive.manifest) == ("model", MANIFEST)
        assert {file.path: b"".join(archive.open_blob(file)) for file in archive.manifest.files} == CONTENT
        for file in archive.manifest.files:
            archive.check_blob(file)
        assert path.stat().st_size < 2 * 1000 + 9 * 512 + 1024, "equal bytes are written once"

    def test_any_tar_can_open_it(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            assert tar.getnames() == [DOCUMENT, *(f"blobs/{file.sha256}" for file in distinct(MANIFEST))]

    def test_progress_ends_at_the_total(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []
        with (tmp_path / "x").open("wb") as out:
            write_archive(out, DOCUMENT_OF, MANIFEST, fetch, lambda done, total: seen.append((done, total)))
        assert seen[-1] == (1002, 1002)

    @pytest.mark.parametrize("wrong", [b"", b"x" * 999, b"y" * 1000, b"x" * 1001])
    def test_other_bytes_are_not_written_as_if_they_were_right(self, tmp_path: Path, wrong: bytes) -> None:
        with (tmp_path / "x").open("wb") as out, pytest.raises(Corrupt, match="export it again"):
            write_archive(out, DOCUMENT_OF, MANIFEST, lambda file: iter([wrong]))


class TestDamage:
    def test_a_changed_byte_is_found(self, path: Path) -> None:
        whole = bytearray(path.read_bytes())
        whole[whole.rindex(b"x")] ^= 1
        path.write_bytes(whole)
        archive = read_archive(path)
        assert [file.path for file in distinct(archive.manifest) if is_damaged(archive, file)] == ["b/c.bin"]

    def test_one_that_was_cut_off_anywhere_is_refused(self, path: Path) -> None:
        whole = path.read_bytes()
        for length in [*range(0, len(whole) - 1, 97), len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(FinmaasError):
                read_archive(path)

    def test_one_that_goes_on_is_refused(self, path: Path) -> None:
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(InvalidInput, match="goes on after its last file"):
            read_archive(path)


class TestTricks:
    BLOBS = [(f"blobs/{file.sha256}", BLOBS[file.sha256]) for file in distinct(MANIFEST)]  # noqa: RUF012

    @pytest.mark.parametrize(
        ("extra", "said"),
        [
            (("../evil", b"x"), "evil"),
            (("/etc/cron.d/evil", b"x"), "evil"),
            ((link("blobs", "/etc", tarfile.SYMTYPE), b""), "of type"),
            ((link("blobs/x", DOCUMENT, tarfile.LNKTYPE), b""), "of type"),
            ((link("dev", "", tarfile.CHRTYPE), b""), "of type"),
            ((link("fifo", "", tarfile.FIFOTYPE), b""), "of type"),
            ((link("folder", "", tarfile.DIRTYPE), b""), "of type"),
            ((DOCUMENT, b"{}"), DOCUMENT),
        ],
    )
    def test_nothing_but_the_files_of_the_document_may_be_in_it(
        self, tmp_path: Path, extra: tuple[Any, bytes], said: str
    ) -> None:
        path = make_tar(tmp_path / "x.tar", [(DOCUMENT, document()), extra, *self.BLOBS])
        with pytest.raises(InvalidInput, match=said):
            read_archive(path)

    @pytest.mark.parametrize(
        "files",
        [
            [{"path": "../x", "sha256": "0" * 64, "size": 1}],
            [{"path": "/x", "sha256": "0" * 64, "size": 1}],
            [{"path": "x", "sha256": "../../x", "size": 1}],
            [{"path": "x", "sha256": "0" * 64, "size": -1}],
            [{"path": "x", "sha256": "0" * 64}],
            [
                {"path": "caf\u00e9", "sha256": "0" * 64, "size": 1},
                {"path": "cafe\u0301", "sha256": "1" * 64, "size": 1},
            ],
            [],
            "files",
        ],
    )
    def test_the_document_lists_plain_files(self, tmp_path: Path, files: Any) -> None:
        path = make_tar(tmp_path / "x.tar", [(DOCUMENT, document(files=files)), *self.BLOBS])
        with pytest.raises(InvalidInput):
            read_archive(path)

    def test_files_that_are_not_those_of_the_digest(self, tmp_path: Path) -> None:
        path = make_tar(tmp_path / "x.tar", [(DOCUMENT, document(digest="0" * 64)), *self.BLOBS])
        with pytest.raises(Corrupt, match="other files than its digest"):
            read_archive(path)

    @pytest.mark.parametrize("changes", [{"format": "finmaas-version/9"}, {"kind": "virus"}])
    def test_another_format(self, tmp_path: Path, changes: dict[str, str]) -> None:
        with pytest.raises(InvalidInput, match="another format"):
            read_archive(make_tar(tmp_path / "x.tar", [(DOCUMENT, document(**changes))]))

    @pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
    def test_compressed_ones_are_not_unpacked(self, tmp_path: Path, mode: str) -> None:
        path = make_tar(tmp_path / "x.tar", [(DOCUMENT, bytes(1 << 20))], mode)
        with pytest.raises(InvalidInput, match="is compressed"):
            read_archive(path)

    def test_zip_bombs_and_other_files(self, tmp_path: Path) -> None:
        for content in (b"PK\x03\x04" + bytes(600), gzip.compress(bytes(1 << 20)), b"", b"x" * 2000, bytes(2048)):
            (tmp_path / "x").write_bytes(content)
            with pytest.raises(InvalidInput):
                read_archive(tmp_path / "x")

    @pytest.mark.parametrize("size", [1 << 40, 1 << 62])
    def test_a_size_beyond_the_file_is_refused_before_a_byte_is_read(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "x.tar"
        for name in (DOCUMENT, None):
            with path.open("wb") as out:
                if name is None:
                    huge = [{"path": "x", "sha256": "0" * 64, "size": size}]
                    files = make_manifest([FileEntry("x", "0" * 64, size)])
                    body = document(files=huge, digest=files.digest)
                    head = tarfile.TarInfo(DOCUMENT)
                    head.size = len(body)
                    out.write(head.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % 512))
                member = tarfile.TarInfo(name or f"blobs/{'0' * 64}")
                member.size = size
                out.write(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
            with pytest.raises(InvalidInput, match="which cannot be"):
                read_archive(path)
