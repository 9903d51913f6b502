"""Review tasks, the items to rate, and their ratings."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "review_tasks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("guideline", sa.Text, nullable=False),
        sa.Column("guideline_version", sa.String(64), nullable=False),
        sa.Column("criteria", sa.JSON, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("raters", sa.Integer, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "review_raters",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task", sa.Integer, sa.ForeignKey("review_tasks.id"), nullable=False),
        sa.Column("rater", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("task", "rater"),
    )
    op.create_table(
        "review_items",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task", sa.Integer, sa.ForeignKey("review_tasks.id"), nullable=False, index=True),
        sa.Column("item", sa.String(200), nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("answers", sa.JSON, nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.UniqueConstraint("task", "item"),
    )
    op.create_table(
        "ratings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("item", sa.Integer, sa.ForeignKey("review_items.id"), nullable=False, index=True),
        sa.Column("rater", sa.String(200), nullable=False),
        sa.Column("rater_kind", sa.String(16), nullable=False),
        sa.Column("choice", sa.String(16), nullable=True),
        sa.Column("criteria", sa.JSON, nullable=False),
        sa.Column("rationale", sa.Text, nullable=False),
        sa.Column("shown_order", sa.JSON, nullable=False),
        sa.Column("blind", sa.Boolean, nullable=False),
        sa.Column("guideline_version", sa.String(64), nullable=False),
        sa.Column("sampling_probability", sa.Float, nullable=False),
        sa.Column("milliseconds", sa.Integer),
        sa.Column("supersedes", sa.Integer, sa.ForeignKey("ratings.id")),
        sa.Column("at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    for table in (
        "ratings",
        "review_items",
        "review_raters",
        "review_tasks",
    ):
        op.drop_table(table)
