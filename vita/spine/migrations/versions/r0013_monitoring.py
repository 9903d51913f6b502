"""Monitoring: prompt tokens as a column, replica time for the cost, measured drift, and proposals to operators."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_MONITORED = ("at", "service", "version", "model", "status", "seconds", "ttft", "completion_tokens", "refused",
              "logprob")  # fmt: skip


def upgrade() -> None:
    op.add_column("requests", sa.Column("prompt_tokens", sa.Integer(), nullable=True))
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    value = "(figures ->> 'prompt_tokens')::integer" if is_postgresql else "json_extract(figures, '$.prompt_tokens')"
    op.execute(sa.text(f"update requests set prompt_tokens = {value}"))
    op.drop_index("ix_requests_monitored", "requests")
    op.create_index("ix_requests_monitored", "requests", [*_MONITORED, "prompt_tokens"])
    op.create_table(
        "replica_use",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(sa.Column(name, sa.String(200), nullable=False) for name in ("service", "version", "model")),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("began", "until", "seconds")),
        sa.Column("price", sa.Float(), nullable=True),
    )
    op.create_index("ix_replica_use", "replica_use", ["service", "until"])
    op.create_table(
        "drift_checks",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(sa.Column(name, sa.String(200), nullable=False) for name in ("service", "version", "model", "reference")),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("number", "prompts")),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ("at", "since", "until")),
        *(sa.Column(name, sa.JSON(), nullable=False) for name in ("figures", "state")),
    )
    op.create_index("ix_drift_checks", "drift_checks", ["service", "model", "number"])
    op.create_table(
        "proposals",
        sa.Column("id", sa.Integer(), primary_key=True),
        *(sa.Column(name, sa.String(200), nullable=False) for name in ("service", "version", "model", "action")),
        sa.Column("test", sa.String(1000), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
    )
    op.create_index("ix_proposals", "proposals", ["service", "model"])


def downgrade() -> None:
    op.drop_table("proposals")
    op.drop_table("drift_checks")
    op.drop_table("replica_use")
    op.drop_index("ix_requests_monitored", "requests")
    op.create_index("ix_requests_monitored", "requests", list(_MONITORED))
    op.drop_column("requests", "prompt_tokens")
