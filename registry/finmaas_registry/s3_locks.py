"""Object lock of a bucket: objects that nobody, its owner included, can remove before a day (mode COMPLIANCE)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from minio.commonconfig import COMPLIANCE
from minio.error import S3Error
from minio.retention import Retention

from finmaas_registry.s3_client import patiently

_UNTIL = re.compile(r"<RetainUntilDate>([^<]+)</RetainUntilDate>")
_NO_LOCKS = {"InvalidRequest", "NotImplemented", "InvalidArgument", "MethodNotAllowed"}
_REFUSALS = {"AccessDenied", "ObjectLocked"}
_UNLOCKED = {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "NoSuchRetention", *_NO_LOCKS}


def lock_object(client: Any, bucket: str, key: str, until: datetime) -> bool:
    """Locks an object until then; False where the bucket has no object lock. An end only moves to a later day."""
    try:
        patiently(lambda: client.set_object_retention(bucket, key, Retention(COMPLIANCE, until)))
    except S3Error as error:
        if error.code in _NO_LOCKS:
            return False
        held = find_lock(client, bucket, key) if error.code in _REFUSALS else None
        if held is None or held < until:
            raise
    return True


def find_lock(client: Any, bucket: str, key: str, version: str | None = None) -> datetime | None:
    """Until when an object (or one version of it) is locked; None for one that is not."""
    query = {"retention": ""} | ({} if version is None else {"versionId": version})
    try:
        # The SDK's own parser takes no fractions of seconds, which Ceph writes.
        answer = patiently(lambda: client._execute("GET", bucket, key, query_params=query))  # noqa: SLF001
    except S3Error as error:
        if error.code in _UNLOCKED:
            return None
        raise
    found = _UNTIL.search(answer.data.decode())
    return None if found is None else datetime.fromisoformat(found[1]).astimezone(UTC)


def remove_object(client: Any, bucket: str, key: str) -> datetime | None:
    """Removes every version of an object that is not locked; the latest end of a lock that keeps one."""
    kept: list[datetime] = []
    for one in [*client.list_objects(bucket, key, include_version=True)]:
        if one.object_name != key:
            continue
        try:
            client.remove_object(bucket, key, one.version_id)
        except S3Error as error:
            until = find_lock(client, bucket, key, one.version_id) if error.code in _REFUSALS else None
            if until is None:
                raise
            kept.append(until)
    return max(kept, default=None)
