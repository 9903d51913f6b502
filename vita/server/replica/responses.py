"""Converts events of the scheduler to response bodies of the OpenAI API: choices, log-probabilities, chunks, usage."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.content_filter import ContentFilter
from vita.infer.request import PromptEvent, TokenEvent, TokenScore
from vita.server.replica.answer_parts import AnswerParts
from vita.server.replica.reasoning_tokens import ReasoningTokens

HOLD = 80
"""Number of characters at the end of a filtered stream that are held back until the following text is checked."""
STRIDE = 32
"""A filtered stream is checked each time it has grown by this number of characters."""
LOWEST = -9999.0
"""Replaces minus infinity, which JSON cannot represent."""
_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass
class ChoiceDelta:
    """The new part of a choice: text, scored tokens and finish reason."""

    text: str
    scores: list[TokenScore]
    finish: str | None


@dataclass
class ResponseChoice:
    """One completion as its client sees it, after the content filter."""

    index: int
    tokenizer: Tokenizer
    guard: ContentFilter | None = None
    visible: frozenset[int] = frozenset()
    """Special tokens whose names belong to the text."""
    reasoning: ReasoningTokens | None = None
    """The count of the tokens of the reasoning, in a chat."""
    text: str = ""
    """The whole text so far, sent or not; at first the text that the grammar of the answer forces."""
    scores: list[TokenScore] = field(default_factory=list)
    tokens: int = 0
    finish: str | None = None
    stop: str | None = None
    """The stop text that ended the completion."""
    refused: bool = False
    _sent: int = 0
    _sent_scores: int = 0
    _checked: int = 0
    _reaches: list[int] = field(default_factory=list)
    """End position in the text of each token of `scores`; used with a content filter."""
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: _utf8("replace"))
    _decoded: int = 0

    def __post_init__(self) -> None:
        self._decoded = len(self.text)

    def take(self, event: TokenEvent) -> None:
        """Add a token."""
        if self.finish:
            return
        self.tokens += 1
        if self.reasoning is not None:
            self.reasoning.take(event.text)
        self.text += event.text
        self.scores.append(event.score)
        self.finish, self.stop = event.finish, event.stop
        if self.guard is None:
            return
        self._reaches.append(self._reach(event.score.id))
        if event.finish or len(self.text) - self._checked >= STRIDE:
            self._checked = len(self.text)
            if (refusal := self.guard.refuses_output(self.text)) is not None:
                # Text that was sent cannot be withdrawn; otherwise the refusal replaces the completion.
                self.refused, self.finish, self.stop = True, "content_filter", None
                self.text, self.scores = (self.text[: self._sent] if self._sent else refusal), []
                self._sent_scores = 0

    def take_delta(self) -> ChoiceDelta | None:
        """Return the part that can be sent now; None when there is none."""
        until = len(self.text)
        if self.guard is not None and not self.finish:
            until = max(self._sent, self._checked - HOLD)
        if until == self._sent and not self.finish:
            return None
        text, self._sent = self.text[self._sent : until], until
        # Tokens of text that is held back are held back also.
        sent_scores = len(self.scores) if self.guard is None or self.finish else bisect_right(self._reaches, until)
        scores, self._sent_scores = self.scores[self._sent_scores : sent_scores], sent_scores
        return ChoiceDelta(text, scores, self.finish)

    def _reach(self, token: int) -> int:
        """Return the end position of a token in the text; an incomplete character counts as one."""
        if token not in self.tokenizer.special_ids or token in self.visible:
            self._decoded += len(self._decoder.decode(self.tokenizer.token_bytes(token)))
        return self._decoded + bool(self._decoder.getstate()[0])


def usage(prompt_tokens: int, choices: Sequence[ResponseChoice], *, reused_tokens: int = 0) -> dict[str, Any]:
    """Count prompt, completion and reasoning tokens; the token that ends a completion counts."""
    completion_tokens = sum(choice.tokens for choice in choices)
    total = prompt_tokens + completion_tokens
    reasoning = [choice.reasoning.count for choice in choices if choice.reasoning is not None]
    return {
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": reused_tokens},
        **({"completion_tokens_details": {"reasoning_tokens": sum(reasoning)}} if reasoning else {}),
    }  # fmt: skip


# -- log-probabilities


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as text; `bytes:` and its bytes if they are not whole characters."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, scores: Sequence[TokenScore]) -> dict[str, Any]:
    """The format of /v1/chat/completions."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        data = list(tokenizer.token_bytes(token))
        return {"token": token_text(tokenizer, token), "logprob": max(logprob, LOWEST), "bytes": data}

    content = [
        {**entry(score.id, score.logprob), "top_logprobs": [entry(token, logprob) for token, logprob in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """Log-probabilities in the format of /v1/completions, with the position of each token in the text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = _utf8("replace")
        self._at = 0

    def of(self, scores: Sequence[TokenScore | int], *, prompt: bool = False) -> dict[str, Any]:
        """Return the four lists; a plain id is the first token of a prompt, which has no log-probability."""
        lists: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for score in scores:
            token = score if isinstance(score, int) else score.id
            lists["tokens"].append(token_text(self._tokenizer, token))
            lists["text_offset"].append(self._at)
            lists["token_logprobs"].append(None if isinstance(score, int) else max(score.logprob, LOWEST))
            lists["top_logprobs"].append(None if isinstance(score, int) else self._top(score))
            # Names of special tokens are in an echoed prompt, but never in a completion.
            if prompt or token not in self._tokenizer.special_ids:
                self._at += len(self._decoder.decode(self._tokenizer.token_bytes(token)))
        return lists

    def _top(self, score: TokenScore) -> dict[str, float]:
        """Return the most likely tokens and the sampled one, which can be one more than requested."""
        lists: dict[str, float] = {}
        for token, logprob in (*score.top, (score.id, score.logprob)):
            lists.setdefault(token_text(self._tokenizer, token), max(logprob, LOWEST))
        return lists


# -- bodies


class ResponseBody(ABC):
    """Formats the choices of one request, complete or in chunks."""

    def __init__(self, head: dict[str, Any], tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self.head, self.tokenizer, self.logprobs = head, tokenizer, logprobs

    def read(self, prompt: int, event: PromptEvent) -> None:
        """Handle the end of the prefill of a prompt; most formats ignore it."""
        return

    def closing(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk with the token usage."""
        return {**self.chunk_head, "choices": [], "usage": usage}

    @property
    def chunk_head(self) -> dict[str, Any]:
        """Fields of every chunk."""
        return self.head

    @abstractmethod
    def complete(self, choices: Sequence[ResponseChoice]) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""

    @abstractmethod
    def opening(self, choices: Sequence[ResponseChoice]) -> Iterator[dict[str, Any]]:
        """Yield the first chunks of a stream."""

    @abstractmethod
    def chunks(self, choice: ResponseChoice, delta: ChoiceDelta) -> Iterator[dict[str, Any]]:
        """Yield the chunks for a new part of a choice."""


class ChatBody(ResponseBody):
    """The format of /v1/chat/completions."""

    def __init__(self, head: dict[str, Any], tokenizer: Tokenizer, *, logprobs: bool, answers: AnswerParts) -> None:
        super().__init__(head, tokenizer, logprobs=logprobs)
        self.answers = answers

    @property
    def chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def complete(self, choices: Sequence[ResponseChoice]) -> dict[str, Any]:
        return {**self.head, "choices": [self._entry(choice) for choice in choices]}

    def _entry(self, choice: ResponseChoice) -> dict[str, Any]:
        entry = {
            "index": choice.index,
            "message": self.answers.message(choice.index, choice.text, refused=choice.refused),
            "logprobs": self._logprobs(choice.scores),
            "finish_reason": self.answers.finish(choice.index, choice.finish),
            **_stop_reason(choice),
        }
        order = self.answers.order(choice.index)
        return entry if order is None else {**entry, "parts": order}

    def opening(self, choices: Sequence[ResponseChoice]) -> Iterator[dict[str, Any]]:
        for choice in choices:
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def chunks(self, choice: ResponseChoice, delta: ChoiceDelta) -> Iterator[dict[str, Any]]:
        last = bool(delta.finish)
        parts = list(self.answers.deltas(choice.index, delta.text, last=last, refused=choice.refused))
        scores = self._logprobs(delta.scores) if delta.scores else None
        if scores and not parts:
            parts = [{"content": ""}]
        for number, part in enumerate(parts):
            yield self._chunk(choice, part, logprobs=scores if number == 0 else None)
        if delta.finish:
            yield self._chunk(choice, {}, finish=self.answers.finish(choice.index, delta.finish))

    def _chunk(self, choice: ResponseChoice, delta: dict[str, Any], *, logprobs: Any = None, finish: Any = None) -> Any:
        entry = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self.chunk_head, "choices": [{**entry, **(_stop_reason(choice) if finish else {})}]}

    def _logprobs(self, scores: Sequence[TokenScore]) -> dict[str, Any] | None:
        return chat_logprobs(self.tokenizer, scores) if self.logprobs else None


def _stop_reason(choice: ResponseChoice) -> dict[str, Any]:
    """Return the field `stop_reason` of a choice that a stop text ended, as vLLM has it."""
    return {} if choice.stop is None else {"stop_reason": choice.stop}


@dataclass
class Echo:
    """A prompt that is returned before its completions."""

    text: str
    ids: Sequence[int]
    scores: Sequence[TokenScore] = ()


class CompletionsBody(ResponseBody):
    """The format of /v1/completions."""

    def __init__(
        self, head: dict[str, Any], tokenizer: Tokenizer, *, n: int, logprobs: bool, echoes: Sequence[Echo] | None
    ) -> None:
        super().__init__(head, tokenizer, logprobs=logprobs)
        self._n, self._echoes = n, echoes
        self._counts: dict[int, CompletionLogprobs] = {}

    def read(self, prompt: int, event: PromptEvent) -> None:
        if self._echoes is not None:
            self._echoes[prompt].scores = event.scores or ()

    def complete(self, choices: Sequence[ResponseChoice]) -> dict[str, Any]:
        entries = []
        for choice in choices:
            echo = self._echo(choice)
            lists = [*self._echoed(choice, echo), self._count(choice).of(choice.scores)] if self.logprobs else []
            logprobs = {name: [value for part in lists for value in part[name]] for name in lists[0]} if lists else None
            entries.append(self._choice(choice, (echo.text if echo else "") + choice.text, logprobs, choice.finish))
        return {**self.head, "choices": entries}

    def opening(self, choices: Sequence[ResponseChoice]) -> Iterator[dict[str, Any]]:
        for choice in choices:
            if (echo := self._echo(choice)) is not None:
                (logprobs,) = self._echoed(choice, echo) or [None]
                yield {**self.head, "choices": [self._choice(choice, echo.text, logprobs, None)]}

    def chunks(self, choice: ResponseChoice, delta: ChoiceDelta) -> Iterator[dict[str, Any]]:
        logprobs = self._count(choice).of(delta.scores) if self.logprobs else None
        yield {**self.head, "choices": [self._choice(choice, delta.text, logprobs, delta.finish)]}

    @staticmethod
    def _choice(choice: ResponseChoice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        stop_reason = _stop_reason(choice) if finish else {}
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish, **stop_reason}

    def _echo(self, choice: ResponseChoice) -> Echo | None:
        """Return the prompt before a choice; None before a refusal."""
        refused = choice.refused and choice.tokens == 0
        return None if self._echoes is None or refused else self._echoes[choice.index // self._n]

    def _echoed(self, choice: ResponseChoice, echo: Echo | None) -> list[dict[str, Any]]:
        if echo is None or not self.logprobs:
            return []
        return [self._count(choice).of([echo.ids[0], *echo.scores], prompt=True)]

    def _count(self, choice: ResponseChoice) -> CompletionLogprobs:
        return self._counts.setdefault(choice.index, CompletionLogprobs(self.tokenizer))
