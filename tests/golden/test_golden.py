"""The shortened `cat` lifecycle gives the results recorded in `cat.json`; each difference is listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.record import GOLDEN, differences

ROOT = Path(__file__).resolve().parents[2]
MAX_DIFFERENCES = 30


@pytest.mark.slow
def test_the_shortened_lifecycle_gives_the_recorded_results() -> None:
    command = [sys.executable, "-m", "tests.golden.record", "--compare"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert process.returncode == 0, report(process.stdout, process.stderr)
    assert process.stdout == "no difference\n"


def report(output: str, errors: str) -> str:
    """Describe a failed comparison: the first differences, or the error that ended the life."""
    lines = output.splitlines()
    hint = "If the change is intended, record the results again: python -m tests.golden.record"
    if not lines:
        return f"the recorder ended without a comparison:\n{errors[-3000:]}"
    more = [f"... and {len(lines) - MAX_DIFFERENCES} more"] if len(lines) > MAX_DIFFERENCES else []
    return "\n".join([f"{len(lines)} differences from {GOLDEN.name}:", *lines[:MAX_DIFFERENCES], *more, hint])


def test_a_changed_result_is_named_by_its_step_and_figure() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    changed = json.loads(GOLDEN.read_text(encoding="utf-8"))
    name = next(step for step, results in changed["steps"].items() if results.get("curve"))
    figure, value = next(
        (figure, value) for figure, value in changed["steps"][name]["curve"][0].items() if isinstance(value, float)
    )
    changed["steps"][name]["curve"][0][figure] = value + 1
    assert list(differences(golden, golden)) == []
    assert list(differences(golden, changed)) == [f"{name}.curve[0].{figure}: {value} -> {value + 1}"]


def test_on_another_processor_losses_are_compared_within_a_tolerance() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))

    def other_processor(step: str, factor: float) -> list[str]:
        """The differences if the losses of a step are multiplied by `factor`, and all its weights differ."""
        results = json.loads(GOLDEN.read_text(encoding="utf-8"))
        results["processor"] = "another processor"
        results["steps"][step]["weights"] = {}
        for entry in results["steps"][step]["curve"]:
            entry.update({name: value * factor for name, value in entry.items() if name.endswith("loss")})
        return list(differences(golden, results))

    assert other_processor("sft", 1.02) == []
    assert other_processor("pretrain", 1.0005) == []
    assert any(line.startswith("sft.curve[1].loss: ") for line in other_processor("sft", 1.2))
    assert any(line.startswith("pretrain.curve[1].loss: ") for line in other_processor("pretrain", 1.01))
    assert other_processor("rlhf", 3.0) == []  # trains on sampled answers
