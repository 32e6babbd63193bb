"""What the privacy report of a dataset version found, for the rules of approval."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from finmaas_platform.db.datasets import DatasetReportRow, DatasetVersionRow


def find_privacy_findings(session: Session, version: DatasetVersionRow) -> list[str] | None:
    """The kinds of personal data and secrets that the report found, sorted; None where the version has no report."""
    query = select(DatasetReportRow.report)  # unscoped: of a version that was found in scope
    report = session.scalar(query.where(DatasetReportRow.version_id == version.id))
    if report is None:
        return None
    return sorted({str(finding["rule"]) for finding in report["privacy"]["findings"]})
