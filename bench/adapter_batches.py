"""CPU time per token of requests to several adapters: one batch for all, compared with one scheduler per adapter.

    python -m bench.adapter_batches --shape 27M --adapters 4 --clients 8 --rounds 3

Both answer the same prompts (greedy, without an end token) in alternating turns, in one process with one thread. The
adapters are LoRA of rank 16 on all linear layers. The same number of requests to the base model alone is measured as
well, so that the cost of the adapters in a batch is visible.
"""

from __future__ import annotations

import argparse
import queue
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.figures import figure, report
from bench.serving_engines import SHAPES
from vita.infer.adapter_scheduler import AdapterBatches, AdapterScheduler
from vita.infer.engine import Engine
from vita.infer.request import Event, FinishedEvent, GenerationRequest, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.nn.adapters.attach import attach, reference_copy, trainable
from vita.nn.adapters.config import LoraConfig
from vita.nn.transformer import Transformer
from vita.testing import byte_tokenizer, tiny_model

PROMPT, CONTEXT = 32, 256
SPECIAL = (256, 257, 258)
"""The special tokens of the tokenizer, whose logits are zero, so that no answer ends early."""


def base_model(shape: str) -> Transformer:
    """Return a model with random packed weights."""
    sizes = {**SHAPES[shape], "head_dim": 64, "context": CONTEXT}
    model = tiny_model(std=0.02, qk_norm="head", **sizes)
    model.requires_grad_(False)
    with torch.no_grad():
        model.head_weight[list(SPECIAL)] = 0
    model.pack()
    return model


def adapted(base: Transformer, *, rank: int, seed: int) -> Engine:
    """Return an engine with a random adapter over the weights of `base`."""
    model = reference_copy(base)
    attach(model, LoraConfig(rank=rank, alpha=2.0 * rank, target_modules="all-linear"), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model.requires_grad_(False)
    return Engine(model, byte_tokenizer())


def cpu_per_token(schedulers: Sequence[Scheduler | AdapterScheduler], *, clients: int, tokens: int) -> float:
    """Send one request per client, spread over the schedulers; return the CPU seconds per generated token."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    start, count, finished = time.process_time(), 0, 0
    for client in range(clients):
        prompt = [(client * 31 + position * 7) % 256 for position in range(PROMPT)]
        sampling = Sampling(temperature=0, max_tokens=tokens)
        scheduler = schedulers[client % len(schedulers)]
        scheduler.submit(GenerationRequest(prompt, sampling), events.put)
    while finished < clients:
        event = events.get()
        finished += isinstance(event, FinishedEvent)
        count += isinstance(event, TokenEvent)
    return (time.process_time() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time per token of requests to several adapters.")
    parser.add_argument("--shape", choices=list(SHAPES), default="27M")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = base_model(options.shape)
    engines = [adapted(base, rank=options.rank, seed=seed) for seed in range(1, options.adapters + 1)]
    shared = Scheduler(Engine(base, byte_tokenizer()), rows=options.clients)
    batches = AdapterBatches(shared)
    together = [
        batches.add(engine, salt=bytes([index]), rows=options.clients, queue=64) for index, engine in enumerate(engines)
    ]
    separate = [Scheduler(engine, rows=options.clients) for engine in engines]
    schedulers = {
        "one batch": [adapter for adapter in together if adapter is not None],
        "separate schedulers": separate,
        "base alone": [shared],
    }
    assert len(schedulers["one batch"]) == len(engines)
    load = {"clients": options.clients, "tokens": options.tokens}
    results: dict[str, list[float]] = {name: [] for name in schedulers}
    for name in schedulers:
        cpu_per_token(schedulers[name], clients=options.clients, tokens=4)  # warmup, with the measurement of widths
    for turn in range(options.rounds):
        for name in schedulers:
            results[name].append(cpu_per_token(schedulers[name], **load))
            print(
                f"# round {turn + 1} {name}: {results[name][-1] * 1000:.3f} ms per token", file=sys.stderr, flush=True
            )
    title = f"CPU per token, {options.shape}, {options.clients} clients over {options.adapters} adapters in one batch"
    figures = [
        figure(title, results["one batch"], unit="seconds", peer=peer, peer_values=results[peer])
        for peer in ("separate schedulers", "base alone")
    ]
    report(figures, save=options.save)
    for scheduler in [*separate, shared]:
        scheduler.close()


if __name__ == "__main__":
    main()
