"""Usage records on disk until they are delivered. Append only, numbered, in segments of fixed size.

Room for a record is set aside on disk before a request is let in, so a request that runs can always be recorded: a
full disk means that new requests are refused, never an unmetered answer. A record is in the file (and so survives the
death of the process) once `write_out` has returned, without which the outbox hands nothing to a socket; it is on the
disk's surface (and survives the loss of power) after the next group fsync. Only records that are there are delivered,
because a number must never be used twice.

Room that was allocated cannot run out on file systems that write in place (ext4, XFS). On one that copies on write
(Btrfs, ZFS) a full disk shows only when a record is written: its answer stays, and nothing more is let in.

    <folder>/id                        random; goes with the gateway's id, so that a new spool never repeats a number
    <folder>/usage-<first number>.seg  frames: length, CRC-32, number, then the record as JSON; zeros after the last
    <folder>/spare-<n>.seg             allocated, not used yet
    <folder>/refused.jsonl             records that the control plane refuses, each with the reason
"""

from __future__ import annotations

import fcntl
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from finmaas_core.errors import EnvironmentFault, StoreFull
from finmaas_core.telemetry import get_logger
from finmaas_serving.gateway import wire
from finmaas_serving.gateway.schemas import UsageRecord

SEGMENT_BYTES: Final = 1024 * 1024
MAX_FRAME_BYTES: Final = 2048
KEPT_RECORDS: Final = 4096  # 2 MiB or so
_USUAL_FRAME_BYTES: Final = 640
_HEAD: Final = struct.Struct("<IIQ")
_HEAD_BYTES, _pack_head = _HEAD.size, _HEAD.pack
_encode: Final = msgspec.json.Encoder().encode
log = get_logger()


class RecordForm:
    """Records that have nearly everything in common, as JSON: what they share is written once."""

    __slots__ = ("_shared",)

    def __init__(self, shared: dict[str, object]) -> None:
        """`shared`: the fields of UsageRecord that stay the same; the others are given to `fill`, or left out."""
        self._shared = _encode(shared)[:-1]

    def fill(
        self, seq: int, request_id: str, at: float, took_ms: float, prompt: int, cached: int, output: int,
        reasoning: int, cost: int | None, currency: str | None, epoch: int, charges: list[tuple[int, int]], claim: str,
    ) -> bytes:  # fmt: skip
        """One record; times as in UsageRecord, `at` in seconds since the epoch."""
        price = b"" if cost is None else b'"cost_nano":%d,"currency":"%b",' % (cost, (currency or "").encode())
        took_us = int(took_ms * 1000)
        took = b"%d.%b" % (took_us // 1000, wire.padded(took_us % 1000, 1000))
        spent = b"" if not charges else b'"epoch":%d,"charges":%b,' % (epoch, _encode(charges))
        return (
            b'%b,"request_id":"%b","at":"%b","prompt_tokens":%d,"completion_tokens":%d,"cached_tokens":%d,'
            b'"reasoning_tokens":%d,"ttft_ms":%b,"duration_ms":%b,%b%b"claims":[%b],"seq":%d}'
        ) % (
            self._shared, request_id.encode(), tell_time(at), prompt, output, cached, reasoning, took, took,
            price, spent, b'"%b"' % claim.encode() if claim else b"", seq,
        )  # fmt: skip


class _Seconds:
    """The second that was told last, as text."""

    __slots__ = ("second", "text")

    def __init__(self) -> None:
        self.second, self.text = -1, b""


_told: Final = _Seconds()


def tell_time(at: float) -> bytes:
    """Seconds since the epoch as a record has them, in UTC to the microsecond."""
    second = int(at)
    if second != _told.second:
        _told.second, _told.text = second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
    return b"%b.%bZ" % (_told.text, wire.padded(int((at - second) * 1_000_000), 1_000_000))


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    last: int  # first - 1 while empty


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record ends in its segment."""

    path: Path
    number: int
    end: int


@dataclass(frozen=True, slots=True)
class GroupSync:
    """One group fsync: the files it covers, and the newest number they hold."""

    upto: int
    files: set[int]
    closing: list[int]  # rolled segments, to be closed afterwards
    delivered: list[Path]  # segments to be deleted, which takes as long as some requests
    folder: Path | None  # to be synced too, when it has new names

    def run(self) -> None:
        """Does it; OSError when the disk fails."""
        for fd in self.files:
            os.fdatasync(fd)
        if self.folder is not None:
            _sync_folder(self.folder)
        for fd in self.closing:
            os.close(fd)
        for path in self.delivered:
            path.unlink(missing_ok=True)


class Spool:
    """One gateway's records. Belongs to one process at a time (a lock on the folder says so)."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES, kept: int = KEPT_RECORDS) -> None:
        """Opens or makes the spool; EnvironmentFault when another process has it, StoreFull when the disk is full.

        So many records that are not delivered are `kept` in memory too, so that nobody has to read them from the disk.
        """
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._segment_slots = segment_bytes // MAX_FRAME_BYTES  # records of the greatest length in one segment
        self._few = self._segment_slots // 2  # that may be reserved without looking for room
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _lock(folder)
        self.spool_id = _spool_id(folder)
        for left in folder.glob("spare-*.seg"):
            left.unlink()
        self._segments = _find_segments(folder)
        self._next = max((segment.last for segment in self._segments), default=0) + 1
        self._sync_old()
        self.synced = self._next - 1  # the last number that is on the disk's surface
        self.acknowledged = self._segments[0].first - 1 if self._segments else self._next - 1
        self._spares: list[tuple[Path, int]] = []
        self._spare_number = 0
        self._reserved = 0
        self._read_to: _Place | None = None
        self._kept: dict[int, bytes] = {}
        self._most_kept = kept
        self.broken = False  # the disk failed: what was written last may be lost, so nothing more is let in
        self._torn = False  # a record could not be written
        self._in_file = self._next - 1
        self._unsynced: set[int] = set()  # file descriptors
        self._closing: list[int] = []
        self._delivered: list[Path] = []
        self._new_names = False
        self._active = self._offset = -1
        self._unwritten: list[bytes] = []  # frames that end at the offset and are not in the file yet
        try:
            self._add_spare()
            self._roll()
        except OSError as error:
            os.close(self._lock)
            raise StoreFull(f"the usage spool {folder} has no room ({error}); free some and start again") from error

    @property
    def last(self) -> int:
        """The number of the newest record; 0 before the first."""
        return self._next - 1

    @property
    def waiting(self) -> int:
        """Records not yet acknowledged by the control plane."""
        return self.last - self.acknowledged

    def reserve(self) -> bool:
        """Sets room aside for one record; False when the disk has none. Each True wants one `append` or `give_back`."""
        if self._reserved < self._few and self._spares and not (self.broken or self._torn):  # nearly always
            self._reserved += 1
            return True
        if self._torn and not self._mend():
            return False
        free = self._slots() - self._reserved
        if free <= self._few:
            try:
                self._add_spare()
                free = self._slots() - self._reserved
            except OSError as error:
                if free <= 0:
                    log.error("spool.full", folder=str(self._folder), error=str(error))
        if self.broken or free <= 0:
            return False
        self._reserved += 1
        return True

    def give_back(self) -> None:
        """Frees room that was set aside for a request that is not to be recorded."""
        self._reserved -= 1

    def append(self, record: UsageRecord) -> int:
        """Writes a record into the room reserved for it and returns its number; StoreFull when the disk fails."""
        record.seq = self._next
        number = self.append_text(_encode(record))
        if not self.write_out():
            self._unwritten.pop()
            raise StoreFull(f"the usage spool {self._folder} cannot be written")
        return number

    def append_text(self, payload: bytes) -> int:
        """The same for a record that is JSON already, with the number that follows on `last` as its `seq`. It is in the
        file after the next `write_out`, with others of the same turn: one system call for all of them."""
        number = self._next
        length = len(payload)
        size = length + _HEAD_BYTES
        if size > MAX_FRAME_BYTES:
            raise StoreFull(f"a usage record of {size} bytes is longer than a spool frame ({MAX_FRAME_BYTES})")
        self._reserved -= 1
        if self._offset + size > self._segment_bytes:
            try:
                self._roll()
            except OSError as error:
                raise StoreFull(f"the usage spool {self._folder} cannot be written: {error}") from error
        self._offset += size
        self._unwritten.append(_pack_head(length, zlib.crc32(payload), number) + payload)
        self._segments[-1].last = number
        self._next = number + 1
        self._unsynced.add(self._active)
        if len(self._kept) < self._most_kept:
            self._kept[number] = payload
        return number

    def write_out(self) -> bool:
        """Puts into the file what was appended. False when that cannot be, until it was given up.

        Nothing more is let in then before there is a new segment, as nobody would find what stands behind a gap.
        """
        if not self._unwritten:
            return True
        if self._torn or not self._write(b"".join(self._unwritten)):
            self._torn = True
            for number in range(self._in_file + 1, self._next):  # after a restart others may have these numbers
                self._kept.pop(number, None)
            return False
        self._unwritten = []
        self._in_file = self._next - 1
        return True

    def give_up(self) -> None:
        """Forgets what could not be written, once the answers it stands for are cut."""
        self._unwritten = []

    def _write(self, data: bytes) -> bool:
        at = self._offset - len(data)
        try:
            while data:
                done = os.pwrite(self._active, data, at)
                at, data = at + done, data[done:]
        except OSError as error:
            log.error("spool.torn", folder=str(self._folder), error=str(error))
            return False
        return True

    @property
    def dirty(self) -> bool:
        return bool(self._unsynced or self._delivered)

    def start_sync(self) -> GroupSync:
        """What a group fsync has to do now; `run` it (in any thread), then hand it to `finish_sync`."""
        self.write_out()
        folder = self._folder if self._new_names else None
        group = GroupSync(self.last, self._unsynced, self._closing, self._delivered, folder)
        self._unsynced, self._closing, self._delivered, self._new_names = set(), [], [], False
        return group

    def finish_sync(self, group: GroupSync, *, failed: bool = False) -> None:
        """Notes that a group is on the disk's surface. After a failed one nothing more is let in."""
        if failed:
            self.broken = True
        elif not self.broken:
            self.synced = max(self.synced, group.upto)

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` synced records with numbers above `after`, as (number, JSON); none only when there are none."""
        found: list[tuple[int, bytes]] = []
        number = after + 1
        while len(found) < limit and number <= self.synced and (kept := self._kept.get(number)) is not None:
            found.append((number, kept))
            number += 1
        return found or self._read_disk(after, limit)

    def _read_disk(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        for segment in self._segments:
            if segment.last <= after:
                continue
            known = self._read_to
            start, before = 0, segment.first - 1
            if known is not None and known.path == segment.path and known.number <= after:
                start, before = known.end, known.number
            # Where what is wanted begins right there, so many bytes hold at least one record of it.
            most = max(MAX_FRAME_BYTES, limit * _USUAL_FRAME_BYTES) if before == after else -1
            last, end, is_enough = before, start, False
            for number, payload, past in _frames(segment.path, start, most):
                if number > self.synced or len(found) >= limit:
                    is_enough = True
                    break
                last, end = number, past
                if number > after:
                    found.append((number, payload))
            if last > before:
                self._read_to = _Place(segment.path, last, end)
                after = max(after, last)
            if is_enough or before < last < segment.last:
                break
        return found

    def acknowledge(self, through: int) -> None:
        """Forgets records up to a number. The next sync deletes segments that hold no other; the active stays."""
        before, self.acknowledged = self.acknowledged, max(self.acknowledged, min(through, self.last))
        for number in range(before + 1, self.acknowledged + 1):
            self._kept.pop(number, None)
        while len(self._segments) > 1 and self._segments[0].last <= self.acknowledged:
            self._delivered.append(self._segments.pop(0).path)

    def set_aside(self, number: int, payload: bytes, reason: str) -> None:
        """Keeps a record that the control plane refuses in `refused.jsonl`, and lets the later ones go on."""
        line = _encode({"reason": reason, "record": msgspec.Raw(payload)}) + b"\n"
        with (self._folder / "refused.jsonl").open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        log.error("usage.refused", number=number, reason=reason, kept_in=str(self._folder / "refused.jsonl"))
        self.acknowledge(number)

    def close(self) -> None:
        """Syncs and lets go of the folder."""
        group = self.start_sync()
        group.run()
        self.finish_sync(group)
        os.close(self._active)
        for path, fd in self._spares:
            os.close(fd)
            path.unlink(missing_ok=True)
        os.close(self._lock)

    def _slots(self) -> int:
        """Records of the greatest length that fit for certain."""
        return (self._segment_bytes - self._offset) // MAX_FRAME_BYTES + len(self._spares) * self._segment_slots

    def _add_spare(self) -> None:
        self._spare_number += 1
        path = self._folder / f"spare-{self._spare_number}.seg"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._segment_bytes)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._spares.append((path, fd))

    def _mend(self) -> bool:
        """Goes on in a new segment after one that could not be written; False while there is none to be had, and while
        answers wait that are not cut yet."""
        if self._unwritten:
            return False
        try:
            self._roll()
        except OSError:
            return False
        self._torn = False
        return True

    def _roll(self) -> None:
        """Makes a spare segment the active one."""
        if not self._spares:
            self._add_spare()
        self.write_out()
        spare, fd = self._spares.pop(0)
        path = self._folder / f"usage-{self._next:020d}.seg"
        _drop_empty(self._segments, path)
        spare.rename(path)
        if self._active >= 0:
            self._closing.append(self._active)
        self._active, self._offset = fd, 0
        self._segments.append(_Segment(path, self._next, self._next - 1))
        self._new_names = True
        self._unsynced.add(fd)

    def _sync_old(self) -> None:
        for segment in self._segments:
            with segment.path.open("rb+") as file:
                os.fsync(file.fileno())


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise EnvironmentFault(
            f"another gateway uses the spool {folder}; stop it, or give this one its own FINMAAS_GATEWAY_ID"
        ) from None
    return fd


def _spool_id(folder: Path) -> str:
    path = folder / "id"
    if path.exists() and (held := path.read_text(encoding="ascii").strip()):
        return held
    fresh = secrets.token_hex(4)
    scratch = folder / ".id"
    with scratch.open("w", encoding="ascii") as out:
        out.write(fresh)
        out.flush()
        os.fsync(out.fileno())
    scratch.replace(path)
    _sync_folder(folder)
    return fresh


def _find_segments(folder: Path) -> list[_Segment]:
    segments = []
    for path in sorted(folder.glob("usage-*.seg")):
        first = int(path.stem.removeprefix("usage-"))
        last = first - 1
        for number, _, _ in _frames(path):
            last = number
        segments.append(_Segment(path, first, last))
    return segments


def _drop_empty(segments: list[_Segment], path: Path) -> None:
    """An empty segment of the same first number is replaced, not repeated."""
    segments[:] = [segment for segment in segments if segment.path != path]


def _frames(path: Path, start: int = 0, most: int = -1) -> Iterator[tuple[int, bytes, int]]:
    """The whole records in `most` bytes of a segment from a place on (-1: in all), each with where it ends; a torn one
    is where they end."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(most)
    at = 0
    while at + _HEAD.size <= len(data):
        length, crc, number = _HEAD.unpack_from(data, at)
        payload = data[at + _HEAD.size : at + _HEAD.size + length]
        if length == 0 or len(payload) < length or zlib.crc32(payload) != crc:
            return
        at += _HEAD.size + length
        yield number, payload, start + at


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
