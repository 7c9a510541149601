"""The reports that wait for evidence; mistakes that an evaluation has measured are reproduced."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"

WITHOUT_EVIDENCE = "evidence_at IS NULL AND state NOT IN ('resolved', 'duplicate', 'quarantined', 'buried', 'erased')"


def upgrade() -> None:
    op.execute(
        "UPDATE reports SET evidence = 'reproduced', evidence_at = updated_at, "
        "evidence_detail = 'an evaluation measured the mistake' "
        "WHERE evidence = 'claimed' AND state IN ('resolved', 'recurring')"
    )
    op.create_index(
        "ix_reports_without_evidence",
        "reports",
        ["principal", "received_at", "id"],
        sqlite_where=sa.text(WITHOUT_EVIDENCE),
        postgresql_where=sa.text(WITHOUT_EVIDENCE),
    )
    op.create_index("ix_reports_evidence", "reports", ["evidence", "state"])
