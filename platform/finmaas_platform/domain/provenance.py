"""Claims of provenance sealed in batches: a Merkle tree over each batch, its root signed, each batch naming the last.

With a proof and the public key anybody can check, without asking the platform, that a claim was made by it and when its
batch was sealed. Trees are those of RFC 9162 (Certificate Transparency): leaves and nodes are hashed with a prefix of
their own, so neither can stand for the other. Pure: no key is read and nothing is stored here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from finmaas_core.errors import Corrupt

_LEAF, _NODE = b"\0", b"\1"
FIRST = "0" * 64
"""What the first batch names as the one before it."""


@dataclass(frozen=True)
class Batch:
    """What is signed of a batch: digests in hex, `sealed_at` as ISO 8601."""

    number: int
    root: str
    count: int
    previous: str
    sealed_at: str

    @property
    def signed_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """What the next batch names."""
        return hashlib.sha256(self.signed_bytes).hexdigest()


@dataclass(frozen=True)
class BatchProof:
    """That a claim is in a signed batch: its place, the hashes beside its way to the root, the signature in hex."""

    batch: Batch
    signature: str
    place: int
    path: tuple[str, ...]


def claim_digest(claim: Mapping[str, Any]) -> str:
    """The digest of a claim without its `mac`, over its JSON in the order of its names."""
    plain = {name: value for name, value in claim.items() if name != "mac"}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def merkle_root(leaves: Sequence[str]) -> str:
    """The root over digests in hex, in their order; there is at least one."""
    return _root([_leaf(leaf) for leaf in leaves]).hex()


def merkle_path(leaves: Sequence[str], place: int) -> tuple[str, ...]:
    """The hashes beside the way from a leaf to the root, the lowest first."""
    return tuple(part.hex() for part in _path([_leaf(leaf) for leaf in leaves], place))


def climb(leaf: str, place: int, count: int, path: Sequence[str]) -> str:
    """The root that a leaf and its path lead to. Corrupt when the path does not fit the tree."""
    try:
        return _climb(_leaf(leaf), place, count, [bytes.fromhex(part) for part in path]).hex()
    except (ValueError, IndexError) as error:
        raise Corrupt("the proof's path does not fit its tree") from error


def seal_batch(key: Ed25519PrivateKey, number: int, leaves: Sequence[str], previous: str, at: str) -> tuple[Batch, str]:
    """A batch over these claims, and its signature in hex."""
    batch = Batch(number, merkle_root(leaves), len(leaves), previous, at)
    return batch, key.sign(batch.signed_bytes).hex()


def check_proof(claim: Mapping[str, Any], proof: BatchProof, key: Ed25519PublicKey) -> None:
    """Corrupt, saying what does not fit, unless the claim is in the batch and the batch is signed by the key."""
    try:
        key.verify(bytes.fromhex(proof.signature), proof.batch.signed_bytes)
    except (InvalidSignature, ValueError) as error:
        raise Corrupt("the batch is not signed by this key, or was changed") from error
    if climb(claim_digest(claim), proof.place, proof.batch.count, proof.path) != proof.batch.root:
        raise Corrupt("the claim is not in this batch, or was changed")


def _leaf(digest: str) -> bytes:
    return hashlib.sha256(_LEAF + bytes.fromhex(digest)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    at = _split(len(hashes))
    return _node(_root(hashes[:at]), _root(hashes[at:]))


def _path(hashes: Sequence[bytes], place: int) -> list[bytes]:
    if len(hashes) == 1:
        return []
    at = _split(len(hashes))
    if place < at:
        return [*_path(hashes[:at], place), _root(hashes[at:])]
    return [*_path(hashes[at:], place - at), _root(hashes[:at])]


def _climb(leaf: bytes, place: int, count: int, path: list[bytes]) -> bytes:
    if not 0 <= place < count:
        raise ValueError("no such place")
    if count == 1:
        if path:
            raise ValueError("the path is too long")
        return leaf
    at, beside = _split(count), path[-1]
    if place < at:
        return _node(_climb(leaf, place, at, path[:-1]), beside)
    return _node(beside, _climb(leaf, place - at, count - at, path[:-1]))
