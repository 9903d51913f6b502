"""Tensor digests of models, independent of the file layout."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_tensors",
        sa.Column("artifact", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, index=True),
    )


def downgrade() -> None:
    op.drop_table("model_tensors")
