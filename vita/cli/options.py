"""Options that several commands share, the panels of `vita --help`, and the output of `--json`.

    def list_keys(ctx: typer.Context, as_json: JsonOption = False) -> None:
        rows = ...
        if as_json:
            print_json(rows)
            return

With `--json` a command prints one JSON document on standard output and nothing else; notices and errors go to standard
error. `docs/cli.md` lists the document of every command.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

LIVES, RESULTS, MODELS = "Run a life file", "Inspect results", "Use a model"
GATES, SERVICES, RIGHTS = "Gates and approvals", "Serve and monitor", "Review, safety and data rights"
STAGES = "Run one stage"
"""Panels of `vita --help`."""

TRACKER_HELP = "Also log the metrics of training to this tracker: tensorboard, mlflow or wandb."
JSON_HELP = "Print one JSON document instead of text."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
ByOption = Annotated[str, typer.Option("--by", metavar="NAME", help="Your name, for the record.")]


def print_json(value: Any) -> None:
    """Print a value as one JSON document in ASCII; numbers that JSON cannot represent (NaN, infinity) become null."""
    typer.echo(json.dumps(_finite(value), indent=1, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
