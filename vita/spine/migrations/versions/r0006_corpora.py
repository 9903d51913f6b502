"""Inode and ctime of fingerprints; erasures of documents that must not be read again."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fingerprints", sa.Column("inode", sa.BigInteger, nullable=True))
    op.add_column("fingerprints", sa.Column("changed", sa.BigInteger, nullable=True))
    op.create_table(
        "erasures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("document", sa.String(1000), nullable=False),
        sa.Column("source", sa.String(1000), nullable=True),
        sa.Column("contents", sa.JSON, nullable=False),
        sa.Column("who", sa.String(200), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("unaffected", sa.JSON, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("erasures")
    op.drop_column("fingerprints", "changed")
    op.drop_column("fingerprints", "inode")
