"""Regions of idempotency records, to which feedback on their requests is limited."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("idempotency_records", sa.Column("regions", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("idempotency_records", "regions")
