"""The lineage of artifacts: the runs and inputs that produced an artifact, and the artifacts derived from it.

    graph = upstream_lineage(["ab12..."], ledger)
    graph.distances              # digest -> runs between it and the start
    graph.edges["ab12..."]       # the inputs of the run that produced it

A lineage of any depth is read in two queries, one of them recursive; walking it is linear in its edges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from vita.spine.ledger import Ledger, Run, run_inputs, runs

_BATCH = 500
"""Values per IN clause; databases limit their number."""


@dataclass(frozen=True)
class Edge:
    """An edge of the graph: the run, the input slot, and the artifact at the far end."""

    run: Run
    slot: str
    digest: str


@dataclass(frozen=True)
class Lineage:
    """The artifacts upstream or downstream of `starts`, as a graph without duplicates."""

    starts: tuple[str, ...]
    edges: Mapping[str, Sequence[Edge]]
    """Digest -> its outgoing edges, ordered by the number of their run."""

    @cached_property
    def distances(self) -> dict[str, int]:
        """Digest -> the number of runs between it and the nearest start, nearest first."""
        return {digest: distance for digest, distance, _ in self._visits()}

    def walk(self) -> Iterator[tuple[int, Edge]]:
        """Yield each edge once, nearest first, with the distance of the artifact that it leads to."""
        for digest, distance, _ in self._visits():
            for edge in self.edges.get(digest, ()):
                yield distance + 1, edge

    def spanning_edges(self) -> dict[str, list[tuple[Edge, bool]]]:
        """Digest -> its edges, each with True if it is the first edge that reaches its artifact."""
        first = {digest: edge for digest, _, edge in self._visits() if edge is not None}
        return {
            digest: [(edge, first.get(edge.digest) is edge) for edge in self.edges.get(digest, ())]
            for digest in self.distances
        }

    def _visits(self) -> Iterator[tuple[str, int, Edge | None]]:
        visited = set(self.starts)
        queue: deque[tuple[str, int, Edge | None]] = deque((digest, 0, None) for digest in self.starts)
        while queue:
            digest, distance, edge = queue.popleft()
            yield digest, distance, edge
            for following in self.edges.get(digest, ()):
                if following.digest not in visited:
                    visited.add(following.digest)
                    queue.append((following.digest, distance + 1, following))


def upstream_lineage(digests: Iterable[str], ledger: Ledger) -> Lineage:
    """Return the artifacts that these were produced from; if several runs produced an artifact, the newest counts."""
    starts = tuple(dict.fromkeys(digests))
    line = _starting_at(starts)
    newest, candidate = runs.alias("newest"), runs.alias("other")
    last = sa.select(sa.func.max(candidate.c.id)).where(
        candidate.c.artifact == newest.c.artifact, candidate.c.state == "done"
    )
    is_producer = sa.and_(newest.c.artifact == line.c.digest, newest.c.id == last.scalar_subquery())
    is_input = run_inputs.c.run == newest.c.id
    line = line.union(
        sa.select(run_inputs.c.artifact).select_from(line).join(newest, is_producer).join(run_inputs, is_input)
    )
    is_producer = sa.and_(newest.c.artifact == line.c.digest, newest.c.id == last.scalar_subquery())
    columns = (newest.c.artifact.label("near"), newest.c.id.label("run"), run_inputs.c.slot,
               run_inputs.c.artifact.label("far"))  # fmt: skip
    return _read(
        starts, sa.select(*columns).select_from(line).join(newest, is_producer).join(run_inputs, is_input), ledger
    )


def downstream_lineage(digests: Iterable[str], ledger: Ledger) -> Lineage:
    """Return the artifacts that finished runs derived from these."""
    starts = tuple(dict.fromkeys(digests))
    line = _starting_at(starts)
    is_consumer = sa.and_(runs.c.id == run_inputs.c.run, runs.c.state == "done", runs.c.artifact.is_not(None))
    is_input = run_inputs.c.artifact == line.c.digest
    line = line.union(sa.select(runs.c.artifact).select_from(line).join(run_inputs, is_input).join(runs, is_consumer))
    is_input = run_inputs.c.artifact == line.c.digest
    columns = (run_inputs.c.artifact.label("near"), runs.c.id.label("run"), run_inputs.c.slot,
               runs.c.artifact.label("far"))  # fmt: skip
    return _read(
        starts, sa.select(*columns).select_from(line).join(run_inputs, is_input).join(runs, is_consumer), ledger
    )


def ancestors(digest: str, ledger: Ledger) -> Iterator[tuple[int, Run | None, str, str]]:
    """Yield the edges to the inputs of an artifact, nearest first: (distance, run, slot in that run, digest)."""
    for distance, edge in upstream_lineage([digest], ledger).walk():
        yield distance, edge.run, edge.slot, edge.digest


def descendants(digest: str, ledger: Ledger) -> Iterator[tuple[int, Run | None, str, str]]:
    """Yield the edges to the artifacts derived from one, nearest first: (distance, run, slot of the input, digest)."""
    for distance, edge in downstream_lineage([digest], ledger).walk():
        yield distance, edge.run, edge.slot, edge.digest


def lineage(digests: Iterable[str], ledger: Ledger) -> list[dict[str, Any]]:
    """Return every run upstream of these artifacts, nearest first, without duplicates."""
    graph = upstream_lineage(digests, ledger)
    producers = newest_runs(graph.distances, ledger)
    records: dict[int, dict[str, Any]] = {}
    for digest in graph.distances:
        if (run := producers.get(digest)) and run.id not in records:
            records[run.id] = {"stage": run.stage, "version": run.version, "life": run.life, "step": run.step,
                             "config": run.config, "artifact": digest,
                             "inputs": {edge.slot: edge.digest for edge in graph.edges.get(digest, ())}}  # fmt: skip
    return list(records.values())


def newest_runs(digests: Iterable[str], ledger: Ledger) -> dict[str, Run]:
    """Map each digest to the newest finished run that produced it; digests without a run are left out."""
    producers: dict[str, Run] = {}
    unique_digests = list(dict.fromkeys(digests))
    with ledger.transaction() as database:
        for start in range(0, len(unique_digests), _BATCH):
            condition = runs.c.artifact.in_(unique_digests[start : start + _BATCH])
            query = sa.select(runs).where(condition, runs.c.state == "done").order_by(runs.c.id)
            producers.update({row["artifact"]: Run(**row) for row in database.execute(query).mappings()})
    return producers


# -- helpers


def _starting_at(starts: Sequence[str]) -> sa.CTE:
    """Return the recursive table of digests, with `starts` as its first rows."""
    rows = [sa.select(sa.literal(digest).label("digest")) for digest in starts]
    if not rows:
        first = sa.select(sa.literal("").label("digest")).where(sa.false())
    elif len(rows) == 1:
        first = rows[0]
    else:  # a union cannot be extended to a recursive table; a selection from it can
        first = sa.select(sa.union(*rows).subquery("starts").c.digest)
    return first.cte("line", recursive=True)


def _read(starts: tuple[str, ...], query: sa.Select[*tuple[Any, ...]], ledger: Ledger) -> Lineage:
    with ledger.transaction() as database:
        rows = [tuple(row) for row in database.execute(query)]
        numbers = sorted({row[1] for row in rows})
        runs_by_number: dict[int, Run] = {}
        for start in range(0, len(numbers), _BATCH):
            part = sa.select(runs).where(runs.c.id.in_(numbers[start : start + _BATCH]))
            runs_by_number.update({row["id"]: Run(**row) for row in database.execute(part).mappings()})
    edges: dict[str, list[Edge]] = {}
    for near, number, slot, far in sorted(rows, key=lambda row: (row[1], row[2])):
        edges.setdefault(near, []).append(Edge(runs_by_number[number], slot, far))
    return Lineage(starts, edges)
