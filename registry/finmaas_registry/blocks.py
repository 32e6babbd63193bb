"""How a file is cut into blocks, so that a second version of it sends and stores only what changed.

safetensors     its header, and each tensor; runs of small ones together
Parquet         its pages, whose bounds follow the content where it was written with content-defined chunking
anything else   pieces of MAX_BLOCK_BYTES, which makes a long transfer resumable; smaller files whole

No chunker of our own: the formats know where their parts end. Cutting is a plan only; a file's identity stays the
SHA-256 of the whole, and its recipe (the digests of its blocks, in order) is a matter of storage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from finmaas_core.errors import InvalidInput
from finmaas_core.quantities import check_digest
from finmaas_registry.parquet_pages import find_pages
from finmaas_registry.store import BlobStore

WHOLE_BYTES = 1 << 20
"""Files up to here are one block."""
MAX_BLOCK_BYTES = 64 << 20
SMALL_TENSOR_BYTES = 256 << 10
SMALL_PAGE_BYTES = 32 << 10
MAX_BLOCKS = 200_000

ReadAt = Callable[[int, int], bytes]
"""(offset, limit) → bytes"""


class Span(NamedTuple):
    """A piece of a file."""

    start: int
    size: int


class Block(NamedTuple):
    """A piece of a file by its content."""

    digest: str
    size: int


@dataclass(frozen=True)
class Recipe:
    """How a file is put together from blocks."""

    digest: str
    size: int
    blocks: tuple[Block, ...]

    def from_offset(self, offset: int) -> Iterator[tuple[Block, int]]:
        """The blocks that hold the bytes from an offset on, each with where to begin in it."""
        at = 0
        for block in self.blocks:
            if offset < at + block.size:
                yield block, max(0, offset - at)
            at += block.size


def make_recipe(digest: str, blocks: Iterable[Block]) -> Recipe:
    """Checks the parts of a recipe; InvalidInput."""
    checked = tuple(Block(check_digest(block.digest), block.size) for block in blocks)
    if not 1 <= len(checked) <= MAX_BLOCKS or any(block.size <= 0 for block in checked):
        raise InvalidInput(f"a file is made of 1 to {MAX_BLOCKS:,} blocks that are not empty; cut it into larger ones")
    if any(block.digest == digest for block in checked):
        raise InvalidInput(f"the file {digest} cannot be a block of itself")
    return Recipe(check_digest(digest), sum(block.size for block in checked), checked)


def read_recipe(store: BlobStore, recipe: Recipe, offset: int = 0) -> Iterator[bytes]:
    """The bytes of a file from an offset on. The first block is opened at once, as `open` promises."""
    parts = recipe.from_offset(offset)
    first = next(parts, None)
    opened = iter(()) if first is None else store.open(first[0].digest, first[1])
    return _read_on(store, opened, parts)


def _read_on(store: BlobStore, current: Iterator[bytes], rest: Iterator[tuple[Block, int]]) -> Iterator[bytes]:
    """One block is opened ahead, so that a store that is far away sends it meanwhile."""
    for block, start in rest:
        coming = store.open(block.digest, start)
        yield from current
        current = coming
    yield from current


def plan_blocks(path: str, size: int, read: ReadAt) -> list[Span]:
    """The spans of a file, in order and without a gap; one for a file that stays whole.

    `path` tells the format by its ending. A file that is not what its name says is cut like any other.
    """
    if size <= WHOLE_BYTES:
        return [Span(0, size)]
    cuts: list[int] = []
    if path.endswith(".safetensors"):
        cuts = _cut_safetensors(path, size, read)
    elif path.endswith(".parquet"):
        cuts = _cut_parquet(size, read)
    return _to_spans(cuts, size)


def plan_file(path: Path) -> list[Span]:
    """`plan_blocks` of a file on disk."""
    with path.open("rb") as file:

        def read(offset: int, limit: int) -> bytes:
            file.seek(offset)
            return file.read(limit)

        return plan_blocks(path.name, path.stat().st_size, read)


def _cut_safetensors(path: str, size: int, read: ReadAt) -> list[int]:
    from finmaas_registry.model_folder import read_safetensors_header

    try:
        tensors: dict[str, Any] = read_safetensors_header(path, size, read)
    except InvalidInput:
        return []
    data = 8 + int.from_bytes(read(0, 8), "little")
    bounds = sorted({data} | {data + int(end) for tensor in tensors.values() for end in tensor["data_offsets"]})
    return _join_small(bounds, SMALL_TENSOR_BYTES)


def _cut_parquet(size: int, read: ReadAt) -> list[int]:
    return _join_small(find_pages(size, read), SMALL_PAGE_BYTES)


def _join_small(bounds: Sequence[int], small: int) -> list[int]:
    """Leaves out the bounds inside a run of small pieces; a large piece begins and ends a block of its own."""
    kept: list[int] = []
    for at, bound in enumerate(bounds):
        before = bound - bounds[at - 1] if at else small
        after = bounds[at + 1] - bound if at + 1 < len(bounds) else small
        run = bound - (kept[-1] if kept else 0)
        if before >= small or after >= small or run >= 4 * small:
            kept.append(bound)
    return kept


def _to_spans(cuts: Iterable[int], size: int) -> list[Span]:
    spans: list[Span] = []
    at = 0
    for cut in [*(cut for cut in cuts if 0 < cut < size), size]:
        while at < cut:
            piece = min(MAX_BLOCK_BYTES, cut - at)
            spans.append(Span(at, piece))
            at += piece
    return spans if len(spans) <= MAX_BLOCKS else [Span(s, min(1 << 30, size - s)) for s in range(0, size, 1 << 30)]
