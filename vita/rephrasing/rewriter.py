"""The interface of a rewriter, and the rewriter that uses a model of the store.

    rewriter = ModelRewriter(engine, digest, sampling)
    for candidate, result in rewriter.rewrite(candidates, log): ...

Results come in the order of the candidates. The caller closes the iterator when it needs no more results.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vita.data.records import Message
from vita.infer.sampling import Sampling
from vita.rephrasing.candidates import Candidate, cut_passage
from vita.rephrasing.result_log import ResultLog, RewriteResult

if TYPE_CHECKING:
    from vita.infer.engine import Engine

BATCH = 64
"""Passages that the model rewrites together."""
MIN_PASSAGE_BYTES = 32
"""Smallest passage; a context that has no place for it is too small."""


Results: TypeAlias = Generator[tuple[Candidate, RewriteResult]]
"""Candidates with their results; closing the generator cancels open requests."""


class Rewriter(Protocol):
    """A model that rewrites passages."""

    @property
    def model(self) -> dict[str, Any]:
        """Return the identity of the model, for the metadata of its rewrites."""
        ...

    def rewrite(self, candidates: Iterator[Candidate], log: ResultLog) -> Results:
        """Yield each candidate with its result, in order; results in the log are not computed again."""
        ...


@dataclass(frozen=True)
class ModelRewriter:
    """Rewrites with a model of the store, in batches; an answer does not depend on its batch."""

    engine: Engine
    digest: str
    """Digest of the model artifact."""
    sampling: Sampling

    @property
    def model(self) -> dict[str, Any]:
        """Return the digest of the model."""
        return {"artifact": self.digest}

    def rewrite(self, candidates: Iterator[Candidate], log: ResultLog) -> Results:
        """Yield each candidate with its result, in order."""
        while batch := list(islice(candidates, BATCH)):
            self._compute([candidate for candidate in batch if candidate.id not in log], log)
            for candidate in batch:
                yield candidate, log[candidate.id]

    def _compute(self, batch: list[Candidate], log: ResultLog) -> None:
        prompts: dict[str, tuple[list[int], str]] = {}
        for candidate in batch:
            prompt = self._fit(candidate)
            if prompt is None:
                context = self.engine.model.architecture.context
                detail = f"no place for the passage in a context of {context} tokens with {self.sampling.max_tokens} "
                log.add(candidate.id, RewriteResult("", "too_long", detail + "tokens of an answer"))
            else:
                prompts[candidate.id] = prompt
        fitting = [candidate for candidate in batch if candidate.id in prompts]
        if not fitting:
            return
        samplings = [self.sampling.model_copy(update={"seed": candidate.seed}) for candidate in fitting]
        completions = self.engine.generate([prompts[candidate.id][0] for candidate in fitting], samplings)
        for candidate, completion in zip(fitting, completions, strict=True):
            size = len(prompts[candidate.id][1].encode("utf-8"))
            log.add(candidate.id, RewriteResult(completion.text, completion.finish, source_bytes=size))

    def _fit(self, candidate: Candidate) -> tuple[list[int], str] | None:
        """Return the prompt with the longest passage that leaves room for the answer, and the passage."""
        room = self.engine.model.architecture.context - self.sampling.max_tokens
        passage = candidate.passage
        while len(ids := self._encode(candidate, passage)) > room:
            size = len(passage.encode("utf-8"))
            shorter = min(size - 1, size - (len(ids) - room) * size // max(1, len(ids)))
            if shorter < MIN_PASSAGE_BYTES:
                return None
            passage = cut_passage(passage, shorter)
        return ids, passage

    def _encode(self, candidate: Candidate, passage: str) -> list[int]:
        if self.engine.template is None:
            return self.engine.text_ids(candidate.style.base_prompt(passage))
        return self.engine.chat_ids([Message("user", candidate.style.prompt(passage))])
