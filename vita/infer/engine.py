"""The engine: a model with its tokenizer and its chat template, which answers prompts and scores texts.

    engine = Engine.open(folder)
    engine.generate([engine.text_ids("Once upon a time")], Sampling(max_tokens=50))
    for piece in engine.stream_chat([Message("user", "What is a cat?")], Sampling()): ...
    engine.score([(given_ids, scored_ids)])

Answers are computed by `vita.infer.batch`, in the calling thread: an answer has the same bits alone and in any batch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.records import NO_VARIABLES, Message, TemplateVariables
from vita.data.tokens.chat_template import ChatTemplate, training_clock
from vita.data.tokens.dialogue_encoding import encode_prompt
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.answer_engine import AnswerEngine
from vita.infer.batch import GenerationBatch
from vita.infer.batch_invariance import BatchWidths, decoding_widths
from vita.infer.completion import Completion, CompletionBuilder
from vita.infer.logprobs import head_logits
from vita.infer.pretrained import Pretrained
from vita.infer.prompts import PromptReader
from vita.infer.request import Event, FailedEvent, GenerationRequest, Job, Listener, TokenEvent
from vita.infer.sampling import Sampling
from vita.nn.transformer import Transformer
from vita.nn.weight_format import WeightFormat
from vita.nn.weight_quantization import quantize_weights, require_kernels
from vita.spine.errors import DataError, ModelError
from vita.spine.model_files import ModelFolder

# B row, D width


@dataclass(frozen=True)
class TextScore:
    """The likelihood of a text after another one."""

    logprobs: tuple[float, ...]
    """Natural log-probability of each scored token."""
    greedy: bool
    """True if each token was the most likely one."""

    @property
    def logprob(self) -> float:
        """The sum of the log-probabilities."""
        return math.fsum(self.logprobs)


class Engine(AnswerEngine[Transformer]):
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
        """At most `rows` answers advance together, and about `tokens_at_once` tokens are scored together.

        With `rows=1` steps need no batch-invariant width, which is faster for small models; the last bits of an
        answer then differ from those in a batch.
        """
        if not model.architecture.causal:
            hint = "test it with `vita test`, or fill masks with `fill-mask` of transformers"
            raise ModelError("engine", "the model is an encoder, which generates no text", hint=hint)
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
        folder: ModelFolder,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        rows: int = 64,
        clock: Callable[[], datetime] = training_clock,
        packed: bool = False,
        quantization: WeightFormat | None = None,
    ) -> Engine:
        """Open the engine of a Hugging Face model folder, computing in `dtype`, with at most `rows` answers at a time.

        With `packed`, products on a CPU are faster, and the last bits of their results differ (`vita.nn.packed`). With
        `quantization` the model computes with weights in another format (`vita.nn.weight_quantization`).

        `clock` returns the date that the chat template may print: by default the fixed date of training, so that tests
        and training do not depend on the day.
        """
        if quantization is not None:
            require_kernels(quantization, device=device)  # before the weights are read
        dtype = torch.bfloat16 if quantization == "bf16" else dtype
        pretrained = Pretrained.load(folder, dtype=dtype, device=device, finite=False)
        if quantization is not None:
            quantize_weights(pretrained.model, quantization)
        if packed:
            pretrained.model.pack()
        return cls.of(pretrained, device=device, rows=rows, clock=clock)

    @classmethod
    def of(
        cls,
        pretrained: Pretrained[Transformer],
        *,
        device: str | torch.device = "cpu",
        rows: int = 64,
        clock: Callable[[], datetime] = training_clock,
    ) -> Engine:
        """Return the engine of a model that was loaded before; the engine uses its weights without a copy."""
        template = pretrained.template and pretrained.template.with_clock(clock)
        return cls(pretrained.model, pretrained.tokenizer, template=template, device=device, rows=rows)

    # -- prompts

    def text_ids(self, text: str) -> list[int]:
        """The prompt that lets the model continue `text`, as at the start of a document."""
        return [self.tokenizer.document, *self.tokenizer.encode(text)]

    def chat_ids(self, messages: Sequence[Message], variables: TemplateVariables = NO_VARIABLES) -> list[int]:
        """The prompt that lets the model answer a dialogue, by the chat template."""
        if self.template is None:
            hint = "a base model continues text; tune it for chat first"
            raise ModelError("chat", "the model's folder holds no chat template", hint=hint)
        return encode_prompt(self.tokenizer, self.template, messages, variables)

    # -- answers

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        visible: frozenset[int] = frozenset(),
    ) -> list[Completion]:
        """Return an answer to each prompt, in order; `sampling` are the settings of all prompts, or one for each.

        `visible` are special tokens whose names belong to the text of an answer, such as those around a call.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise DataError("generate", expected=f"settings for {len(prompts)} prompts", got=len(samplings))
        builders = [
            self.new_completion(prompt, sampling, f"prompt {index + 1}", visible=visible)
            for index, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
        ]
        for _ in self._advance(builders):
            pass
        return [builder.completion() for builder in builders]

    def stream(
        self, prompt: Sequence[int], sampling: Sampling, *, visible: frozenset[int] = frozenset()
    ) -> Iterator[str]:
        """Yield the answer's text in pieces; joined, they are the text of `generate`."""
        return self._pieces(self.new_completion(prompt, sampling, "prompt", visible=visible))

    def chat(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Return the model's answer to a dialogue."""
        return self.generate([self.chat_ids(messages)], sampling)[0]

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling) -> Iterator[str]:
        """Yield the model's answer to a dialogue in pieces."""
        return self.stream(self.chat_ids(messages), sampling)

    # -- scores

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TextScore]:
        """Return the likelihood of the second text of each pair after the first; neither may be empty."""
        for index, (context, text) in enumerate(pairs):
            self.check_prompt([*context, *text[:-1]], f"pair {index + 1}", room=0)
            if not context or not text:
                raise DataError(f"pair {index + 1}", "has an empty half")
        order = sorted(range(len(pairs)), key=lambda index: -len(pairs[index][0]) - len(pairs[index][1]))
        scores: dict[int, TextScore] = {}
        while order:
            longest = len(pairs[order[0]][0]) + len(pairs[order[0]][1]) - 1
            count = max(1, self.tokens_at_once // longest)
            batch, order = order[:count], order[count:]
            scores |= zip(batch, self._score([pairs[index] for index in batch]), strict=True)
        return [scores[index] for index in range(len(pairs))]

    @torch.inference_mode()
    def _score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TextScore]:
        hidden = self.model.hidden(self._padded([[*context, *text[:-1]] for context, text in pairs]))
        # Only the positions before a scored token, those of all pairs in one list.
        rows = [row for row, (_, text) in enumerate(pairs) for _ in text]
        positions = [len(context) - 1 + step for context, text in pairs for step in range(len(text))]
        targets = torch.tensor([token for _, text in pairs for token in text], device=self.device)
        hidden = hidden[rows, positions]
        logprobs: list[float] = []
        is_most_likely: list[bool] = []
        # In pieces, because logits are the largest tensor of a forward pass.
        for hidden_piece, target_piece in zip(hidden.split(2048), targets.split(2048), strict=True):
            logits = self.logits(hidden_piece)
            logprobs += (-F.cross_entropy(logits, target_piece, reduction="none")).tolist()
            is_most_likely += (logits.argmax(-1) == target_piece).tolist()
        spans = pairwise(accumulate((len(text) for _, text in pairs), initial=0))
        return [TextScore(tuple(logprobs[start:end]), all(is_most_likely[start:end])) for start, end in spans]

    # -- inside

    def _pieces(self, builder: CompletionBuilder) -> Iterator[str]:
        for events in self._advance([builder]):
            yield from (event.text for event in events if isinstance(event, TokenEvent) and event.text)

    def _advance(self, builders: Sequence[CompletionBuilder]) -> Iterator[list[Event]]:
        """Advance the completions until all are finished; yield the events of each step. A failure is raised."""
        if not builders:
            return
        events: list[Event] = []
        waiting = deque(_jobs(builders, events.append))
        rows = min(self.widths.most_rows(self.rows), len(builders))
        batch = GenerationBatch(
            self.model, rows=rows, widths=self.widths, tokens=self.tokenizer.vocabulary, reader=self._reader
        )
        while waiting or batch.busy:
            # Not around the loop: a generator would leave the mode on for its caller.
            with torch.inference_mode():
                batch.admit(lambda: waiting.popleft() if waiting else None)
                batch.step()
            for event in events:
                if isinstance(event, FailedEvent):
                    raise event.error
            yield events.copy()
            events.clear()

    @cached_property
    def widths(self) -> BatchWidths:
        """The widths of decoding steps, measured when the first answer is generated."""
        return decoding_widths(self.model, self.rows)

    @cached_property
    def _reader(self) -> PromptReader:
        return PromptReader(self.model)

    def _padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)

    def logits(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        """Logits in float32 of outputs of the last layer."""
        return head_logits(self.model, hidden)


def _jobs(builders: Sequence[CompletionBuilder], listener: Listener) -> list[Job]:
    """One job for each different prompt, so that it is read once."""
    by_prompt: dict[tuple[int, ...], list[CompletionBuilder]] = {}
    for builder in builders:
        by_prompt.setdefault(tuple(builder.prompt), []).append(builder)
    return [
        Job(GenerationRequest(prompt, answers=len(same)), same, listener, at=0.0) for prompt, same in by_prompt.items()
    ]
