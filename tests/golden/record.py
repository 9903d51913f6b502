"""Run a shortened `cat` life and collect its results: training curves, report figures, digests of the weights.

    python -m tests.golden.record              # run the life and write tests/golden/cat.json
    python -m tests.golden.record --compare    # run the life and list every difference from tests/golden/cat.json

The life runs in a child process with one thread, seed 0 and float32, so that two runs on one kind of processor end in
the same bytes. On another kind of processor sums are taken in another order, and each step begins with slightly other
weights than recorded. There, `differences` compares the first steps of the pretraining curve within a tolerance, and
the losses at the beginning of the steps that train on fixed data within a larger one. It leaves out the digests, the
figures, and the steps that train on sampled answers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vita.reporting.figures import read_report

GOLDEN = Path(__file__).parent / "cat.json"
ASSIGNMENTS = {
    "variables.world": {"seed": 0, "things": 40, "documents": 2500},
    "variables.talk": {"seed": 0, "things": 40, "documents": 2500, "conversations": {"lookup": 1}},
    "variables.careful": {
        "seed": 0, "things": 40, "documents": 1500, "dialogues": 150, "polite": 0.9, "rude": 0,
        "conversations": {"how_to": 0, "lookup": 1},
    },
    "variables.calls": {"seed": 7, "things": 40, "documents": 100, "dialogues": 100, "conversations": {"lookup": 1}},
    "settings.precision": "float32",
    "stages.design.depth": 2,
    "stages.design.width": 96,
    "stages.design.steps": 100,
    "stages.adapt.steps": 15,
    "stages.sft.steps": 80,
    "stages.rlhf.steps": 6,
    "stages.rlhf.learning_rate": 3e-3 * (256 / 96) ** 0.5 * 0.02,
    "stages.dpo.steps": 20,
    "stages.safety_tuning.steps": 40,
    "stages.pilot": {
        "sources": [{"world": "${world}"}], "sessions": 80,
        "complaint_reward": {"use": "matches", "options": {"pattern": "[.!?]$"}},
    },
    "stages.next.eval_fraction": 0.4,
    "stages.canary.sessions": 24,
    "gates.release.bars": [{"report": "test_chat", "figure": "world/held_out/accuracy", "at_least": 0}],
    "gates.next_release.bars": [{"report": "test_next", "figure": "world/held_out/accuracy", "at_least": 0}],
}  # fmt: skip
"""The settings that shorten the life. The criteria of its gates are met by any model."""
EARLY_STEPS = 5
TOLERANCE = 2e-3
"""Relative difference of pretraining figures on another processor, in the first `EARLY_STEPS` entries."""
LOSS_TOLERANCE = 0.05
"""Relative difference of losses on another processor, in later steps of the life."""
TRAINING_ON_FIXED_DATA = ("adapt", "dpo", "reward", "safety_tuning", "sft")


def processor() -> str:
    """The library version and the processor, which decide the order of floating-point sums.

    Processors with the same vector instructions differ, too: libraries choose kernels by vendor and model.
    """
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__} on {platform.machine()} {_processor_model()} {capability}"


def _processor_model() -> str:
    """The vendor, family and model of the processor on Linux, its name elsewhere."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor()
    lines = [line.partition(":") for line in information.read_text(encoding="utf-8").splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    return " ".join(fields[name] for name in ("vendor_id", "cpu family", "model", "CPU part") if name in fields)


def run_life(folder: Path) -> dict[str, Any]:
    """Run the shortened life in `folder` and return its results by step."""
    environment = {**os.environ, "VITA_STORE": str(folder / "store"), "VITA_THREADS": "1"}
    command = [sys.executable, "-m", "vita", "live", "cat"]
    for setting, value in ASSIGNMENTS.items():
        command += ["--set", f"{setting}={json.dumps(value)}"]
    life = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if life.returncode != 0:
        output = f"{life.stdout[-3000:]}{life.stderr[-3000:]}"
        raise RuntimeError(f"the shortened life ended with exit code {life.returncode}:\n{output}")
    command = [sys.executable, "-m", "vita", "ls", "--json"]
    listing = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    steps = {}
    for artifact in json.loads(listing.stdout):
        for name in artifact["names"]:
            life_name, _, step = name.partition("/")
            if life_name == "cat":
                steps[step] = collect(Path(artifact["folder"]))
    return {"processor": processor(), "steps": dict(sorted(steps.items()))}


def collect(folder: Path) -> dict[str, Any]:
    """Collect the curve, the figures and the weight digests of one artifact."""
    results: dict[str, Any] = {}
    for metrics in folder.glob("report/metrics.jsonl"):
        results["curve"] = [
            {name: _rounded(value) for name, value in json.loads(line).items()}
            for line in metrics.read_text(encoding="utf-8").splitlines()
        ]
    for path in sorted([*folder.glob("report.json"), *folder.glob("report/report.json")]):
        figures = {
            group: {
                item: {metric: figure.interval.as_json() for metric, figure in metrics.items()}
                for item, metrics in items.items()
            }
            for group, items in read_report(path.parent).figures.items()
        }
        if figures:
            results["figures"] = _rounded(figures)
    weights = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    if weights:
        results["weights"] = weights
    return results


def as_text(results: Mapping[str, Any]) -> str:
    """JSON with one line for each step, so that a change shows which steps it touches."""
    steps = ",\n".join(
        f"  {json.dumps(step)}: {json.dumps(results['steps'][step], sort_keys=True)}" for step in results["steps"]
    )
    return f'{{"processor": {json.dumps(results["processor"])}, "steps": {{\n{steps}\n}}}}\n'


def differences(golden: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """List every difference between two recordings, one line each."""
    same_processor = golden["processor"] == results["processor"]
    before, after = golden["steps"], results["steps"]
    for step in sorted({*before, *after}):
        if step not in before or step not in after:
            yield f"{step}: is only in the {'golden' if step in before else 'new'} results"
        elif same_processor:
            yield from _compare(step, before[step], after[step], tolerance=0.0)
        elif step == "pretrain":
            early = [recording[step]["curve"][:EARLY_STEPS] for recording in (before, after)]
            yield from _compare(f"{step}.curve", *early, tolerance=TOLERANCE)
        elif step in TRAINING_ON_FIXED_DATA:
            losses = [_losses(recording[step]["curve"][:EARLY_STEPS]) for recording in (before, after)]
            yield from _compare(f"{step}.curve", *losses, tolerance=LOSS_TOLERANCE)


def _losses(curve: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if "loss" in name} for entry in curve]


def _compare(path: str, before: Any, after: Any, *, tolerance: float) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}, key=str):
            yield from _compare(f"{path}.{name}", before.get(name), after.get(name), tolerance=tolerance)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for position, pair in enumerate(zip(before, after, strict=True)):
            yield from _compare(f"{path}[{position}]", *pair, tolerance=tolerance)
    elif isinstance(before, float) and isinstance(after, float):
        if not (before == after or math.isclose(before, after, rel_tol=tolerance, abs_tol=tolerance)):
            yield f"{path}: {before} -> {after}"
    elif before != after:
        yield f"{path}: {_short(before)} -> {_short(after)}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main() -> int:
    """Record the results, or compare them with the recorded ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compare", action="store_true", help="compare instead of writing the file")
    parser.add_argument("--output", type=Path, default=GOLDEN, help="the file to write or to compare with")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = run_life(Path(folder))
    if not arguments.compare:
        arguments.output.write_text(as_text(results), encoding="utf-8")
        return 0
    lines = list(differences(json.loads(arguments.output.read_text(encoding="utf-8")), results))
    sys.stdout.write("".join(f"{line}\n" for line in lines) or "no difference\n")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
