"""Both loss curves in one picture, and the last points as a figure.

    python -m bench.curves vita.jsonl nanochat.jsonl --picture bench/results/curves.png

Each file holds points {"system", "seconds", "bits_per_byte", "opening", ...}, as `nanochat_curve` writes them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.figures import Figure, report

OURS = "vita"

Point = dict[str, Any]


def read(files: list[Path]) -> dict[str, list[Point]]:
    """The points of each system in order of time, those with windows that open with the document token."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    rows = sorted((row for row in rows if row["opening"] == "document"), key=lambda row: row["seconds"])
    return {name: [row for row in rows if row["system"] == name] for name in {row["system"]: None for row in rows}}


def last_points(curves: dict[str, list[Point]]) -> list[Figure]:
    """Ours at its end beside each peer at its end; the spread is ours over documents, not over runs."""
    ours = curves[OURS][-1]
    spread = {"of": "value over documents", "low": ours["low"], "high": ours["high"], "rounds": 1}
    name = f"bits per byte after {ours['seconds'] / 60:.1f} minutes"
    return [
        Figure(
            name,
            round(ours["bits_per_byte"], 4),
            "bits_per_byte",
            f"{peer} after {points[-1]['seconds'] / 60:.1f} minutes",
            round(points[-1]["bits_per_byte"], 4),
            round(points[-1]["bits_per_byte"] / ours["bits_per_byte"], 4),
            spread,
        )
        for peer, points in curves.items()
        if peer != OURS
    ]


def draw(curves: dict[str, list[Point]], picture: Path) -> None:
    """Bits per byte against minutes of training."""
    from matplotlib.figure import Figure as Picture

    drawing = Picture(figsize=(7, 4.2), dpi=150, layout="constrained")
    axes = drawing.subplots()
    for name, points in curves.items():
        minutes = [point["seconds"] / 60 for point in points]
        axes.plot(minutes, [point["bits_per_byte"] for point in points], marker="o", markersize=3, label=name)
        axes.annotate(f"{points[-1]['bits_per_byte']:.3f}", (minutes[-1], points[-1]["bits_per_byte"]), fontsize=8)
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("bits per byte on held-out documents")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser(description="Loss curves side by side.")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="write a PNG")
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    arguments = parser.parse_args()
    curves = read(arguments.files)
    if arguments.picture:
        draw(curves, arguments.picture)
    report(last_points(curves) if OURS in curves else [], save=arguments.save)


if __name__ == "__main__":
    main()
