"""Speed of a mixture of experts: forward and backward pass of Vita beside transformers, in turns.

    python -m bench.mixture_speed --rounds 3 --seconds 10

Both compute the same Qwen3-MoE model from the same folder on the same tokens: width 256, 4 layers, 16 experts of width
160 with 4 active, vocabulary 4096, 8 x 256 tokens, float32. The loss and the norm of its gradient must agree.
transformers runs with each of its implementations of experts for a CPU: a loop over experts (`eager`) and
`grouped_mm`. Each contender runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed

OURS = "vita"
PEERS = {"transformers eager": "eager", "transformers grouped_mm": "grouped_mm"}
ROWS, CONTEXT = 8, 256
TOLERANCE = 1e-3
"""Largest relative difference of the loss and of the norm of the gradient between the contenders."""


def save_model(folder: Path) -> None:
    """Write the model with random weights."""
    from vita.nn import hf
    from vita.nn.architecture import Architecture, Experts
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    experts = Experts(count=16, active=4, feedforward=160)
    architecture = Architecture(
        family="qwen3_moe", vocabulary=4096, width=256, layers=4, heads=8, kv_heads=4, head_dim=32, feedforward=640,
        context=CONTEXT, tied=False, experts=experts,
    )  # fmt: skip
    model = Transformer(architecture)
    initialize(model, "fan_in")
    hf.save(model, folder)


def worker(name: str, folder: Path, *, seconds: float, threads: int) -> dict[str, Any]:
    """Measure one contender in this process."""
    import torch

    torch.set_num_threads(threads)
    ids = torch.randint(0, 4096, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(0))
    model, loss_of = _vita(folder) if name == OURS else _transformers(folder, PEERS[name])

    def run_pass() -> float:
        for parameter in model.parameters():
            parameter.grad = None
        loss = loss_of(ids)
        loss.backward()
        return loss.item()

    loss = run_pass()
    squares = sum(
        float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None
    )
    count, start, processor = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds or count < 3:
        run_pass()
        count += 1
    tokens = count * ROWS * CONTEXT
    return {
        "tokens_per_second": tokens / spent,
        "tokens_per_processor_second": tokens / (time.process_time() - processor),
        "loss": loss,
        "gradient_norm": squares**0.5,
    }


def _vita(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    from vita.nn import hf
    from vita.train.losses import language_modelling

    model = hf.load(folder)
    return model, lambda ids: language_modelling(model, {"ids": ids})[0] / ids[:, 1:].numel()


def _transformers(folder: Path, experts: str) -> tuple[Any, Callable[[Any], Any]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, experts_implementation=experts)

    def loss(ids: Any) -> Any:
        from torch.nn import functional as F

        logits = model(ids[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    return model, loss


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Return the tokens per second and per second of the processor, of Vita beside each peer."""
    lines = []
    for unit, key in (("tokens/s", "tokens_per_second"), ("tokens/processor s", "tokens_per_processor_second")):
        ours = [row[key] for row in results[OURS]]
        lines += [
            figure(
                "forward and backward of a mixture", ours, unit=unit, peer=name, peer_values=[row[key] for row in rows]
            )
            for name, rows in results.items()
            if name != OURS
        ]
    return lines


def check_equal(results: dict[str, list[Result]]) -> None:
    """Raise SystemExit if the contenders computed different losses or gradients."""
    for key in ("loss", "gradient_norm"):
        values = {name: rows[0][key] for name, rows in results.items()}
        if max(values.values()) > (1 + TOLERANCE) * min(values.values()):
            raise SystemExit(f"the contenders disagree about the {key}: {values}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of a mixture of experts, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="time measured for each contender in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="append the figures to this file, say bench/results/mixture.jsonl")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, folder = arguments.worker
        print(json.dumps(worker(name, Path(folder), seconds=arguments.seconds, threads=arguments.threads)))
        return
    if not installed("transformers"):
        raise SystemExit("transformers is not installed")
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder))
        common = ["--seconds", str(arguments.seconds), "--threads", str(arguments.threads)]
        contenders = {
            name: Contender(["-m", "bench.mixture_speed", "--worker", name, folder, *common], python=sys.executable)
            for name in (OURS, *PEERS)
        }
        results = in_turns(contenders, rounds=arguments.rounds, threads=arguments.threads)
    check_equal(results)
    report(figures(results), save=arguments.save)


if __name__ == "__main__":
    main()
