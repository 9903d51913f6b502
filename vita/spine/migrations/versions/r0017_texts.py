"""Text columns without a limit of their length, which only PostgreSQL enforces."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    inspector = sa.inspect(connection)
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            if isinstance(column["type"], sa.String) and column["type"].length is not None:
                op.alter_column(table, column["name"], type_=sa.Text(), existing_nullable=column["nullable"])


def downgrade() -> None:
    """Keep the columns: shorter ones could not hold the present values."""
