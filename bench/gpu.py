"""Tests and figures of one GPU: `bench/gpu.sh`, or `python -m bench.gpu`.

Runs the tests marked `gpu`, training at several sizes, and decoding. Each measurement is a process of its own, so that
its memory and its compilation are its own, and a failure affects one row of the table. Measurements that do not fit in
the time limit are named. `--rehearse` runs the same code with tiny models on a CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.gpu_cases import CASES, Case, measure
from bench.rounds import REPOSITORY

LIMIT = 525.0
"""Seconds for everything; the rest of nine minutes is for the start of the script."""
TEST_SECONDS = 150.0
"""Maximum duration of the tests."""
MIN_SECONDS = 20.0
"""Time that a measurement needs at least; with less it is left out."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    figures: dict[str, Any]
    problem: str | None = None


def run_tests(*, seconds: float, rehearse: bool) -> Row:
    """Run the tests marked `gpu`."""
    environment = {**os.environ, **({"GPU_TESTS_DEVICE": "cpu"} if rehearse else {})}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests/gpu", "--no-header", "-rs"]
    text, problem, duration = _run(command, seconds=seconds, environment=environment)
    summary = next((line for line in reversed(text.splitlines()) if " in " in line), "no summary")
    if problem:
        print(text[-6000:], file=sys.stderr, flush=True)
    return Row("tests", {"summary": summary.strip("= "), "seconds": round(duration, 1)}, problem)


def run_case(case: Case, *, seconds: float, rehearse: bool) -> Row:
    """Measure a case in a process."""
    command = [sys.executable, "-m", "bench.gpu", "--worker", case.name, *(["--rehearse"] if rehearse else [])]
    environment = {**os.environ, **({"VITA_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""} if rehearse else {})}
    text, problem, _duration = _run(command, seconds=seconds, environment=environment)
    if problem:
        print(text[-3000:], file=sys.stderr, flush=True)
        return Row(case.name, {}, problem)
    return Row(case.name, json.loads(text.strip().splitlines()[-1]))


def _run(command: list[str], *, seconds: float, environment: dict[str, str]) -> tuple[str, str | None, float]:
    """Return the output of a command, its problem if it failed, and its duration in seconds."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return text, f"stopped after {seconds:.0f} s", time.monotonic() - started
    problem = None if done.returncode == 0 else f"exit code {done.returncode}"
    return (done.stdout if problem is None else done.stdout + done.stderr), problem, time.monotonic() - started


def table(rows: list[Row]) -> str:
    """Return the rows as one table of text."""
    lines = [f"{'measurement':<24} figures"]
    for row in rows:
        shown = "  ".join(f"{name} {_number(value)}" for name, value in row.figures.items() if name not in HIDDEN)
        lines.append(f"{row.name:<24} {shown}{'  ' if shown and row.problem else ''}{row.problem or ''}")
    return "\n".join(lines)


HIDDEN = ("device", "torch", "formula", "kind")
"""Figures that only the file contains."""


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tests and figures of one GPU.")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on a CPU")
    parser.add_argument("--only", nargs="+", choices=["tests", "training", "decoding"], help="these parts")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    parser.add_argument("--worker", choices=[case.name for case in CASES], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        case = next(case for case in CASES if case.name == arguments.worker)
        print(json.dumps(measure(case, rehearse=arguments.rehearse)))
        return
    if not arguments.rehearse:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("bench/gpu.sh needs a CUDA device and PyTorch's CUDA build; try bench/gpu.sh --rehearse")
    raise SystemExit(_report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    """Run all measurements, print the table and write the lines; return the exit code."""
    end = time.monotonic() + arguments.limit
    default = REPOSITORY / "bench" / "results"
    folder = Path(os.environ["OUT"]) if os.environ.get("OUT") else default
    parts = arguments.only or ["tests", "training", "decoding"]
    path = None if arguments.rehearse and folder == default else folder / "gpu.jsonl"
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for part in [*(["tests"] if "tests" in parts else []), *(case for case in CASES if case.kind in parts)]:
        name, left = part if isinstance(part, str) else part.name, end - time.monotonic()
        if left < MIN_SECONDS:
            row = Row(name, {}, "left out: the time limit is reached")
        elif isinstance(part, str):
            row = run_tests(seconds=min(left, TEST_SECONDS), rehearse=arguments.rehearse)
        else:
            row = run_case(part, seconds=min(left, part.limit), rehearse=arguments.rehearse)
        rows.append(row)
        print(f"# {json.dumps(asdict(row))}", file=sys.stderr, flush=True)
        if path:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"rehearsal": arguments.rehearse, **asdict(row)}) + "\n")
    print(table(rows))
    return 1 if any(row.problem for row in rows) else 0


if __name__ == "__main__":
    main()
