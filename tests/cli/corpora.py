"""What a corpus holds, read from its files as another program would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import zstandard

from tests.cli.test_cli import Vita


def rows(vita: Vita, name: str, part: str = "train") -> list[dict[str, Any]]:
    """The rows of `train`, `heldout` or `drops` of the corpus with this name."""
    folder = Path(json.loads(vita("show", name, "--json")[1])["folder"])
    paths = [folder / "drops.jsonl.zst"] if part == "drops" else sorted((folder / part).glob("*.zst"))
    data = b"".join(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()) for path in paths)
    return [json.loads(line) for line in data.split(b"\n") if line]


def write(path: Path, *rows_: dict[str, Any]) -> Path:
    """A file of rows, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_), encoding="utf-8")
    return path
