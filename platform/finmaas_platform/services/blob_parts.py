"""Files sent as blocks: which blocks are missing, and putting a file together from those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from finmaas_core.errors import Corrupt, InvalidInput
from finmaas_platform.db.base import read_unit, unit_of_work
from finmaas_platform.db.blobs import BlobRecipeRow
from finmaas_platform.deps import Deps
from finmaas_platform.domain.principals import Caller
from finmaas_platform.services.blob_touches import find_stale, touch
from finmaas_platform.services.blobs import check_may_put, find_in_sight, out_of_sight, record_put
from finmaas_platform.services.kept_blobs import find_recipe
from finmaas_registry.blocks import Block, Recipe, make_recipe, read_recipe
from finmaas_registry.hashing import SideHasher
from finmaas_registry.packs import PACK_BLOBS, SMALL_BYTES, read_pack, write_pack
from finmaas_registry.store import BlobStore, Stored


def find_missing(deps: Deps, caller: Caller, digests: Sequence[str]) -> list[str]:
    """Those that the caller must still send, in the order given; the others are kept for it from now on."""
    check_may_put(caller)
    with read_unit(deps.sessions) as session:
        held = find_in_sight(session, caller, digests)
    keep_asked(deps, held)
    return [digest for digest in dict.fromkeys(digests) if digest not in held]


def keep_asked(deps: Deps, digests: Iterable[str]) -> None:
    """Keeps blobs from garbage collection: whoever was told that they are there will not send them."""
    now = deps.clock.now()
    with read_unit(deps.sessions) as session:
        stale = find_stale(session, now, digests)
    if stale:
        with unit_of_work(deps.sessions) as session:
            touch(session, now, stale)


def put_pack(deps: Deps, caller: Caller, body: bytes) -> int:
    """Stores the blobs of a pack and says how many those are. Raises InvalidInput, Corrupt; then it is not recorded."""
    check_may_put(caller)
    blobs = read_pack(body)
    for blob in blobs:
        if not blob.is_whole:
            raise Corrupt(f"the bytes are not those of {blob.digest}; read the file again and send it")
    deps.store.put_small(blobs)
    with unit_of_work(deps.sessions) as session:
        record_put(session, caller, deps.clock.now(), *(Stored(blob.digest, len(blob.data)) for blob in blobs))
    return len(blobs)


def read_small(deps: Deps, caller: Caller, digests: Sequence[str]) -> Iterator[bytes]:
    """A pack of blobs, in the order given. NotFound for one out of sight, InvalidInput for a large one: at once."""
    if len(digests) > PACK_BLOBS:
        raise InvalidInput(f"{len(digests)} blobs were asked for; a pack holds {PACK_BLOBS}")
    with read_unit(deps.sessions) as session:
        sizes = find_in_sight(session, caller, digests)
    for digest in digests:
        if digest not in sizes:
            raise out_of_sight(digest)
        if sizes[digest] > SMALL_BYTES:
            raise InvalidInput(f"the blob {digest} has {sizes[digest]:,} bytes; get it by itself")
    return write_pack(deps.store.read_small(digests))


def compose(deps: Deps, caller: Caller, digest: str, blocks: Iterable[Block]) -> Stored:
    """Makes a file of blocks that the caller has put. Raises InvalidInput for one it has not, Corrupt for a digest that
    is not that of all the bytes; then there is no such file. Safe to repeat."""
    check_may_put(caller)
    recipe = make_recipe(digest, blocks)
    with read_unit(deps.sessions) as session:
        known = find_recipe(session, digest)
        _check_blocks(recipe, find_in_sight(session, caller, {block.digest for block in recipe.blocks}))
    with unit_of_work(deps.sessions) as session:
        touch(session, deps.clock.now(), [digest, *(block.digest for block in recipe.blocks)])
    if known != recipe:
        _check_bytes(deps.store, recipe)
    stored = Stored(digest, recipe.size)
    with unit_of_work(deps.sessions) as session:
        now = deps.clock.now()
        touch(session, now, [digest, *(block.digest for block in recipe.blocks)])
        if session.get(BlobRecipeRow, digest) is None:
            rows = [list(block) for block in recipe.blocks]
            session.add(BlobRecipeRow(digest=digest, size_bytes=recipe.size, blocks=rows, created_at=now))
        record_put(session, caller, now, stored)
    return stored


def _check_blocks(recipe: Recipe, sizes: dict[str, int]) -> None:
    for block in recipe.blocks:
        if block.digest not in sizes:
            raise InvalidInput(f"the block {block.digest} was not sent: PUT /api/v1/blobs/{block.digest} first")
        if sizes[block.digest] != block.size:
            raise InvalidInput(f"the block {block.digest} has {sizes[block.digest]} bytes, not {block.size}; cut again")


def _check_bytes(store: BlobStore, recipe: Recipe) -> None:
    with SideHasher() as hasher:
        for chunk in read_recipe(store, recipe):
            hasher.update(chunk)
        found = hasher.hexdigest()
    if found != recipe.digest:
        raise Corrupt(f"the blocks make a file with the digest {found}, not {recipe.digest}; cut the file again")
