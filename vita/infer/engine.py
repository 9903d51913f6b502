"""From prompts to answers: a model, its tokenizer and its chat template behind one door.

    engine = Engine.open(folder)
    engine.generate([engine.text_ids("Once upon a time")], Sampling(max_tokens=50))
    for piece in engine.stream_chat([Message("user", "What is a cat?")], Sampling()): ...
    engine.score([(given_ids, scored_ids)])

Requests that come together advance together, a token each a step; one that is finished leaves its place at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.records import Message
from vita.data.tokens.chat_template import ChatTemplate, encode_prompt, training_clock
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.detokenizer import TextStream
from vita.infer.pretrained import Pretrained
from vita.infer.sampler import Sampler
from vita.infer.sampling import Sampling
from vita.nn.cache import Cache
from vita.nn.transformer import Transformer
from vita.spine.errors import DataError, ModelError

# B row, D width

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """An answer."""

    text: str
    ids: tuple[int, ...]
    """The chosen tokens; the one that ended the answer, too."""
    finish: Finish
    """`stop` at a stop text or a token that ends answers, `length` at `max_tokens` or a full context."""
    logprobs: tuple[float, ...]
    """The model's log-probability of each chosen token, before temperature and filters."""


@dataclass(frozen=True)
class Score:
    """How likely a given text was."""

    logprobs: tuple[float, ...]
    """Natural log-probability of each scored token."""
    greedy: bool
    """Whether each was the likeliest."""

    @property
    def logprob(self) -> float:
        """The sum."""
        return math.fsum(self.logprobs)


class Engine:
    """Generates and scores with one model."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        template: ChatTemplate | None = None,
        device: str | torch.device = "cpu",
        rows: int = 64,
        tokens_at_once: int = 8192,
    ) -> None:
        """`rows` requests are answered at a time, and about `tokens_at_once` tokens read at a time."""
        if tokenizer.vocabulary > model.architecture.vocabulary:
            raise ModelError(
                "engine",
                f"the tokenizer knows {tokenizer.vocabulary} tokens, the model {model.architecture.vocabulary}",
                hint="they belong to different models",
            )
        self.model = model.to(device)
        self.tokenizer, self.template, self.device = tokenizer, template, torch.device(device)
        self.rows, self.tokens_at_once = rows, tokens_at_once

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        clock: Callable[[], datetime] = training_clock,
    ) -> Engine:
        """The engine of a Hugging Face model folder, computing in `dtype`.

        `clock` gives the date that the chat template may print: by default the fixed one of training, so that tests
        and training do not depend on the day.
        """
        return cls.of(Pretrained.load(folder, dtype=dtype, device=device, finite=False), device=device, clock=clock)

    @classmethod
    def of(
        cls,
        pretrained: Pretrained[Transformer],
        *,
        device: str | torch.device = "cpu",
        clock: Callable[[], datetime] = training_clock,
    ) -> Engine:
        """Return the engine of a model that was loaded before; the engine uses its weights without a copy."""
        template = pretrained.template and pretrained.template.with_clock(clock)
        return cls(pretrained.model, pretrained.tokenizer, template=template, device=device)

    # -- prompts

    def text_ids(self, text: str) -> list[int]:
        """The prompt that lets the model go on from `text`, as at the start of a document."""
        return [self.tokenizer.document, *self.tokenizer.encode(text)]

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The prompt that lets the model answer a dialogue."""
        if self.template is None:
            hint = "a base model continues text; tune it for chat first"
            raise ModelError("chat", "the model's folder holds no chat template", hint=hint)
        return encode_prompt(self.tokenizer, self.template, messages)

    # -- answers

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling | Sequence[Sampling]) -> list[Completion]:
        """An answer to each prompt, in order; the same settings for all, or those of each."""
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise DataError("generate", expected=f"settings for {len(prompts)} prompts", got=len(samplings))
        places = [f"prompt {index + 1}" for index in range(len(prompts))]
        requests = [self.request(*given) for given in zip(prompts, samplings, places, strict=True)]
        ordered = sorted(requests, key=lambda request: len(request.prompt))
        for start in range(0, len(ordered), self.rows):
            for _ in self._advance(ordered[start : start + self.rows]):
                pass
        return [request.completion() for request in requests]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The answer's text, piece by piece; put together, it is what `generate` gives."""
        return self._pieces(self.request(prompt, sampling, "prompt"))

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The model's answer to a dialogue."""
        return self.generate([self.chat_ids(messages)], sampling)[0]

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """The model's answer to a dialogue, piece by piece."""
        return self.stream(self.chat_ids(messages), sampling)

    # -- scores

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """How likely the second of each pair is after the first; neither may be empty."""
        for index, (given, scored) in enumerate(pairs):
            self._check([*given, *scored[:-1]], f"pair {index + 1}", room=0)
            if not given or not scored:
                raise DataError(f"pair {index + 1}", "has an empty half")
        order = sorted(range(len(pairs)), key=lambda index: -len(pairs[index][0]) - len(pairs[index][1]))
        scores: dict[int, Score] = {}
        while order:
            longest = len(pairs[order[0]][0]) + len(pairs[order[0]][1]) - 1
            count = max(1, self.tokens_at_once // longest)
            batch, order = order[:count], order[count:]
            scores |= zip(batch, self._score([pairs[index] for index in batch]), strict=True)
        return [scores[index] for index in range(len(pairs))]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        hidden = self.model.hidden(self._padded([[*given, *scored[:-1]] for given, scored in pairs]))
        # Only the positions before a scored token, those of all pairs in one list.
        rows = [row for row, (_, scored) in enumerate(pairs) for _ in scored]
        places = [len(given) - 1 + step for given, scored in pairs for step in range(len(scored))]
        targets = torch.tensor([token for _, scored in pairs for token in scored], device=self.device)
        hidden = hidden[rows, places]
        logprobs: list[float] = []
        likeliest: list[bool] = []
        # A piece at a time: logits are the largest thing in sight.
        for some, aims in zip(hidden.split(2048), targets.split(2048), strict=True):
            logits = self.logits(some)
            logprobs += (-F.cross_entropy(logits, aims, reduction="none")).tolist()
            likeliest += (logits.argmax(-1) == aims).tolist()
        ends = list(accumulate(len(scored) for _, scored in pairs))
        spans = pairwise([0, *ends])
        return [Score(tuple(logprobs[start:end]), all(likeliest[start:end])) for start, end in spans]

    # -- inside

    def request(self, prompt: Sequence[int], sampling: Sampling, where: str, *, room: int = 1) -> Request:
        """An answer that has not begun; the prompt is checked to leave `room` in the context."""
        self._check(prompt, where, room=room)
        left = self.model.architecture.context - len(prompt)
        return Request(prompt, sampling, self.tokenizer, limit=min(sampling.max_tokens, left))

    def _check(self, ids: Sequence[int], where: str, *, room: int) -> None:
        """A prompt leaves room for at least one token of answer."""
        architecture = self.model.architecture
        if not ids:
            raise DataError(where, "is empty; it needs at least the token that begins a document")
        if len(ids) + room > architecture.context:
            most = architecture.context - room
            raise DataError(where, expected=f"at most {most} tokens, for the model's context", got=len(ids))
        if min(ids) < 0 or max(ids) >= architecture.vocabulary:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise DataError(where, expected=f"token ids from 0 to {architecture.vocabulary - 1}", got=wrong)

    def _pieces(self, request: Request) -> Iterator[str]:
        for _ in self._advance([request]):
            if request.fresh:
                yield request.fresh

    def _advance(self, requests: list[Request]) -> Iterator[None]:
        """Carries requests to their ends; a token each between two yields."""
        cache: Cache | None = None
        sampler = Sampler([request.sampling for request in requests], device=self.device)
        tokens: Tensor | None = None
        while requests:
            # Not around the whole: a generator would leave the mode on for whoever it yields to.
            with torch.inference_mode():
                if cache is None or tokens is None:
                    cache, hidden = self._prefill(requests)
                else:
                    hidden = self.model.hidden(tokens[:, None], cache=cache)[:, -1]
                tokens, logprobs = sampler(self.logits(hidden))
                for request, token, logprob in zip(requests, tokens.tolist(), logprobs.tolist(), strict=True):
                    request.accept(token, logprob)
                going = [row for row, request in enumerate(requests) if request.finish is None]
                if 0 < len(going) < len(requests):
                    cache.select(going)
                    sampler.select(going)
                    tokens = tokens[going]
                requests = [requests[row] for row in going]
            yield

    def _prefill(self, requests: Sequence[Request]) -> tuple[Cache, Float[Tensor, "B D"]]:
        """Reads the prompts, padded on the right; the padding's slots are overwritten before they could be seen."""
        prompts = [tuple(request.prompt) for request in requests]
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}  # each is read once
        lengths = [len(prompt) for prompt in places]
        cache = Cache(self.model.architecture, len(places), dtype=self.model.head_weight.dtype, device=self.device)
        hidden = self.model.hidden(self._padded(list(places)), cache=cache)
        cache.lengths = lengths
        last = hidden[list(range(len(places))), [length - 1 for length in lengths]]
        rows = [places[prompt] for prompt in prompts]
        if len(places) < len(rows):
            cache.select(rows)
        return cache, last[rows]

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)

    def logits(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        return F.linear(hidden, self.model.head_weight).float()


class Request:
    """A prompt, and its answer so far."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: Tokenizer, *, limit: int) -> None:
        self.prompt, self.sampling = prompt, sampling
        self.finish: Finish | None = None
        self.fresh = ""
        """The text that the last token added."""
        self._tokenizer, self._limit = tokenizer, limit
        self._stream = TextStream(sampling.stop)
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._text: list[str] = []

    def accept(self, token: int, logprob: float) -> None:
        if math.isnan(logprob):
            raise ModelError("generate", "the model's logits are not numbers", hint="its weights may hold NaN")
        self._ids.append(token)
        self._logprobs.append(logprob)
        special = token in self._tokenizer.special_ids
        self.fresh = "" if special else self._stream.push(self._tokenizer.token_bytes(token))
        if token in self._tokenizer.stops or self._stream.stopped:
            self.finish = "stop"
        elif len(self._ids) == self._limit:
            self.finish = "length"
        if self.finish:
            self.fresh += self._stream.finish()
        if self._stream.stopped:
            self.finish = "stop"
        self._text.append(self.fresh)

    def completion(self) -> Completion:
        assert self.finish is not None
        return Completion("".join(self._text), tuple(self._ids), self.finish, tuple(self._logprobs))
