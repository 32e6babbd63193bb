"""HTTP to the control plane: authorisation, retries, problems, pages. Not for the gateway.

Each write carries one `Idempotency-Key` over all its tries, so a try whose answer was lost is safe to repeat.
A control plane that restarts is waited for, but only once it has answered before: a wrong address fails at once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import httpx

from finmaas_core.errors import FinmaasError, Unavailable
from finmaas_platform.sdk.connection import LOOPBACK
from finmaas_platform.sdk.objects import ApiObject
from finmaas_platform.sdk.problems import rebuild_error

PREFIX = "/api/v1"
PATIENCE_S = 60.0
"""How long a control plane that has answered before is waited for."""
PAGE_SIZE = 100
_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 60.0
_RETRIED_STATUSES = frozenset({502, 503, 504})

T = TypeVar("T", bound=ApiObject)
Body = Callable[[], Iterator[bytes]]
"""Opens a request body anew for each try."""


class Transport:
    """A connection to one control plane."""

    def __init__(
        self, url: str, token: str, http: httpx.Client | None = None, *, patience_s: float = PATIENCE_S
    ) -> None:
        self.url = url
        self._patience_s = patience_s
        self._has_answered = False
        self._owns_http = http is None
        self._http = http or httpx.Client(
            base_url=url,
            timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=_is_remote(url),
        )
        self._headers = {"Authorization": f"Bearer {token}"}

    @property
    def is_given(self) -> bool:
        """Whether another HTTP client was put in place of our own."""
        return not self._owns_http

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return dict(self._headers)

    def close(self) -> None:
        """Closes the connections that this object opened."""
        if self._owns_http:
            self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        """The JSON answer to a GET; parameters that are None are left out."""
        return self.request("GET", path, params=params).json()

    def exists(self, path: str) -> bool:
        """Whether a HEAD finds something."""
        response = self.request("HEAD", path, expected=(404,))
        return response.status_code != httpx.codes.NOT_FOUND

    def write(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        if_match: int | None = None,
        params: Any = None,
        is_long: bool = False,
    ) -> Any:
        """The JSON answer to a POST, PATCH or DELETE; None where there is no content. A long one has no time limit."""
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        options: dict[str, Any] = {"timeout": httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)} if is_long else {}
        response = self.request(method, path, json=body, headers=headers, params=params or {}, **options)
        return response.json() if response.content else None

    def upload(self, method: str, path: str, body: Body, size_bytes: int, *, params: Any = None) -> httpx.Response:
        """Sends a file of `size_bytes`; the body is opened anew for each try. No limit on the server's time to read."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S, write=_READ_TIMEOUT_S)
        return self.request(method, path, body=body, headers=headers, params=params or {}, timeout=timeout)

    def pages(self, cls: type[T], path: str, *, limit: int | None = None, **params: Any) -> Iterator[T]:
        """Every item of a list, page by page; `limit` ends after so many."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(PAGE_SIZE, left)
            page = self.get(path, limit=size, cursor=cursor, **params)
            for item in page["items"]:
                yield cls.model_validate(item)
            left = None if left is None else left - len(page["items"])
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        expected: tuple[int, ...] = (),
        body: Body | None = None,
        **options: Any,
    ) -> httpx.Response:
        """One request, tried again on connection loss; raises the error that the answer tells of."""
        sent = {**self._headers, **(headers or {})}
        if method not in ("GET", "HEAD"):
            sent["Idempotency-Key"] = uuid.uuid4().hex
        known = {key: value for key, value in (params or {}).items() if value is not None}

        def attempt() -> httpx.Response:
            if body is not None:
                options["content"] = body()
            return self._http.request(method, PREFIX + path, params=known, headers=sent, **options)

        response = self._with_retries(attempt)
        if response.is_success or response.status_code in expected:
            return response
        raise rebuild_error(response)

    def stream_text(self, path: str, **params: Any) -> Iterator[bytes]:
        """The body of a GET as it comes. A broken connection ends it with httpx.TransportError: the caller resumes."""
        known = {key: value for key, value in params.items() if value is not None}
        yield from self._stream(path, known, {})

    def stream_bytes(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from an offset on; breaks off as `stream_text` does."""
        yield from self._stream(path, {}, {"Range": f"bytes={offset}-"} if offset else {})

    def _stream(self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[bytes]:
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        sent = {**self._headers, **headers}
        with self._http.stream("GET", PREFIX + path, params=params, headers=sent, timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise rebuild_error(response)
            self._has_answered = True
            yield from response.iter_bytes()

    def _with_retries(self, attempt: Callable[[], httpx.Response]) -> httpx.Response:
        deadline = time.monotonic() + self._patience_s
        delay_s = 0.1
        while True:
            retry_after_s: float | None = None
            try:
                response = attempt()
            except httpx.TransportError as error:
                self._has_answered = self._has_answered or not _never_connected(error)
                if not self._has_answered or time.monotonic() > deadline:
                    raise self.explain(error) from error
            else:
                self._has_answered = True
                retry_after_s = _read_retry_after(response)
                if retry_after_s is None or time.monotonic() > deadline:
                    return response
            time.sleep(retry_after_s or delay_s)  # another process restarts: there is nothing to wait on
            delay_s = min(2.0, delay_s * 2)

    def explain(self, error: httpx.TransportError) -> FinmaasError:
        """What a failed connection means to a user."""
        if _never_connected(error):
            what = f"nothing answers at {self.url}"
        else:
            what = f"the connection to {self.url} broke ({type(error).__name__})"
        return Unavailable(f"{what}; `finmaas status` shows what runs, `finmaas up` starts it", url=self.url)


def _never_connected(error: httpx.TransportError) -> bool:
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _read_retry_after(response: httpx.Response) -> float | None:
    """Seconds after which to try again; None: the answer stands."""
    if response.status_code not in _RETRIED_STATUSES:
        return None
    value = response.headers.get("Retry-After", "")
    return min(5.0, float(value)) if value.isdigit() else None


def _is_remote(url: str) -> bool:
    """Whether a proxy from the environment may be used: never for this machine itself."""
    return httpx.URL(url).host not in LOOPBACK
