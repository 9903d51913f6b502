"""Erasures of all records of a source or a licence, without the id of a document."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("erasures") as erasures:
        erasures.add_column(sa.Column("licence", sa.String(1000), nullable=True))
        erasures.alter_column("document", existing_type=sa.String(1000), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM erasures WHERE document IS NULL")
    with op.batch_alter_table("erasures") as erasures:
        erasures.alter_column("document", existing_type=sa.String(1000), nullable=False)
        erasures.drop_column("licence")
