"""Scores of encoders: pseudo-likelihoods, masked accuracy, and words at masks.

The pseudo-log-likelihood of a text is the sum over its tokens of the log-probability of the token when only it is
masked (Salazar et al. 2020), and the pseudo-perplexity follows from it as the perplexity from a likelihood. It takes
one sequence per token. `MaskedScorer` scores pairs, as the engine of a decoder does, so that texts and multiple-choice
items are evaluated by the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vita.data.records import Document
from vita.data.tokens.masking import MaskingRule, TokenMasker
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.world import Judgement, Question, World
from vita.evals.masked_scores import MaskedDocument
from vita.evals.samples import SampledContinuation
from vita.evals.scorer import Pair
from vita.evals.world_knowledge import Group, WorldAnswer
from vita.nn.transformer import Transformer

# N sequence, V vocabulary

EVALUATION_SEED = 0
"""The seed of the masks, so that all models are evaluated on the same masks."""


@dataclass(frozen=True)
class PseudoScore:
    """The pseudo-log-likelihood of a continuation; `greedy` is True if each token is the most likely one."""

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class MaskedQuery:
    """A sequence with masks, and the positions whose predictions are needed."""

    ids: Sequence[int]
    positions: Sequence[int]


class MaskedScorer:
    """Predicts masked tokens with an encoder, in batches of about `tokens_at_once` tokens."""

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, *, device: str = "cpu", tokens_at_once: int = 8192
    ) -> None:
        model.head  # an encoder without a head is refused before any work  # noqa: B018
        self.model, self.tokenizer, self.device = model.to(device).eval(), tokenizer, torch.device(device)
        self.tokens_at_once = tokens_at_once

    @property
    def context(self) -> int:
        """Largest number of tokens of a text, without those at its start and end."""
        return self.model.architecture.context - (1 if self.tokenizer.separator is None else 2)

    def wrap(self, ids: Sequence[int]) -> list[int]:
        """Return a text with the tokens at its start and end."""
        end = [] if self.tokenizer.separator is None else [self.tokenizer.separator]
        return [self.tokenizer.document, *ids, *end]

    def logprobs(self, queries: Sequence[MaskedQuery]) -> list[Float[Tensor, "N V"]]:
        """Return the log-probabilities at the positions of each query."""
        return [log_probabilities for _, log_probabilities in sorted(self._batches(queries), key=lambda item: item[0])]

    def score(self, pairs: Sequence[Pair], /) -> list[PseudoScore]:
        """Return the pseudo-log-likelihood of each continuation: each of its tokens is masked alone."""
        sums, greedy = [0.0] * len(pairs), [True] * len(pairs)
        queries, owners, targets = [], [], []
        for index, (before, after) in enumerate(pairs):
            text = [*(before[1:] if before[:1] == [self.tokenizer.document] else before), *after][-self.context :]
            ids = self.wrap(text)
            first = 1 + len(text) - len(after)
            for offset, token in enumerate(after):
                masked = list(ids)
                masked[first + offset] = self.tokenizer.mask
                queries.append(MaskedQuery(masked, (first + offset,)))
                owners.append(index)
                targets.append(token)
        for number, log_probabilities in self._batches(queries):
            owner, token = owners[number], targets[number]
            sums[owner] += log_probabilities[0, token].item()
            greedy[owner] &= int(log_probabilities[0].argmax()) == token
        return [PseudoScore(total, best) for total, best in zip(sums, greedy, strict=True)]

    @torch.inference_mode()
    def _batches(self, queries: Sequence[MaskedQuery]) -> Iterator[tuple[int, Float[Tensor, "N V"]]]:
        """Yield the log-probabilities of the queries with their numbers, in batches of similar lengths."""
        order = sorted(range(len(queries)), key=lambda number: len(queries[number].ids))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(queries[order[stop]].ids) <= self.tokens_at_once:
                stop += 1
            yield from self._batch(queries, order[start:stop])
            start = stop

    def _batch(self, queries: Sequence[MaskedQuery], numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        width = max(len(queries[number].ids) for number in numbers)
        ids = torch.full((len(numbers), width), self.tokenizer.pad)
        documents = torch.ones(len(numbers), width, dtype=torch.long)  # padding is a document of its own
        for row, number in enumerate(numbers):
            length = len(queries[number].ids)
            ids[row, :length] = torch.tensor(list(queries[number].ids))
            documents[row, :length] = 0
        hidden = self.model.hidden(ids.to(self.device), documents=documents.to(self.device))
        for row, number in enumerate(numbers):
            logits = self.model.head.logits(hidden[row, list(queries[number].positions)])
            yield number, logits[:, : self.tokenizer.vocabulary].float().log_softmax(-1).cpu()


def score_masked(
    scorer: MaskedScorer, documents: Sequence[Document], *, rate: float, at_once: int = 64
) -> Iterator[MaskedDocument]:
    """Yield the predictions of masked tokens of each document, of its first `context` tokens, with fixed masks."""
    masker = TokenMasker(scorer.tokenizer, MaskingRule(rate, "mask"))
    for start in range(0, len(documents), at_once):
        queries, targets, part = [], [], []
        for number, document in enumerate(documents[start : start + at_once], start):
            ids = scorer.tokenizer.encode(document.text)[: scorer.context]
            if not ids:
                continue
            rows = masker.mask(np.array([scorer.wrap(ids)]), seed=EVALUATION_SEED, step=number)
            learn = rows.learn[0]
            queries.append(MaskedQuery(rows.ids[0].tolist(), rows.slots[0][learn].tolist()))
            targets.append(torch.from_numpy(rows.targets[0][learn]))
            part.append(document)
        for document, tokens, log_probabilities in zip(part, targets, scorer.logprobs(queries), strict=True):
            nats = -log_probabilities.gather(1, tokens[:, None]).sum().item()
            correct = int((log_probabilities.argmax(-1) == tokens).sum())
            yield MaskedDocument(document.id, document.source, len(tokens), correct, nats)


def fill(scorer: MaskedScorer, prompts: Sequence[str], *, answers: int = 5) -> list[SampledContinuation]:
    """Return the most likely tokens at the masks of each prompt; prompts without a mask are left out."""
    queries = []
    for prompt in prompts:
        ids = scorer.tokenizer.encode_masked(prompt)
        positions = [position for position, token in enumerate(ids) if token == scorer.tokenizer.mask]
        if positions and len(ids) <= scorer.model.architecture.context:
            queries.append((prompt, MaskedQuery(ids, positions)))
    filled = []
    for (prompt, _), log_probabilities in zip(queries, scorer.logprobs([query for _, query in queries]), strict=True):
        best = log_probabilities.topk(min(answers, log_probabilities.shape[1]))
        for values, tokens in zip(best.values.exp().tolist(), best.indices.tolist(), strict=True):
            for rank, (value, token) in enumerate(zip(values, tokens, strict=True), 1):
                text = scorer.tokenizer.decode([token], special=True)
                filled.append(SampledContinuation(prompt, f"answer {rank}", text, f"probability {value:.4f}"))
    return filled


def complete(scorer: MaskedScorer, world: World) -> list[WorldAnswer]:
    """Complete the definition of each thing of the world: "A cat is a furry [MASK]." and "A cat is a [MASK] mammal."

    A word has as many masks as tokens, and is right if each of its tokens is the most likely one at its mask.
    """
    labelled: list[tuple[Question, Group]] = [
        *((question, "held_out") for question in world.questions("never_asked")),
        *((question, "seen") for question in world.questions("asked")),
    ]
    cloze = [_cloze(scorer.tokenizer, question, word) for question, _ in labelled for word in _words(question)]
    predictions = scorer.logprobs([query for query, _ in cloze])
    words = [
        (log_probabilities.argmax(-1).tolist(), target)
        for log_probabilities, (_, target) in zip(predictions, cloze, strict=True)
    ]
    results = []
    for (question, group), kind, quality in zip(labelled, words[::2], words[1::2], strict=True):
        judgement = Judgement(True, kind[0] == kind[1], quality[0] == quality[1])
        answer = f"{scorer.tokenizer.decode(quality[0]).strip()} {scorer.tokenizer.decode(kind[0]).strip()}"
        results.append(WorldAnswer(question, group, answer, judgement, "answer"))
    return results


def _words(question: Question) -> tuple[str, str]:
    return question.kind, question.property


def _cloze(tokenizer: Tokenizer, question: Question, word: str) -> tuple[MaskedQuery, list[int]]:
    """Return the definition with masks for a word, and the tokens of the word."""
    before, _, after = question.answer.rpartition(f" {word}")
    start, tokens, end = tokenizer.encode(before), tokenizer.encode(f" {word}"), tokenizer.encode(after)
    closing = [] if tokenizer.separator is None else [tokenizer.separator]
    ids = [tokenizer.document, *start, *[tokenizer.mask] * len(tokens), *end, *closing]
    return MaskedQuery(ids, range(1 + len(start), 1 + len(start) + len(tokens))), tokens
