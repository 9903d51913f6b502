"""CPU time per token with batch invariance, beside the same requests without it.

    python -m bench.batch_invariance --shape 27M --quantization int8

Greedy answers of a model with random weights, in one process with one thread. Rounds alternate between both.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from pathlib import Path

import torch

from bench.figures import Figure, figure, report
from bench.serving_engines import SHAPES, save_model
from vita.infer.batch import GenerationBatch
from vita.infer.batch_invariance import decoding_widths
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader
from vita.infer.request import GenerationRequest, Job
from vita.infer.sampling import Sampling

CLIENTS = (1, 2, 3, 4, 8, 16, 64)
TOKENS, PROMPT = 64, 48


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.batch_invariance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--shape", choices=SHAPES, default="27M")
    parser.add_argument("--quantization", choices=("int8", "int4"), help="weights; float32 by default")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="file to which the figures are appended")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, options.shape, context=512)
        engine = Engine.open(folder, packed=True, quantization=options.quantization)
        for clients in options.clients:
            run(engine, clients, invariant=True)  # warmup
            pairs = [[run(engine, clients, invariant=value) for value in (True, False)] for _ in range(options.rounds)]
            title = f"CPU per token, {options.shape} {options.quantization or 'f32'}, {clients} clients"
            figures.append(
                figure(
                    title,
                    [pair[0] for pair in pairs],
                    unit="ms",
                    peer="without batch invariance",
                    peer_values=[pair[1] for pair in pairs],
                )
            )
    report(figures, save=options.save)


@torch.inference_mode()
def run(engine: Engine, clients: int, *, invariant: bool) -> float:
    """Return the CPU milliseconds per token of decoding."""
    sampling = Sampling(temperature=0, max_tokens=TOKENS)
    builders = [engine.new_completion(_prompt(index), sampling, "prompt") for index in range(clients)]
    jobs = deque(
        Job(GenerationRequest(builder.prompt, sampling), [builder], lambda event: None, at=0.0) for builder in builders
    )
    rows = max(clients, 16)
    batch = GenerationBatch(
        engine.model,
        rows=rows,
        widths=decoding_widths(engine.model, rows, invariant=invariant),
        tokens=engine.tokenizer.vocabulary,
        reader=PromptReader(engine.model, invariant=invariant),
    )
    batch.admit(lambda: jobs.popleft() if jobs else None)
    batch.step()  # measures the width
    steps = 0
    start = time.process_time()
    while batch.busy:
        batch.step()
        steps += 1
    return 1_000 * (time.process_time() - start) / (steps * clients)


def _prompt(index: int) -> list[int]:
    return [(7 * index + 13 * position) % 1_000 for position in range(PROMPT)]


if __name__ == "__main__":
    main()
