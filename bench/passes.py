"""Forward and backward passes of one model in several programs, each in a process of its own, in turns.

A benchmark states the model and, for each contender, the loss of a batch; `run` measures and compares them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed

OURS = "vita"
TOLERANCE = 1e-3
"""Largest relative difference of the loss and of the norm of the gradient between the contenders."""
PreparePass = Callable[[str, Path], tuple[Any, Callable[[], Any], int]]
"""(contender, folder of the model) -> the model, the loss of the batch, and the number of tokens of the batch."""


def measure(model: Any, loss: Callable[[], Any], tokens: int, *, seconds: float) -> dict[str, float]:
    """Return the speed of passes of a model, with the loss and the norm of its gradient."""

    def run_pass() -> float:
        for parameter in model.parameters():
            parameter.grad = None
        value = loss()
        value.backward()
        return value.item()

    value = run_pass()
    squares = sum(
        float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None
    )
    passes, start, processor = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds or passes < 3:
        run_pass()
        passes += 1
    return {
        "tokens_per_second": passes * tokens / spent,
        "tokens_per_processor_second": passes * tokens / (time.process_time() - processor),
        "loss": value,
        "gradient_norm": squares**0.5,
    }


def figures(results: dict[str, list[Result]], *, subject: str) -> list[Figure]:
    """Return the tokens per second and per second of the processor, of Vita beside each peer."""
    lines = []
    for unit, key in (("tokens/s", "tokens_per_second"), ("tokens/processor s", "tokens_per_processor_second")):
        ours = [row[key] for row in results[OURS]]
        lines += [
            figure(f"forward and backward of {subject}", ours, unit=unit, peer=name,
                   peer_values=[row[key] for row in rows])
            for name, rows in results.items()
            if name != OURS
        ]  # fmt: skip
    return lines


def check_equal(results: dict[str, list[Result]]) -> None:
    """Raise SystemExit if the contenders computed different losses or gradients."""
    for key in ("loss", "gradient_norm"):
        values = {name: rows[0][key] for name, rows in results.items()}
        if max(values.values()) > (1 + TOLERANCE) * min(values.values()):
            raise SystemExit(f"the contenders disagree about the {key}: {values}")


def run(
    module: str, *, subject: str, peers: Sequence[str], save_model: Callable[[Path], None], prepare: PreparePass
) -> None:
    """Run the command line of a benchmark; `subject` is the model in its figures."""
    name = module.rpartition(".")[2].removesuffix("_speed")
    parser = argparse.ArgumentParser(description=f"Speed of {subject}, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="time measured for each contender in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help=f"append the figures to this file, say bench/results/{name}.jsonl")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        import torch

        torch.set_num_threads(arguments.threads)
        contender, folder = arguments.worker
        print(json.dumps(measure(*prepare(contender, Path(folder)), seconds=arguments.seconds)))
        return
    if not installed("transformers"):
        raise SystemExit("transformers is not installed")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        common = ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
        contenders = {
            contender: Contender(["-m", module, "--worker", contender, folder, *common], python=sys.executable)
            for contender in (OURS, *peers)
        }
        results = in_turns(contenders, rounds=arguments.rounds, threads=arguments.threads)
    check_equal(results)
    report(figures(results, subject=subject), save=arguments.save)
