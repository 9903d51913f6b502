"""Read the rows of a corpus from its files, without Vita's reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zstandard

from tests.cli.test_cli import Vita


def rows(vita: Vita, name: str, part: str = "train") -> list[dict[str, Any]]:
    """Return the rows of `train`, `heldout` or `drops` of the corpus with this name."""
    return rows_of(Path(json.loads(vita("show", name, "--json")[1])["folder"]), part)


def rows_of(folder: Path, part: str) -> list[dict[str, Any]]:
    """Return the rows of `train`, `heldout` or `drops` of a corpus."""
    paths = [folder / "drops.jsonl.zst"] if part == "drops" else sorted((folder / part).glob("*.zst"))
    data = b"".join(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()) for path in paths)
    return [json.loads(line) for line in data.split(b"\n") if line]


def write(path: Path, *records: dict[str, Any]) -> Path:
    """Write a file with one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
