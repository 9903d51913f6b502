"""Verified files of models, signing keys of people, signatures of approvals, and running services."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SIGNED = (("policy", sa.String(64)), ("verdict", sa.String(16)), ("key", sa.String(64)), ("signature", sa.Text))


def upgrade() -> None:
    op.create_table(
        "model_files",
        sa.Column("artifact", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(400), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, index=True),
    )
    op.create_table(
        "people",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, index=True),
        sa.Column("key", sa.String(64), nullable=False, unique=True),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("added", sa.Float, nullable=False),
        sa.Column("revoked", sa.Float),
    )
    op.create_table(
        "services",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("url", sa.String(400), nullable=False),
        sa.Column("place", sa.String(200), nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("versions", sa.JSON, nullable=False),
        sa.Column("began", sa.Float, nullable=False),
        sa.Column("beat", sa.Float, nullable=False),
        sa.Column("ended", sa.Float, index=True),
    )
    for name, kind in SIGNED:
        op.add_column("approvals", sa.Column(name, kind))


def downgrade() -> None:
    for name, _ in SIGNED:
        op.drop_column("approvals", name)
    for table in ("services", "people", "model_files"):
        op.drop_table(table)
