"""Heads that come again: compared, never parsed twice, and only when they are the same."""

from __future__ import annotations

import pytest

from finmaas_serving.gateway.heads import KnownHead, learn_head, split_chunks

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\nauthorization: Bearer k\r\n\r\n"


def known() -> KnownHead[str]:
    found = learn_head(HEAD % 2 + b"{}", "meaning")
    assert found is not None
    return found


class TestKnownHead:
    def test_lengths_of_any_number_of_digits_by_turns(self) -> None:
        head = known()
        for size in (2, 10, 3, 2, 100, 12, 999, 1000, 2):
            for _ in range(2):  # the second time it is known
                assert head.body_of(HEAD % size + b"x" * size) == b"x" * size
                assert head.body_of(HEAD % size + b"x" * (size + 1)) is None
                assert head.body_of(HEAD % size + b"x" * (size - 1)) is None

    def test_many_lengths(self) -> None:
        head = known()
        assert all(head.body_of(HEAD % size + b"x" * size) is not None for size in range(1000))

    @pytest.mark.parametrize("body", [b"", b"{}", b"x" * 1000, b"\r\n\r\n"])
    def test_gives_the_body_whatever_its_length(self, body: bytes) -> None:
        assert known().body_of(HEAD % len(body) + body) == body

    @pytest.mark.parametrize(
        "data",
        [
            HEAD % 3 + b"{}",  # not all of it yet
            HEAD % 2 + b"{}G",  # the beginning of the next request
            (HEAD % 2 + b"{}").replace(b"Bearer k", b"Bearer l"),
            (HEAD % 2 + b"{}").replace(b"host", b"Host"),
            (HEAD % 2 + b"{}").replace(b": 2", b": +2"),
            (HEAD % 2 + b"{}").replace(b": 2", b": 2 "),
            (HEAD % 2 + b"{}").replace(b": 2", b": 2, 2"),
            (HEAD % 2 + b"{}").replace(b": 2", b": "),
            (HEAD % 2 + b"{}").replace(b": 2", b": 0000000002"),
            (HEAD % 2 + b"{}").replace(b": 2", b": \xb2"),
            (HEAD % 2 + b"{}").replace(b"\r\n\r\n", b"\r\ntransfer-encoding: chunked\r\n\r\n"),
            b"",
        ],
    )
    def test_leaves_everything_else_to_the_parser(self, data: bytes) -> None:
        assert known().body_of(data) is None

    @pytest.mark.parametrize(
        "data",
        [
            b"POST / HTTP/1.1\r\nhost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
            HEAD % 3 + b"{}",
            b"POST / HTTP/1.1\r\nx: " + b"y" * 5000 + b"\r\ncontent-length: 2\r\n\r\n{}",
        ],
    )
    def test_learns_no_head_that_it_could_not_compare(self, data: bytes) -> None:
        assert learn_head(data, "meaning") is None


class TestSplitChunks:
    def test_gives_what_whole_chunks_hold(self) -> None:
        assert split_chunks(b"5\r\nhello\r\n1A\r\n" + b"x" * 26 + b"\r\n") == [b"hello", b"x" * 26]

    @pytest.mark.parametrize(
        "data",
        [b"5\r\nhell", b"5\r\nhello", b"5\r\nhelloXX", b"0\r\n\r\n", b"5;a=b\r\nhello\r\n", b"0x5\r\nhello\r\n",
         b"+5\r\nhello\r\n", b" 5\r\nhello\r\n", b"5\nhello\r\n", b"fffffffff\r\n", b"5\r\nhello\r\n0\r\n\r\n"],
    )  # fmt: skip
    def test_leaves_everything_else_to_the_parser(self, data: bytes) -> None:
        assert split_chunks(data) is None
