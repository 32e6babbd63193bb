"""All row modules in one place, so that `Base.metadata` is whole for migrations and tests."""

from __future__ import annotations

from finmaas_platform.db import (
    access_tokens,
    api_keys,
    archive,
    audit_events,
    blobs,
    datasets,
    drafts,
    endpoints,
    gateway_reports,
    grants,
    idempotency,
    installation,
    job_tokens,
    jobs,
    leases,
    models,
    origins,
    policies,
    principals,
    projects,
    provenance,
    snapshots,
    tenants,
    usage_records,
)
from finmaas_platform.db.base import Base

metadata = Base.metadata
ROW_MODULES = (
    access_tokens,
    api_keys,
    archive,
    audit_events,
    blobs,
    datasets,
    drafts,
    endpoints,
    gateway_reports,
    grants,
    idempotency,
    installation,
    job_tokens,
    jobs,
    leases,
    models,
    origins,
    policies,
    principals,
    projects,
    provenance,
    snapshots,
    tenants,
    usage_records,
)
