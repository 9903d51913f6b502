"""The files that a training run writes to its scratch folder; they can be read while the run writes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRICS, CHECKPOINTS, SAMPLES = "metrics.jsonl", "checkpoints", "samples.jsonl"


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the continuations of the prompts of a run, each with `step`, `prompt` and `text`."""
    return list(json_lines(folder / SAMPLES))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of the steps of a run; [] before its first step."""
    return list(json_lines(folder / METRICS))


def json_lines(path: Path, *, last_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the complete JSON objects of a file, or those in its last bytes; nothing without a file."""
    try:
        with path.open("rb") as file:
            if last_bytes is not None and (size := path.stat().st_size) > last_bytes:
                file.seek(size - last_bytes)
                file.readline()
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue  # the last line is not complete
                if isinstance(value, dict):
                    yield value
    except FileNotFoundError:
        return
