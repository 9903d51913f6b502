"""Erasures record whether the id alone identifies the document."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("erasures", sa.Column("by_id", sa.Boolean, nullable=True))


def downgrade() -> None:
    op.drop_column("erasures", "by_id")
