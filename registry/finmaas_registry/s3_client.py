"""How an S3 server is reached: address, client, and what its faults mean. The blobs themselves: `s3_store.py`."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from finmaas_core.errors import EnvironmentFault, FinmaasError, InvalidInput, StoreFull, Unavailable

T = TypeVar("T")
KNOWN_SHA256 = "known-sha256"
"""A header of a request to `SigningClient` that never leaves: the SHA-256 of its body, in hex."""
CONNECT_S, READ_S = 5.0, 60.0
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
"""How long a request waits before each further try."""
OTHER_BYTES = {"XAmzContentSHA256Mismatch", "BadDigest", "InvalidDigest"}
"""What a server answers to bytes that are not those of the signed SHA-256."""
_MISSING = {"NoSuchKey", "NoSuchVersion", "ResourceNotFound"}
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "EntityTooLarge"}
_PASSING = {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "XMinioServerNotInitialized"}
_PASSING_STATUS = {500, 502, 503, 504}


@dataclass(frozen=True)
class S3Address:
    """Where the bucket is and who we are there; `endpoint` is `https://host:port`."""

    endpoint: str
    bucket: str
    access_key: SecretStr = field(repr=False)
    secret_key: SecretStr = field(repr=False)
    region: str = "us-east-1"
    prefix: str = "blobs/"
    ca_file: Path | None = None


def make_client(address: S3Address) -> Minio:
    """A client of the address; InvalidInput for an endpoint that is no URL. It opens no connection yet."""
    parts = urlsplit(address.endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise InvalidInput(
            f"s3_endpoint is {address.endpoint!r}; give http://host:port or https://host, without a path"
        )
    if address.ca_file is not None and not address.ca_file.is_file():
        raise EnvironmentFault(f"s3_ca_file names {address.ca_file}, which is not there")
    http = urllib3.PoolManager(
        maxsize=32,
        timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
        retries=urllib3.Retry(total=0, redirect=0),  # `patiently` tries again, where a request is safe to repeat
        cert_reqs="CERT_REQUIRED",
        ca_certs=str(address.ca_file) if address.ca_file else certifi.where(),
    )
    return SigningClient(
        parts.netloc,
        access_key=address.access_key.get_secret_value(),
        secret_key=address.secret_key.get_secret_value(),
        secure=parts.scheme == "https",
        region=address.region,
        http_client=http,
    )


class SigningClient(Minio):
    """The SDK's client, but for bodies whose SHA-256 is known: it signs that, and hashes nothing a second time.

    The server compares what it received with the signed SHA-256, also over TLS, where the SDK would send an MD5.
    A body may then be a list of chunks.
    """

    def _build_headers(
        self, host: str, headers: Any = None, body: Any = None, creds: Any = None
    ) -> tuple[dict[str, Any], datetime]:
        known = (headers or {}).pop(KNOWN_SHA256, None)
        built, date = super()._build_headers(host, headers, None if known else body, creds)
        if known:
            built.pop("Content-MD5", None)
            built |= {"Content-Length": str(sum(map(len, body))), "x-amz-content-sha256": known}
            built["x-amz-checksum-sha256"] = b64encode(bytes.fromhex(known)).decode()
        return built, date


def is_missing(error: S3Error) -> bool:
    """Whether an object is not there (the bucket is)."""
    return error.code in _MISSING


def patiently(call: Callable[[], T], sleep: Callable[[float], None] = time.sleep) -> T:
    """Calls until it works; only what passes by itself is tried again, with growing pauses."""
    for pause_s in PAUSES_S:
        try:
            return call()
        except (HTTPError, OSError, ServerError, InvalidResponseError, S3Error, Unavailable) as error:
            if not _passes(error):
                raise
        sleep(pause_s)
    return call()


def _passes(error: Exception) -> bool:
    if isinstance(error, S3Error):
        return error.code in _PASSING
    if isinstance(error, ServerError):
        return error.status_code in _PASSING_STATUS
    if isinstance(error, InvalidResponseError):
        return error._code in _PASSING_STATUS  # noqa: SLF001
    return not isinstance(error, StoreFull)


@contextmanager
def naming_faults(address: S3Address) -> Iterator[None]:
    """Turns what the SDK raises into our errors, with what to do."""
    try:
        yield
    except FinmaasError:
        raise
    except S3Error as error:
        raise _name(address, error) from error
    except (ServerError, InvalidResponseError) as error:
        status: Any = getattr(error, "status_code", getattr(error, "_code", 0))
        if status == 507:
            raise _full(address) from error
        raise Unavailable(f"the S3 store at {address.endpoint} answered {status}; try again later") from error
    except (HTTPError, ConnectionError) as error:
        why = f"the S3 store at {address.endpoint} does not answer ({type(error).__name__})"
        raise Unavailable(f"{why}; is it running, and can this machine reach it?") from error


def _name(address: S3Address, error: S3Error) -> FinmaasError:
    where = f"the S3 store at {address.endpoint}"
    if error.code in _REFUSED:
        return EnvironmentFault(
            f"{where} refuses our key ({error.code}) for the bucket {address.bucket!r}; check FINMAAS_S3_ACCESS_KEY "
            "and FINMAAS_S3_SECRET_KEY, and what that key may do"
        )
    if error.code == "NoSuchBucket":
        return EnvironmentFault(f"{where} has no bucket {address.bucket!r}; make it, or set FINMAAS_S3_BUCKET")
    if error.code in _FULL:
        return _full(address)
    return Unavailable(f"{where} answered {error.code}: {error.message}; try again later")


def _full(address: S3Address) -> StoreFull:
    return StoreFull(
        f"no room is left in the bucket {address.bucket!r} at {address.endpoint}; nothing was stored; free some space "
        "or raise its quota, and send it again"
    )
