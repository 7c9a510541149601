"""The words of the clusters' leaders, and kept counts of clusters: placing a report reads few leaders instead of all.

The daemon takes in the leaders before it places reports.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    op.add_column("clusters", sa.Column("words_version", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_clusters_words_version", "clusters", ["words_version", "id"])
    op.create_index("ix_clusters_leader", "clusters", ["leader_id"])
    op.create_table(
        "leader_words",
        sa.Column("word", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("cluster_id", sa.Integer(), sa.ForeignKey("clusters.id"), primary_key=True),
    )
    op.create_index("ix_leader_words_cluster", "leader_words", ["cluster_id"])
    op.create_table(
        "cluster_counts",
        sa.Column("category", sa.String(length=64), primary_key=True),
        sa.Column("split", sa.String(length=10), primary_key=True),
        sa.Column("clusters", sa.Integer(), nullable=False),
    )
    op.execute(
        "INSERT INTO cluster_counts (category, split, clusters) SELECT category, split, count(*) FROM clusters "
        "GROUP BY category, split"
    )
    for statement in _postgres() if op.get_bind().dialect.name == "postgresql" else _sqlite():
        op.execute(statement)


COUNT = """
    INSERT INTO cluster_counts (category, split, clusters) VALUES (NEW.category, NEW.split, 1)
    ON CONFLICT (category, split) DO UPDATE SET clusters = cluster_counts.clusters + 1;"""


def _sqlite() -> Iterator[str]:
    yield f"CREATE TRIGGER clusters_counted AFTER INSERT ON clusters BEGIN {COUNT} END"


def _postgres() -> Iterator[str]:
    yield f"""
        CREATE FUNCTION erratad_count_clusters() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN {COUNT} RETURN NULL; END $$"""
    yield """
        CREATE TRIGGER clusters_counted AFTER INSERT ON clusters
        FOR EACH ROW EXECUTE FUNCTION erratad_count_clusters()"""
