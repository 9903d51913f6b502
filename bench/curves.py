"""Draw both loss curves in one picture, and report their final values as a figure.

    python -m bench.curves vita.jsonl nanochat.jsonl --picture bench/results/curves.png

Each file holds points {"system", "seconds", "bits_per_byte", "opening", ...}, as `nanochat_curve` writes them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench.figures import Figure, report

VITA = "vita"

Point = dict[str, Any]


def read_curves(files: list[Path]) -> dict[str, list[Point]]:
    """Return the points of each system sorted by time, for windows that open with the document token."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    rows = sorted((row for row in rows if row["opening"] == "document"), key=lambda row: row["seconds"])
    return {name: [row for row in rows if row["system"] == name] for name in {row["system"]: None for row in rows}}


def final_figures(curves: dict[str, list[Point]]) -> list[Figure]:
    """Compare the final values of Vita and of each peer; the spread is that of Vita over documents, not over runs."""
    final_point = curves[VITA][-1]
    spread = {"of": "value over documents", "low": final_point["low"], "high": final_point["high"], "rounds": 1}
    name = f"bits per byte after {final_point['seconds'] / 60:.1f} minutes"
    return [
        Figure(
            name,
            round(final_point["bits_per_byte"], 4),
            "bits_per_byte",
            f"{peer} after {points[-1]['seconds'] / 60:.1f} minutes",
            round(points[-1]["bits_per_byte"], 4),
            round(points[-1]["bits_per_byte"] / final_point["bits_per_byte"], 4),
            spread,
        )
        for peer, points in curves.items()
        if peer != VITA
    ]


def draw(curves: dict[str, list[Point]], picture: Path) -> None:
    """Draw bits per byte over minutes of training."""
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
    curves = read_curves(arguments.files)
    if arguments.picture:
        draw(curves, arguments.picture)
    report(final_figures(curves) if VITA in curves else [], save=arguments.save)


if __name__ == "__main__":
    main()
