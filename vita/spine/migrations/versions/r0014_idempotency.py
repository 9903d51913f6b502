"""Idempotency records, which the sites of a service share."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_COLUMNS = {"key": 16, "route": 200, "body": 64, "version": 400, "model": 64, "request": 64, "latest": 64, "site": 64}


def upgrade() -> None:
    op.create_table(
        "idempotency_records",
        sa.Column("token", sa.String(64), primary_key=True),
        *(sa.Column(name, sa.String(size), nullable=False) for name, size in _COLUMNS.items()),
        sa.Column("at", sa.Float(), nullable=False),
    )
    op.create_index("ix_idempotency_records_request", "idempotency_records", ["request"])
    op.create_index("ix_idempotency_records_at", "idempotency_records", ["at"])


def downgrade() -> None:
    op.drop_table("idempotency_records")
