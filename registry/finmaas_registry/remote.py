"""Blobs over the control plane's REST API, for nodes, jobs and the SDK. Every call rides out a short absence of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import httpx

from finmaas_core.errors import FinmaasError, NotFound, Unavailable, all_error_classes
from finmaas_core.quantities import check_digest
from finmaas_registry.store import Stored, read_chunks

PATIENCE_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
_PASSING = {502, 503, 504}
_ERRORS = {cls.code: cls for cls in all_error_classes()}
T = TypeVar("T")


class RemoteBlobs:
    """The blobs that a token may see. `patience_s` bounds how long one call is tried again."""

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        patience_s: float = PATIENCE_S,
        http: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = http or httpx.Client(base_url=base_url, timeout=httpx.Timeout(60, connect=5), trust_env=False)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._patience_s = patience_s
        self._sleep = sleep

    def __enter__(self) -> RemoteBlobs:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def has(self, digest: str) -> bool:
        """Whether the blob is in the token's sight."""

        def ask() -> bool:
            response = self._http.head(_url(digest), headers=self._headers)
            if response.status_code == httpx.codes.NOT_FOUND:
                return False
            _check(response)
            return True

        return self._patiently(ask)

    def put(self, path: Path) -> Stored:
        """Sends a file unless it is there already."""
        with path.open("rb") as file:
            sha256 = hashlib.sha256()
            for chunk in read_chunks(file):
                sha256.update(chunk)
            stored = Stored(sha256.hexdigest(), file.tell())
            if not self.has(stored.digest):
                self._patiently(lambda: self._send(path, stored))
        return stored

    def fetch(self, digest: str) -> Iterator[bytes]:
        """The bytes of a blob; a connection that breaks is taken up again where it broke. Raises NotFound."""
        done = 0
        deadline = _Deadline(self._patience_s)
        while True:
            try:
                for chunk in self._stream(digest, done):
                    done += len(chunk)
                    deadline = _Deadline(self._patience_s)
                    yield chunk
                return
            except (httpx.TransportError, Unavailable) as error:
                self._pause_or_raise(deadline, error)

    def _stream(self, digest: str, offset: int) -> Iterator[bytes]:
        headers = {**self._headers, "Range": f"bytes={offset}-"} if offset else self._headers
        with self._http.stream("GET", _url(digest), headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return  # it broke after the last byte
            if response.is_error:
                response.read()
            _check(response)
            if offset and response.status_code != httpx.codes.PARTIAL_CONTENT:
                raise FinmaasError(f"{_url(digest)} was asked from byte {offset} on and sent all of it; cannot go on")
            # As they arrive: with a chunk size, httpx would hold bytes back and lose them when the stream breaks.
            yield from response.iter_bytes()

    def _send(self, path: Path, stored: Stored) -> None:
        with path.open("rb") as file:
            headers = {**self._headers, "Content-Length": str(stored.size), "Content-Type": "application/octet-stream"}
            timeout = httpx.Timeout(None, connect=5, write=60)
            _check(self._http.put(_url(stored.digest), content=read_chunks(file), headers=headers, timeout=timeout))

    def _patiently(self, call: Callable[[], T]) -> T:
        deadline = _Deadline(self._patience_s)
        while True:
            try:
                return call()
            except (httpx.TransportError, Unavailable) as error:
                self._pause_or_raise(deadline, error)

    def _pause_or_raise(self, deadline: _Deadline, error: Exception) -> None:
        if isinstance(error, FinmaasError) and type(error) is not Unavailable:
            raise error  # a full store does not pass by itself
        pause = deadline.next_pause()
        if pause is None:
            if isinstance(error, FinmaasError):
                raise error
            raise Unavailable(f"the control plane does not answer ({error!r}); is it running?") from error
        self._sleep(pause)


class _Deadline:
    """Growing pauses until the patience is used up."""

    def __init__(self, patience_s: float) -> None:
        self._left_s = patience_s
        self._pause_s = FIRST_PAUSE_S

    def next_pause(self) -> float | None:
        pause = self._pause_s
        if pause > self._left_s:
            return None
        self._left_s -= pause
        self._pause_s = min(2 * pause, LONGEST_PAUSE_S)
        return pause


def _url(digest: str) -> str:
    return f"/api/v1/blobs/{check_digest(digest)}"


def _check(response: httpx.Response) -> None:
    """Raises the error that an answer tells of."""
    if response.is_success:
        return
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    code, detail = str(problem.get("code", "")), str(problem.get("detail") or response.reason_phrase)
    said = f"{response.request.method} {response.request.url.path} answered {response.status_code}: {detail}"
    if response.status_code in _PASSING:
        raise Unavailable(said)
    if response.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(said)
    raise _ERRORS.get(code, FinmaasError)(said)
