"""Batches of claims: trees, paths, chains and signatures."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from finmaas_core.errors import Corrupt
from finmaas_platform.domain.provenance import (
    FIRST,
    BatchProof,
    check_proof,
    claim_digest,
    climb,
    merkle_path,
    merkle_root,
    seal_batch,
)

KEY = Ed25519PrivateKey.generate()


def leaf(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def claim(number: int) -> dict[str, object]:
    return {"request_id": f"req_{number}", "content": [{"index": 0, "sha256": leaf(number)}], "mac": "00"}


def proof(count: int, place: int) -> BatchProof:
    leaves = [claim_digest(claim(number)) for number in range(count)]
    batch, signature = seal_batch(KEY, 1, leaves, FIRST, "2026-01-01T00:00:00+00:00")
    return BatchProof(batch, signature, place, merkle_path(leaves, place))


class TestTree:
    def test_is_that_of_rfc_9162(self) -> None:
        """RFC 9162, 2.1.1: MTH({d}) = H(0x00 || d); MTH(D_3) = H(0x01 || MTH(D[0:2]) || MTH(D[2:3]))."""

        def node(left: bytes, right: bytes) -> bytes:
            return hashlib.sha256(b"\1" + left + right).digest()

        a, b, c = (hashlib.sha256(b"\0" + bytes.fromhex(leaf(n))).digest() for n in range(3))
        assert merkle_root([leaf(0)]) == a.hex()
        assert merkle_root([leaf(n) for n in range(3)]) == node(node(a, b), c).hex()

    @settings(max_examples=60)
    @given(st.integers(1, 130), st.data())
    def test_every_path_leads_to_the_root_and_no_other_leaf_does(self, count: int, data: st.DataObject) -> None:
        leaves = [leaf(number) for number in range(count)]
        place = data.draw(st.integers(0, count - 1))
        path = merkle_path(leaves, place)
        root = merkle_root(leaves)
        assert climb(leaves[place], place, count, path) == root
        assert climb(leaf(-1), place, count, path) != root

    @pytest.mark.parametrize(("place", "count"), [(3, 3), (-1, 3), (0, 9), (0, 1)])
    def test_a_path_that_does_not_fit_is_refused(self, place: int, count: int) -> None:
        path = merkle_path([leaf(number) for number in range(3)], 0)
        with pytest.raises(Corrupt):
            climb(leaf(0), place, count, path)


class TestProof:
    @pytest.mark.parametrize(("count", "place"), [(1, 0), (5, 4), (8, 3)])
    def test_holds_for_its_claim(self, count: int, place: int) -> None:
        check_proof(claim(place), proof(count, place), KEY.public_key())

    def test_fails_for_another_claim_batch_or_key(self) -> None:
        good = proof(5, 2)
        cases = [
            (claim(3), good, KEY),
            (claim(2), dataclasses.replace(good, batch=dataclasses.replace(good.batch, sealed_at="1999")), KEY),
            (claim(2), dataclasses.replace(good, signature="zz"), KEY),
            (claim(2), good, Ed25519PrivateKey.generate()),
        ]
        for one, changed, key in cases:
            with pytest.raises(Corrupt):
                check_proof(one, changed, key.public_key())

    def test_the_seal_is_no_part_of_the_claim(self) -> None:
        assert claim_digest({**claim(1), "mac": "ff"}) == claim_digest(claim(1))
