"""Withdrawal of erasures, with time, author and reason."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_COLUMNS = {"withdrawn_at": sa.Float, "withdrawn_by": sa.String, "withdrawn_why": sa.String}


def upgrade() -> None:
    for name, kind in _COLUMNS.items():
        op.add_column("erasures", sa.Column(name, kind(), nullable=True))


def downgrade() -> None:
    for name in reversed(_COLUMNS):
        op.drop_column("erasures", name)
