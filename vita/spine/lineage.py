"""The lineage of artifacts: which runs made an artifact, out of what, and what was made from it.

    graph = made_from("ab12...", ledger)
    graph.distances              # digest -> runs between it and the start
    graph.edges["ab12..."]       # the inputs of the run that made it

A whole lineage is read in two queries, one recursive, whatever its depth; walking it is linear in its edges.
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
"""Values in one IN clause; databases limit their number."""


@dataclass(frozen=True)
class Edge:
    """One step away from the start: the run, the slot that was filled, and the artifact on the other side."""

    run: Run
    slot: str
    digest: str


@dataclass(frozen=True)
class Lineage:
    """The artifacts on one side of `starts`, as a graph without repeats."""

    starts: tuple[str, ...]
    edges: Mapping[str, Sequence[Edge]]
    """Digest -> the edges that lead away from it, by the number of their run."""

    @cached_property
    def distances(self) -> dict[str, int]:
        """Digest -> the number of runs between it and the nearest start, the nearest first."""
        return {digest: distance for digest, distance, _ in self._visits()}

    def walk(self) -> Iterator[tuple[int, Edge]]:
        """Each edge once, the nearest first, with the distance of the artifact that it leads to."""
        for digest, distance, _ in self._visits():
            for edge in self.edges.get(digest, ()):
                yield distance + 1, edge

    def spanning_edges(self) -> dict[str, list[tuple[Edge, bool]]]:
        """Digest -> its edges, each with whether it is the first, nearest one to its artifact."""
        first = {digest: edge for digest, _, edge in self._visits() if edge is not None}
        return {
            digest: [(edge, first.get(edge.digest) is edge) for edge in self.edges.get(digest, ())]
            for digest in self.distances
        }

    def _visits(self) -> Iterator[tuple[str, int, Edge | None]]:
        seen = set(self.starts)
        queue: deque[tuple[str, int, Edge | None]] = deque((digest, 0, None) for digest in self.starts)
        while queue:
            digest, distance, edge = queue.popleft()
            yield digest, distance, edge
            for following in self.edges.get(digest, ()):
                if following.digest not in seen:
                    seen.add(following.digest)
                    queue.append((following.digest, distance + 1, following))


def made_from(digests: Iterable[str], ledger: Ledger) -> Lineage:
    """The artifacts that these were made from; of several runs that gave the same artifact the newest counts."""
    starts = tuple(dict.fromkeys(digests))
    line = _starting_at(starts)
    newest, other = runs.alias("newest"), runs.alias("other")
    last = sa.select(sa.func.max(other.c.id)).where(other.c.artifact == newest.c.artifact, other.c.state == "done")
    made = sa.and_(newest.c.artifact == line.c.digest, newest.c.id == last.scalar_subquery())
    taken = run_inputs.c.run == newest.c.id
    line = line.union(sa.select(run_inputs.c.artifact).select_from(line).join(newest, made).join(run_inputs, taken))
    made = sa.and_(newest.c.artifact == line.c.digest, newest.c.id == last.scalar_subquery())
    columns = (newest.c.artifact.label("near"), newest.c.id.label("run"), run_inputs.c.slot,
               run_inputs.c.artifact.label("far"))  # fmt: skip
    return _read(starts, sa.select(*columns).select_from(line).join(newest, made).join(run_inputs, taken), ledger)


def made_of_it(digests: Iterable[str], ledger: Ledger) -> Lineage:
    """The artifacts that were made from these, by finished runs."""
    starts = tuple(dict.fromkeys(digests))
    line = _starting_at(starts)
    made = sa.and_(runs.c.id == run_inputs.c.run, runs.c.state == "done", runs.c.artifact.is_not(None))
    taken = run_inputs.c.artifact == line.c.digest
    line = line.union(sa.select(runs.c.artifact).select_from(line).join(run_inputs, taken).join(runs, made))
    taken = run_inputs.c.artifact == line.c.digest
    columns = (run_inputs.c.artifact.label("near"), runs.c.id.label("run"), run_inputs.c.slot,
               runs.c.artifact.label("far"))  # fmt: skip
    return _read(starts, sa.select(*columns).select_from(line).join(run_inputs, taken).join(runs, made), ledger)


def ancestors(digest: str, ledger: Ledger) -> Iterator[tuple[int, Run | None, str, str]]:
    """The edges to what made an artifact, the nearest first: (distance, run, slot in that run, digest)."""
    for distance, edge in made_from([digest], ledger).walk():
        yield distance, edge.run, edge.slot, edge.digest


def descendants(digest: str, ledger: Ledger) -> Iterator[tuple[int, Run | None, str, str]]:
    """The edges to what an artifact made, the nearest first: (distance, run, slot it filled, digest)."""
    for distance, edge in made_of_it([digest], ledger).walk():
        yield distance, edge.run, edge.slot, edge.digest


def lineage(digests: Iterable[str], ledger: Ledger) -> list[dict[str, Any]]:
    """Every run behind these artifacts, the nearest first, each once."""
    graph = made_from(digests, ledger)
    made = newest_runs(graph.distances, ledger)
    found: dict[int, dict[str, Any]] = {}
    for digest in graph.distances:
        if (run := made.get(digest)) and run.id not in found:
            found[run.id] = {"stage": run.stage, "version": run.version, "life": run.life, "step": run.step,
                             "config": run.config, "artifact": digest,
                             "inputs": {edge.slot: edge.digest for edge in graph.edges.get(digest, ())}}  # fmt: skip
    return list(found.values())


def newest_runs(digests: Iterable[str], ledger: Ledger) -> dict[str, Run]:
    """Digest -> the newest finished run that gave it, for those that a run gave."""
    found: dict[str, Run] = {}
    wanted = list(dict.fromkeys(digests))
    with ledger.transaction() as database:
        for start in range(0, len(wanted), _BATCH):
            part = runs.c.artifact.in_(wanted[start : start + _BATCH])
            query = sa.select(runs).where(part, runs.c.state == "done").order_by(runs.c.id)
            found.update({row["artifact"]: Run(**row) for row in database.execute(query).mappings()})
    return found


# -- helpers


def _starting_at(starts: Sequence[str]) -> sa.CTE:
    """The recursive table of digests, with `starts` as its first rows."""
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
        known: dict[int, Run] = {}
        for start in range(0, len(numbers), _BATCH):
            part = sa.select(runs).where(runs.c.id.in_(numbers[start : start + _BATCH]))
            known.update({row["id"]: Run(**row) for row in database.execute(part).mappings()})
    edges: dict[str, list[Edge]] = {}
    for near, number, slot, far in sorted(rows, key=lambda row: (row[1], row[2])):
        edges.setdefault(near, []).append(Edge(known[number], slot, far))
    return Lineage(starts, edges)
