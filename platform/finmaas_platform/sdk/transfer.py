"""Pushing files as blobs and pulling them back: parallel, resumable, every byte checked.

Push: each file is hashed once, cut into blocks (`finmaas_registry.blocks`), and only blocks that the store lacks are
sent; so whoever was killed runs it again and sends the rest. Pull: a file comes into a `.part` beside its place and is
renamed when its digest is right; a `.part` that is there is taken up where it ends. Small files go in packs, both ways.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

from finmaas_core.errors import Corrupt, EnvironmentFault, InvalidInput
from finmaas_platform.sdk.objects import FileEntry
from finmaas_platform.sdk.transport import Transport
from finmaas_platform.sdk.wire import Wire, make_wire
from finmaas_registry.blocks import Span, plan_file
from finmaas_registry.hashing import SideHasher
from finmaas_registry.model_folder import LocalFile
from finmaas_registry.packs import SMALL_BYTES, Packed, plan_packs, read_pack, write_pack

HASHERS, SENDERS, FETCHERS = 2, 4, 4
READ_BYTES = 1 << 20
GROUP_BLOCKS = 1000
"""Blocks that are asked for in one request."""

OnStage = Callable[[str, int, int], None]
"""Called with the stage (`hash` or `upload`), the bytes done and the bytes in all."""
OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class CutFile:
    """A local file with its digest, and those of its blocks (one for a file that stays whole)."""

    source: Path
    entry: FileEntry
    blocks: tuple[tuple[Span, str], ...]


@dataclass
class Counter:
    """Bytes done, counted by several threads."""

    total: int
    report: OnBytes
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            self.report(self.done, self.total)


def push_files(transport: Transport, files: Sequence[LocalFile], on_progress: OnStage | None = None) -> list[FileEntry]:
    """Makes every file a blob of the store and returns them in order. What the store has is not sent again.

    Raises Corrupt for a file that changes meanwhile, StoreFull, Unavailable; running it again goes on from there.
    """
    total = sum(file.size for file in files)
    tell = on_progress or (lambda _stage, _done, _total: None)
    hashed = Counter(total, lambda done, all_: tell("hash", done, all_))
    sent = Counter(total, lambda done, all_: tell("upload", done, all_))
    push = _Push(transport, sent)
    entries: list[FileEntry] = []
    with ThreadPoolExecutor(HASHERS) as hashers:
        cuts = _ahead(hashers, lambda file: cut_file(file, hashed), files)
        with push.sending():
            for group in _groups(cuts):
                push.send(group)
                entries.extend(cut.entry for cut in group)
    return entries


def join_stages(on_progress: OnBytes | None) -> OnStage | None:
    """Hashing and sending as one measure, half of it each."""
    if on_progress is None:
        return None
    return lambda stage, done, total: on_progress(done if stage == "hash" else total + done, 2 * total)


def cut_file(file: LocalFile, hashed: Counter) -> CutFile:
    """Reads a file once, for its digest and those of its blocks."""
    spans = plan_file(file.source)
    digests: list[str] = []
    with file.source.open("rb", buffering=0) as opened, SideHasher() as whole:
        buffers = [bytearray(READ_BYTES), bytearray(READ_BYTES)]
        for span in spans:
            block = hashlib.sha256()
            left = span.size
            while left:
                view = memoryview(buffers[0])[: min(left, READ_BYTES)]
                count = opened.readinto(view)
                if not count:
                    raise InvalidInput(f"{file.source} became shorter while it was read; push it again")
                whole.update(view[:count])
                if len(spans) > 1:
                    block.update(view[:count])
                left -= count
                hashed.add(count)
                buffers.reverse()
            digests.append(block.hexdigest())
        digest = whole.hexdigest()
    if len(spans) == 1:
        digests = [digest]
    size = sum(span.size for span in spans)
    entry = FileEntry(path=file.path, sha256=digest, size=size)
    return CutFile(file.source, entry, tuple(zip(spans, digests, strict=True)))


class _Push:
    """Sends groups of files while later ones are hashed."""

    def __init__(self, transport: Transport, sent: Counter) -> None:
        self._http = transport
        self._wire = make_wire(transport)
        self._sent = sent
        self._under_way: dict[str, Future[None]] = {}
        self._composing: list[Future[None]] = []
        self._senders = ThreadPoolExecutor(SENDERS)
        self._composers = ThreadPoolExecutor(2)

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Waits for everything at the end; at the first error it lets the rest be."""
        try:
            yield
            for future in [*self._under_way.values(), *self._composing]:
                future.result()
        except BaseException:
            for pool in (self._senders, self._composers):
                pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            self._senders.shutdown()
            self._composers.shutdown()

    def send(self, group: Sequence[CutFile]) -> None:
        """Asks what is missing, and hands it over."""
        asked = [digest for cut in group for digest in (cut.entry.sha256, *(one for _, one in cut.blocks))]
        missing = set(self._ask(asked))
        small: dict[str, CutFile] = {}
        for cut in group:
            if cut.entry.sha256 not in missing:
                self._sent.add(cut.entry.size)
                continue
            if len(cut.blocks) == 1 and cut.entry.size <= SMALL_BYTES:
                if cut.entry.sha256 in small or cut.entry.sha256 in self._under_way:
                    self._sent.add(cut.entry.size)
                else:
                    small[cut.entry.sha256] = cut
                continue
            waited = [self._start(cut, span, digest) for span, digest in cut.blocks if digest in missing]
            self._sent.add(sum(span.size for span, digest in cut.blocks if digest not in missing))
            if len(cut.blocks) > 1:
                self._composing.append(self._composers.submit(self._compose, cut, waited))
        self._start_packs([*small.values()])
        for future in [one for one in self._under_way.values() if one.done()]:
            future.result()  # raises what went wrong, before more is sent

    def _ask(self, digests: Sequence[str]) -> Iterator[str]:
        for start in range(0, len(digests), 10_000):
            body = {"digests": list(digests[start : start + 10_000])}
            yield from self._http.write("POST", "/blobs/missing", body)["missing"]

    def _start(self, cut: CutFile, span: Span, digest: str) -> Future[None]:
        """One sending of each digest, however often it occurs."""
        if digest in self._under_way:
            self._sent.add(span.size)
        else:
            self._under_way[digest] = self._senders.submit(self._put, cut.source, span, digest)
        return self._under_way[digest]

    def _start_packs(self, cuts: Sequence[CutFile]) -> None:
        for numbers in plan_packs([cut.entry.size for cut in cuts]):
            pack = [cuts[number] for number in numbers]
            future = self._senders.submit(self._put_pack, pack)
            self._under_way.update((cut.entry.sha256, future) for cut in pack)

    def _put_pack(self, cuts: Sequence[CutFile]) -> None:
        blobs = [Packed(cut.entry.sha256, cut.source.read_bytes()) for cut in cuts]
        body = b"".join(write_pack(blobs))
        self._http.upload("POST", "/blobs/pack", lambda: iter([body]), len(body))
        self._sent.add(sum(cut.entry.size for cut in cuts))

    def _put(self, source: Path, span: Span, digest: str) -> None:
        self._wire.put(digest, source, span.start, span.size)
        self._sent.add(span.size)

    def _compose(self, cut: CutFile, waited: Sequence[Future[None]]) -> None:
        for future in waited:
            future.result()
        blocks = [{"digest": digest, "size": span.size} for span, digest in cut.blocks]
        self._http.write("POST", f"/blobs/{cut.entry.sha256}/compose", {"blocks": blocks}, is_long=True)


def pull_files(
    transport: Transport, files: Sequence[FileEntry], folder: Path, on_progress: OnBytes | None = None
) -> Path:
    """Makes a folder hold these files and returns it; those that are there, whole, stay. Corrupt for wrong bytes."""
    counter = Counter(sum(file.size for file in files), on_progress or (lambda _done, _total: None))
    wire = make_wire(transport)
    small = [file for file in files if file.size <= SMALL_BYTES]
    packs = [[small[number] for number in numbers] for numbers in plan_packs([file.size for file in small])]
    with ThreadPoolExecutor(FETCHERS) as fetchers:
        large = [file for file in files if file.size > SMALL_BYTES]
        pulls = [fetchers.submit(_pull, wire, file, folder / file.path, counter) for file in large]
        pulls += [fetchers.submit(_pull_pack, transport, pack, folder, counter) for pack in packs]
        try:
            for pull in pulls:
                pull.result()
        except BaseException:
            fetchers.shutdown(wait=False, cancel_futures=True)
            raise
    return folder


def find_damaged(files: Sequence[FileEntry], folder: Path, on_progress: OnBytes | None = None) -> list[str]:
    """The paths of those files that a folder lacks, or holds with other bytes."""
    counter = Counter(sum(file.size for file in files), on_progress or (lambda _done, _total: None))
    with ThreadPoolExecutor(HASHERS) as hashers:
        whole = hashers.map(lambda file: is_whole(folder / file.path, file, counter), files)
        return [file.path for file, good in zip(files, whole, strict=True) if not good]


def is_whole(path: Path, file: FileEntry, counter: Counter) -> bool:
    """Whether a path holds exactly these bytes."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
        counter.add(file.size)
        return False
    with path.open("rb", buffering=0) as opened, _hash_rest(opened, counter) as hasher:
        return hasher.hexdigest() == file.sha256


def _pull(wire: Wire, file: FileEntry, target: Path, counter: Counter) -> None:
    if is_present(target, file):
        counter.add(file.size)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = part_path(target, file)
    try:
        with scratch.open("a+b", buffering=0) as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # another pull of the same file: it goes on where that one ended
            if is_present(target, file):
                counter.add(file.size)
            else:
                _fetch(wire, file, out, counter)
                scratch.replace(target)
    except OSError as error:
        raise EnvironmentFault(f"{target} cannot be written ({error.strerror}); mend that and pull again") from error


def _pull_pack(transport: Transport, files: Sequence[FileEntry], folder: Path, counter: Counter) -> None:
    """Small files, each written beside its place, synced, and renamed."""
    missing = [file for file in files if not is_present(folder / file.path, file)]
    if missing:
        digests = [*dict.fromkeys(file.sha256 for file in missing)]
        body = transport.request("POST", "/blobs/unpack", json={"digests": digests}).content
        data = {blob.digest: blob.data for blob in read_pack(body) if blob.is_whole}
        for file in missing:
            _write_small(folder / file.path, file, data.get(file.sha256))
    counter.add(sum(file.size for file in files))


def _write_small(target: Path, file: FileEntry, data: bytes | None) -> None:
    if data is None:
        raise Corrupt(f"{file.path} came with other bytes than its digest says; fetch it again", path=file.path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{part_path(target, file).name}.{secrets.token_hex(4)}")
        with scratch.open("xb", buffering=0) as out:
            out.write(data)
            os.fsync(out.fileno())
        scratch.replace(target)
    except OSError as error:
        raise EnvironmentFault(f"{target} cannot be written ({error.strerror}); mend that and pull again") from error


def part_path(target: Path, file: FileEntry) -> Path:
    """Where a file is gathered until it is whole."""
    return target.with_name(f".{target.name[:80]}.{file.sha256[:16]}.part")


def is_present(path: Path, file: FileEntry) -> bool:
    """Whether a path holds exactly these bytes; counts nothing."""
    return is_whole(path, file, Counter(0, lambda _done, _total: None))


def _fetch(wire: Wire, file: FileEntry, out: IO[bytes], counter: Counter) -> None:
    """What is missing of a file, checked with what is there, on the disk when it returns."""
    out.seek(0)
    if os.fstat(out.fileno()).st_size > file.size:
        out.truncate(0)
    with _hash_rest(out, counter) as hasher:

        def take(chunk: memoryview) -> None:
            hasher.update(chunk)
            out.write(chunk)
            counter.add(len(chunk))

        if hasher.size < file.size:
            wire.get(file.sha256, hasher.size, take)
        if hasher.hexdigest() != file.sha256:
            out.truncate(0)
            raise Corrupt(f"{file.path} came with other bytes than its digest says; fetch it again", path=file.path)
    os.fsync(out.fileno())


def _hash_rest(file: IO[bytes], counter: Counter) -> SideHasher:
    hasher = SideHasher()
    while chunk := file.read(READ_BYTES):
        hasher.update(chunk)
        counter.add(len(chunk))
    return hasher


def _ahead(
    pool: ThreadPoolExecutor, cut: Callable[[LocalFile], CutFile], files: Iterable[LocalFile]
) -> Iterator[CutFile]:
    """Results in order, a few under way: not all of 100,000 files at once."""
    rest = iter(files)
    coming = [pool.submit(cut, file) for file in islice(rest, 64)]
    while coming:
        yield coming.pop(0).result()
        coming.extend(pool.submit(cut, file) for file in islice(rest, 1))


def _groups(cuts: Iterable[CutFile]) -> Iterator[list[CutFile]]:
    """Files that are asked for together: many small ones, or a large one at once, so that sending begins early."""
    group: list[CutFile] = []
    blocks = size = 0
    for cut in cuts:
        group.append(cut)
        blocks, size = blocks + len(cut.blocks), size + cut.entry.size
        if blocks >= GROUP_BLOCKS or size >= 32 << 20:
            yield group
            group, blocks, size = [], 0, 0
    if group:
        yield group
