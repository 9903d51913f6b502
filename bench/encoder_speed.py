"""Speed of an encoder: forward and backward pass of the masked-language loss, Vita beside transformers, in turns.

    python -m bench.encoder_speed --rounds 3 --seconds 10

Both compute the same ModernBERT from the same folder on the same masks: width 256, 6 layers, 4 heads, vocabulary 4096,
16 rows of 256 tokens, of which 30 % are masked, float32. The loss and the norm of its gradient must agree. transformers
runs as it is, with logits at all positions, and with `sparse_prediction`, which computes them at masked positions only,
as Vita does. Each contender runs in a process of its own.
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
PEERS = {"transformers": False, "transformers sparse_prediction": True}
VOCABULARY, ROWS, CONTEXT, RATE = 4096, 16, 256, 0.3
TOLERANCE = 1e-3
"""Largest relative difference of the loss and of the norm of the gradient between the contenders."""


def save_model(folder: Path) -> None:
    """Write the model with random weights."""
    from vita.design.scaling_rules import shape_of_depth
    from vita.nn import hf
    from vita.nn.init import initialize
    from vita.nn.transformer import Transformer

    model = Transformer(shape_of_depth(6, vocabulary=VOCABULARY, context=CONTEXT, width=256, encoder=True))
    initialize(model, "normal")
    hf.save(model, folder)


def worker(name: str, folder: Path, *, seconds: float, threads: int) -> dict[str, Any]:
    """Measure one contender in this process."""
    import torch

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (ROWS, CONTEXT), generator=generator)
    count = round(RATE * CONTEXT)
    slots = torch.stack([torch.randperm(CONTEXT, generator=generator)[:count].sort().values for _ in range(ROWS)])
    targets = ids.gather(1, slots)
    inputs = ids.scatter(1, slots, VOCABULARY - 1)
    model, loss_of = _vita(folder) if name == OURS else _transformers(folder, sparse=PEERS[name])

    def run_pass() -> float:
        for parameter in model.parameters():
            parameter.grad = None
        loss = loss_of(inputs, slots, targets)
        loss.backward()
        return loss.item()

    loss = run_pass()
    squares = sum(
        float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None
    )
    passes, start, processor = 0, time.perf_counter(), time.process_time()
    while (spent := time.perf_counter() - start) < seconds or passes < 3:
        run_pass()
        passes += 1
    tokens = passes * ROWS * CONTEXT
    return {
        "tokens_per_second": tokens / spent,
        "tokens_per_processor_second": tokens / (time.process_time() - processor),
        "loss": loss,
        "gradient_norm": squares**0.5,
    }


def _vita(folder: Path) -> tuple[Any, Callable[..., Any]]:
    import torch

    from vita.nn import hf
    from vita.train.masked import masked_language_modelling

    model = hf.load(folder)

    def loss(inputs: Any, slots: Any, targets: Any) -> Any:
        tensors = {"ids": inputs, "slots": slots, "targets": targets, "learn": torch.ones_like(slots, dtype=torch.bool)}
        return masked_language_modelling(model, tensors)[0] / targets.numel()

    return model, loss


def _transformers(folder: Path, *, sparse: bool) -> tuple[Any, Callable[..., Any]]:
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, sparse_prediction=sparse)

    def loss(inputs: Any, slots: Any, targets: Any) -> Any:
        labels = inputs.new_full(inputs.shape, -100).scatter(1, slots, targets)
        return model(inputs, labels=labels).loss

    return model, loss


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Return the tokens per second and per second of the processor, of Vita beside each peer."""
    lines = []
    for unit, key in (("tokens/s", "tokens_per_second"), ("tokens/processor s", "tokens_per_processor_second")):
        ours = [row[key] for row in results[OURS]]
        lines += [
            figure(
                "forward and backward of an encoder", ours, unit=unit, peer=name, peer_values=[row[key] for row in rows]
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
    parser = argparse.ArgumentParser(description="Speed of an encoder, side by side.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="time measured for each contender in each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path, help="append the figures to this file, say bench/results/encoder.jsonl")
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
            name: Contender(["-m", "bench.encoder_speed", "--worker", name, folder, *common], python=sys.executable)
            for name in (OURS, *PEERS)
        }
        results = in_turns(contenders, rounds=arguments.rounds, threads=arguments.threads)
    check_equal(results)
    report(figures(results), save=arguments.save)


if __name__ == "__main__":
    main()
