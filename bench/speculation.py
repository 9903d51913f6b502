"""CPU time per token with drafts of known quality, beside the same answers without drafts.

    python -m bench.speculation --shape 27M

The answers are greedy, from a model with random weights, in one process with one thread. Drafts of 3 tokens are taken
from the known answers; a share of their tokens is replaced by wrong ones. All runs must give the same tokens and the
same bits of log-probabilities. Rounds alternate between with and without drafts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import deque
from collections.abc import Hashable, Sequence
from pathlib import Path

import torch

from bench.figures import Figure, figure, report
from bench.serving_engines import SHAPES, save_model
from vita.infer.batch import GenerationBatch
from vita.infer.drafts import Drafter, DraftRequest
from vita.infer.engine import Engine
from vita.infer.prompts import PromptReader
from vita.infer.request import ActiveAnswer, GenerationRequest, Job
from vita.infer.sampling import Sampling

CLIENTS = (1, 4, 8)
RIGHT = (1.0, 0.7, 0.4, 0.0)
"""Shares of right tokens in drafts."""
DRAFT, TOKENS, PROMPT = 3, 128, 48
Answers = list[tuple[tuple[int, ...], list[float]]]


class KnownAnswers(Drafter):
    """Proposes the known answers, with a share of wrong tokens."""

    def __init__(self, answers: dict[tuple[int, ...], tuple[int, ...]], *, right: float) -> None:
        super().__init__(tokens=DRAFT)
        self.answers, self.right, self.chance = answers, right, random.Random(0)

    def propose(self, requests: Sequence[DraftRequest]) -> list[list[int]]:
        return [self._draft(answer, len(ids), count) for answer, ids, count in requests]

    def forget(self, answer: Hashable) -> None:
        pass

    def _draft(self, answer: Hashable, length: int, count: int) -> list[int]:
        assert isinstance(answer, ActiveAnswer)
        prompt = tuple(answer.job.request.prompt)
        rest = self.answers[prompt][length - len(prompt) :][:count]
        return [token if self.chance.random() < self.right else (token + 1) % 1_000 for token in rest]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speculation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="27M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="file to which the figures are appended")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        save_model(folder, options.shape, context=512)
        engine = Engine.open(folder, packed=True, rows=16)
        for clients in CLIENTS:
            figures += measure(engine, clients, rounds=options.rounds, shape=options.shape)
    report(figures, save=options.save)


def measure(engine: Engine, clients: int, *, rounds: int, shape: str) -> list[Figure]:
    """Return the CPU milliseconds per token for each share of right tokens, beside those without drafts."""
    _, plain = run(engine, clients, None)
    prompts = [tuple(_prompt(index)) for index in range(clients)]
    known = {prompt: ids for prompt, (ids, _) in zip(prompts, plain, strict=True)}
    figures: list[Figure] = []
    for right in RIGHT:
        with_drafts: list[float] = []
        without: list[float] = []
        for _ in range(rounds):
            without.append(run(engine, clients, None)[0])
            milliseconds, answers = run(engine, clients, KnownAnswers(known, right=right))
            assert answers == plain, "drafts changed an answer"
            with_drafts.append(milliseconds)
        title = f"CPU per token, {shape}, {clients} clients, drafts of {DRAFT} tokens, {right:.0%} right"
        figures.append(figure(title, with_drafts, unit="ms", peer="no drafts", peer_values=without))
    return figures


@torch.inference_mode()
def run(engine: Engine, clients: int, drafter: Drafter | None) -> tuple[float, Answers]:
    """Return the CPU milliseconds per token of decoding, and the answers."""
    sampling = Sampling(temperature=0, max_tokens=TOKENS)
    builders = [engine.new_completion(_prompt(index), sampling, "prompt") for index in range(clients)]
    jobs = deque(
        Job(GenerationRequest(builder.prompt, sampling), [builder], lambda event: None, at=0.0) for builder in builders
    )
    batch = GenerationBatch(
        engine.model, rows=max(clients, 2), widths=engine.widths, tokens=engine.tokenizer.vocabulary,
        reader=PromptReader(engine.model), drafter=drafter,
    )  # fmt: skip
    batch.admit(lambda: jobs.popleft() if jobs else None)
    start = time.process_time()
    while batch.busy:
        batch.step()
    seconds = time.process_time() - start
    answers = [
        (completion.ids, list(completion.logprobs)) for completion in (builder.completion() for builder in builders)
    ]
    return 1_000 * seconds / sum(len(ids) for ids, _ in answers), answers


def _prompt(index: int) -> list[int]:
    return [(7 * index + 13 * position) % 1_000 for position in range(PROMPT)]


if __name__ == "__main__":
    main()
