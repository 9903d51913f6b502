"""An index of the newest repetitions of requests, to which feedback can refer."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_idempotency_records_latest", "idempotency_records", ["latest"])


def downgrade() -> None:
    op.drop_index("ix_idempotency_records_latest", "idempotency_records")
