"""The lineage of an artifact: `vita trace`.

The edges of each artifact are shown once, at its shortest distance; other occurrences refer to it. Every line begins
with the distance, so that the indentation can restart at the left in a narrow terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vita.cli.app import app, open_workspace
from vita.cli.options import RESULTS, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import StoreError

if TYPE_CHECKING:
    from vita.spine.lineage import Edge, Lineage

PUSHED = "pushed"
"""The event of a model that was uploaded to the Hub."""
_PLACES = {"hub": "the Hub:", "folder": "the folder", "gguf": "the GGUF file"}
_INDENT = 2
_ROOM_FOR_TEXT = 60
"""Columns left for the text of a line; the indentation takes the rest of the window."""


@dataclass(frozen=True)
class Labels:
    """Names and kinds of artifacts, read once for a whole lineage."""

    workspace: Workspace

    @cached_property
    def names(self) -> Mapping[str, list[str]]:
        """Return digest -> names."""
        names: dict[str, list[str]] = {}
        for name, digest in self.workspace.ledger.all_names().items():
            names.setdefault(digest, []).append(name)
        return names

    @cached_property
    def _kinds(self) -> dict[str, str]:
        return {}

    def kind(self, digest: str) -> str:
        """Return the kind of an artifact, or `gone` if it is not in the store."""
        if digest not in self._kinds:
            try:
                self._kinds[digest] = self.workspace.store.manifest(digest).kind
            except StoreError:
                self._kinds[digest] = "missing"
        return self._kinds[digest]

    @cached_property
    def origins(self) -> Mapping[str, Mapping[str, Any]]:
        """Return digest -> the record of its newest adoption, for every adopted model."""
        runs = self.workspace.ledger.find(stage="adopt", state="done")
        return {run.artifact: run.record or {} for run in runs if run.artifact}

    def uses(self, digest: str) -> list[Mapping[str, Any]]:
        """Return the exports and uploads of an artifact, oldest first."""
        from vita.gates.exports import EXPORTED

        events = self.workspace.ledger.events(digest)
        return [{"event": event["event"], "at": event["at"], **event["data"]}
                for event in events if event["event"] in (EXPORTED, PUSHED)]  # fmt: skip

    def title(self, digest: str) -> Text:
        """Return a short description of an artifact."""
        name = ", ".join(self.names.get(digest, ())) or digest[:12]
        return line((name, "bold"), f" {self.kind(digest)} {digest[:12]}", (self.origin_text(digest), "dim"))

    def origin_text(self, digest: str) -> str:
        """Return where an adopted model comes from; empty for other artifacts."""
        origin = self.origins.get(digest)
        if not origin:
            return ""
        revision = f" at revision {origin['revision'][:12]}" if origin.get("revision") else ""
        origin_kind = _PLACES.get(str(origin.get("format")), "")
        licence = origin.get("license_name") or origin.get("license") or "licence not stated"
        return f" (adopted from {origin_kind} {origin.get('origin')}{revision}, {licence})"


@app.command(rich_help_panel=RESULTS)
def trace(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="A name (cat/sft) or the beginning of a digest.")],
    depth: Annotated[int | None, typer.Option(min=1, help="Maximum distance in runs. Default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the lineage of an artifact: its inputs and the artifacts made from it."""

    from vita.spine.lineage import downstream_lineage, upstream_lineage

    workspace = open_workspace(ctx)
    digest = workspace.find(reference).digest
    labels = Labels(workspace)
    sides = {
        "made_from": upstream_lineage([digest], workspace.ledger),
        "went_into": downstream_lineage([digest], workspace.ledger),
    }
    if as_json:
        print_json(_as_json(digest, sides, labels, depth))
        return
    for heading, graph in (("was made from", sides["made_from"]), ("went into", sides["went_into"])):
        workspace.console.print(line(labels.title(digest), (f"\n{heading}", "dim")), soft_wrap=True)
        uses = _use_lines(graph, labels) if heading == "went into" else []
        for text in _lines(graph, labels, depth=depth, width=workspace.console.width, has_more=bool(uses)):
            workspace.console.print(text, soft_wrap=True)
        for text in uses:
            workspace.console.print(text, soft_wrap=True)


def _use_lines(graph: Lineage, labels: Labels) -> list[Text]:
    """Return a line for every export and upload of the artifact and of those made from it."""
    lines: list[Text] = []
    for digest, distance in graph.distances.items():
        name = ", ".join(labels.names.get(digest, ())) or digest[:12]
        prefix = f"{distance or '':>4}"
        for use in labels.uses(digest):
            lines.append(line((prefix, "dim"), " ", (name, "bold"), f" {_use_text(use)}"))
    return lines


def _use_text(use: Mapping[str, Any]) -> str:
    if use["event"] == PUSHED:
        return f"pushed to the Hub: {use['repository']} at commit {str(use['commit'])[:12]}"
    sha = f" (sha256 {use['sha256'][:12]})" if use.get("sha256") else ""
    quantization = f" {use['quantization']}" if use.get("quantization") else ""
    return f"exported as {use['format']}{quantization}: {use['path']}{sha}"


def _lines(graph: Lineage, labels: Labels, *, depth: int | None, width: int, has_more: bool) -> Iterator[Text]:
    """Yield the lines of one direction; `has_more` if other lines follow."""
    levels = max(1, (width - _ROOM_FOR_TEXT) // _INDENT)
    for distance, edge, nearest in _in_depth(graph, depth):
        indent = " " * (_INDENT * ((distance - 1) % levels))
        again = "" if nearest else f" (shown at {graph.distances[edge.digest]})"
        slot = f"{edge.slot}: " if edge.slot else ""
        yield line(
            (f"{distance:>4}", "dim"), f" {indent}{slot}", labels.title(edge.digest),
            (f" by {edge.run.stage}{again}", "dim"),
        )  # fmt: skip
    if not graph.edges.get(graph.starts[0]) and not has_more:
        yield line(("     nothing", "dim"))
    if left_out := _left_out(graph, depth):
        artifacts = "1 artifact" if left_out == 1 else f"{left_out:,} artifacts"
        yield line(f"     not shown: {artifacts} further than --depth {depth}")


def _in_depth(graph: Lineage, depth: int | None) -> Iterator[tuple[int, Edge, bool]]:
    """Yield (distance, edge, True if the edges of its artifact follow), depth first."""
    edges = graph.spanning_edges()
    stack = [(1, edge, nearest) for edge, nearest in reversed(edges.get(graph.starts[0], []))]
    while stack:
        distance, edge, nearest = stack.pop()
        yield distance, edge, nearest
        if nearest and (depth is None or distance < depth):
            stack += [(distance + 1, next_edge, first) for next_edge, first in reversed(edges.get(edge.digest, []))]


def _left_out(graph: Lineage, depth: int | None) -> int:
    return sum(depth is not None and distance > depth for distance in graph.distances.values())


def _as_json(digest: str, sides: Mapping[str, Lineage], labels: Labels, depth: int | None) -> dict[str, Any]:
    def side(graph: Lineage) -> list[dict[str, Any]]:
        return [
            {"distance": graph.distances[source] + 1, "slot": edge.slot, "digest": edge.digest, "of": source,
             "names": labels.names.get(edge.digest, []), "kind": labels.kind(edge.digest), "stage": edge.run.stage,
             "origin": dict(labels.origins.get(edge.digest, {})) or None}
            for source in graph.distances for edge in graph.edges.get(source, ())
            if depth is None or graph.distances[source] < depth
        ]  # fmt: skip

    left_out = {name: _left_out(graph, depth) for name, graph in sides.items()}
    origin = dict(labels.origins.get(digest, {})) or None
    graphs = {name: side(graph) for name, graph in sides.items()}
    uses = [{"digest": product, **use} for product in sides["went_into"].distances for use in labels.uses(product)]
    return {"digest": digest, "origin": origin, **graphs, "given_away": uses, "left_out": left_out}
