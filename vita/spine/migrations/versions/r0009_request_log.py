"""The request log at scale: metrics as columns, indexes for monitoring and feedback, a mark for replaced feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FIGURES = {"seconds": sa.Float, "ttft": sa.Float, "completion_tokens": sa.Integer, "refused": sa.Boolean,
            "logprob": sa.Float}  # fmt: skip
_MONITORED = ("at", "service", "version", "model", "status", *_FIGURES)
_IDENTITY = ("request", "service", "version", "model", "at")


def upgrade() -> None:
    for name, kind in _FIGURES.items():
        op.add_column("requests", sa.Column(name, kind(), nullable=True))
    op.add_column("requests", sa.Column("has_content", sa.Boolean(), nullable=True))
    op.add_column("feedback", sa.Column("replaced", sa.Float(), nullable=True))
    op.execute(sa.text(_fill_figures(op.get_bind().dialect.name)))
    op.execute(sa.text(_mark_replaced(op.get_bind().dialect.name)))
    content = "cast(asked as text) <> '{}' or cast(answered as text) <> '{}'"
    op.execute(sa.text(f"update requests set has_content = ({content})"))
    op.create_index("ix_requests_content", "requests", ["has_content", "at"])
    op.drop_index("ix_requests_at", "requests")
    op.create_index("ix_requests_monitored", "requests", list(_MONITORED))
    op.drop_index("ix_requests_request", "requests")
    op.create_index("ix_requests_identity", "requests", list(_IDENTITY))
    op.create_index("ix_requests_model_id", "requests", ["model", "id"])
    op.drop_index("ix_requests_model", "requests")
    op.create_index("ix_events_event_at", "events", ["event", "at"])


def downgrade() -> None:
    op.drop_index("ix_events_event_at", "events")
    op.create_index("ix_requests_model", "requests", ["model"])
    op.drop_index("ix_requests_model_id", "requests")
    op.drop_index("ix_requests_identity", "requests")
    op.create_index("ix_requests_request", "requests", ["request"])
    op.drop_index("ix_requests_monitored", "requests")
    op.create_index("ix_requests_at", "requests", ["at"])
    op.drop_index("ix_requests_content", "requests")
    op.drop_column("requests", "has_content")
    op.drop_column("feedback", "replaced")
    for name in reversed(_FIGURES):
        op.drop_column("requests", name)


def _fill_figures(dialect: str) -> str:
    """Copy the figures out of the JSON document that older rows keep them in."""
    if dialect == "postgresql":
        types = {"completion_tokens": "integer", "refused": "boolean"}
        values = {name: f"(figures ->> '{name}')::{types.get(name, 'double precision')}" for name in _FIGURES}
    else:
        values = {name: f"json_extract(figures, '$.{name}')" for name in _FIGURES}
    return "update requests set " + ", ".join(f"{name} = {value}" for name, value in values.items())


def _mark_replaced(dialect: str) -> str:
    """Mark what its sender said otherwise later: the same kind of feedback, on the same answers, with the same key."""
    form = "{0}.content ->> 'rejected_request_id'" if dialect == "postgresql" else (
        "json_extract({0}.content, '$.rejected_request_id')"
    )  # fmt: skip
    mine, theirs = (f"coalesce({form.format(table)}, '')" for table in ("feedback", "later"))
    same_answers = f"later.request = feedback.request and {theirs} = {mine}"
    swapped = f"later.kind = 'vote' and later.request = {mine} and {theirs} = feedback.request"
    same_person = "coalesce(later.who, '') = coalesce(feedback.who, '')"
    later = f"later.id > feedback.id and later.kind = feedback.kind and {same_person}"
    where = f"{later} and (({same_answers}) or ({swapped}))"
    return f"update feedback set replaced = (select min(later.at) from feedback as later where {where})"
