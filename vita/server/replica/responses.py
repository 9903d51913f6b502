"""From the scheduler's events to the bodies that OpenAI's clients read: choices, log-probabilities, chunks, usage."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.content_filter import Guard
from vita.infer.request import Piece, Read, Scored

HOLD = 80
"""Characters at the end of a guarded stream that wait for what follows, since together they may be refused."""
STRIDE = 32
"""A guarded stream is looked at each time it has grown by so many characters."""
LOWEST = -9999.0
"""Stands for minus infinity, which JSON does not know."""
_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass
class Fresh:
    """What a choice may send: text with the tokens that it came of, and its end."""

    text: str
    scores: list[Scored]
    finish: str | None


@dataclass
class Choice:
    """One answer as its client sees it, behind the guard where there is one."""

    index: int
    tokenizer: Tokenizer
    guard: Guard | None = None
    text: str = ""
    """All that was said so far, sent or not."""
    scores: list[Scored] = field(default_factory=list)
    tokens: int = 0
    finish: str | None = None
    refused: bool = False
    _sent: int = 0
    _sent_scores: int = 0
    _looked: int = 0
    _reaches: list[int] = field(default_factory=list)
    """How far into the text the tokens of `scores` go, behind a guard."""
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: _utf8("replace"))
    _decoded: int = 0

    def take(self, piece: Piece) -> None:
        """One token more."""
        if self.finish:
            return
        self.tokens += 1
        self.text += piece.text
        self.scores.append(piece.scored)
        self.finish = piece.finish
        if self.guard is None:
            return
        self._reaches.append(self._reach(piece.scored.id))
        if piece.finish or len(self.text) - self._looked >= STRIDE:
            self._looked = len(self.text)
            if (refusal := self.guard.refuses_output(self.text)) is not None:
                # What was sent stays sent; otherwise the refusal is the answer.
                self.refused, self.finish = True, "content_filter"
                self.text, self.scores = (self.text[: self._sent] if self._sent else refusal), []
                self._sent_scores = 0

    def fresh(self) -> Fresh | None:
        """What may be sent now and was not; None when there is nothing."""
        until = len(self.text)
        if self.guard is not None and not self.finish:
            until = max(self._sent, self._looked - HOLD)
        if until == self._sent and not self.finish:
            return None
        text, self._sent = self.text[self._sent : until], until
        # What is held back of the text is held back of its tokens, too.
        told = len(self.scores) if self.guard is None or self.finish else bisect_right(self._reaches, until)
        scores, self._sent_scores = self.scores[self._sent_scores : told], told
        return Fresh(text, scores, self.finish)

    def _reach(self, token: int) -> int:
        """Where in the text the token's characters end; one that it only begins counts as said."""
        if token not in self.tokenizer.special_ids:
            self._decoded += len(self._decoder.decode(self.tokenizer.token_bytes(token)))
        return self._decoded + bool(self._decoder.getstate()[0])


def usage(prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, int]:
    """What was read and said, in tokens; the token that ended an answer counts, too."""
    said = sum(choice.tokens for choice in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": said, "total_tokens": prompt_tokens + said}


# -- log-probabilities


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token as text; `bytes:` and its bytes where they are no whole characters."""
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer: Tokenizer, scores: Sequence[Scored]) -> dict[str, Any]:
    """The form of /v1/chat/completions."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        data = list(tokenizer.token_bytes(token))
        return {"token": token_text(tokenizer, token), "logprob": max(logprob, LOWEST), "bytes": data}

    content = [
        {**one(scored.id, scored.logprob), "top_logprobs": [one(token, logprob) for token, logprob in scored.top]}
        for scored in scores
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """The form of /v1/completions; counts characters, so that each token's place in the text is known."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = _utf8("replace")
        self._at = 0

    def of(self, scores: Sequence[Scored | int], *, prompt: bool = False) -> dict[str, Any]:
        """The four lists; a bare id is the first token of a prompt, of which nothing can be said."""
        found: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for scored in scores:
            token = scored if isinstance(scored, int) else scored.id
            found["tokens"].append(token_text(self._tokenizer, token))
            found["text_offset"].append(self._at)
            found["token_logprobs"].append(None if isinstance(scored, int) else max(scored.logprob, LOWEST))
            found["top_logprobs"].append(None if isinstance(scored, int) else self._top(scored))
            # The names of special tokens stand in a prompt that is echoed, and never in an answer.
            if prompt or token not in self._tokenizer.special_ids:
                self._at += len(self._decoder.decode(self._tokenizer.token_bytes(token)))
        return found

    def _top(self, scored: Scored) -> dict[str, float]:
        """The likeliest and the chosen one, which may be one more than was asked for."""
        found: dict[str, float] = {}
        for token, logprob in (*scored.top, (scored.id, scored.logprob)):
            found.setdefault(token_text(self._tokenizer, token), max(logprob, LOWEST))
        return found


# -- bodies


class Body(ABC):
    """How the choices of one request are told, whole or in chunks."""

    def __init__(self, head: dict[str, Any], tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self.head, self.tokenizer, self.logprobs = head, tokenizer, logprobs

    def read(self, prompt: int, event: Read) -> None:
        """A prompt was read; most bodies do not tell of it."""
        return

    def closing(self, told: dict[str, int]) -> dict[str, Any]:
        """The chunk that tells the usage, when it was asked for."""
        return {**self.chunk_head, "choices": [], "usage": told}

    @property
    def chunk_head(self) -> dict[str, Any]:
        """What every chunk begins with."""
        return self.head

    @abstractmethod
    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The body of an answer that is not streamed."""

    @abstractmethod
    def opening(self, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
        """What a stream begins with."""

    @abstractmethod
    def chunks(self, choice: Choice, fresh: Fresh) -> Iterator[dict[str, Any]]:
        """What a stream goes on with."""


class Chat(Body):
    """The form of /v1/chat/completions."""

    @property
    def chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        told = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice.scores),
                "finish_reason": choice.finish,
            }
            for choice in choices
        ]
        return {**self.head, "choices": told}

    def opening(self, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
        for choice in choices:
            yield self._chunk(choice, {"role": "assistant", "content": ""})

    def chunks(self, choice: Choice, fresh: Fresh) -> Iterator[dict[str, Any]]:
        if fresh.text or (fresh.scores and self.logprobs):
            yield self._chunk(choice, {"content": fresh.text}, logprobs=self._logprobs(fresh.scores))
        if fresh.finish:
            yield self._chunk(choice, {}, finish=fresh.finish)

    def _chunk(self, choice: Choice, delta: dict[str, Any], *, logprobs: Any = None, finish: Any = None) -> Any:
        told = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self.chunk_head, "choices": [told]}

    def _logprobs(self, scores: Sequence[Scored]) -> dict[str, Any] | None:
        return chat_logprobs(self.tokenizer, scores) if self.logprobs else None


@dataclass
class Echo:
    """A prompt that stands before its answers."""

    text: str
    ids: Sequence[int]
    scores: Sequence[Scored] = ()


class Completions(Body):
    """The form of /v1/completions."""

    def __init__(
        self, head: dict[str, Any], tokenizer: Tokenizer, *, n: int, logprobs: bool, echoes: Sequence[Echo] | None
    ) -> None:
        super().__init__(head, tokenizer, logprobs=logprobs)
        self._n, self._echoes = n, echoes
        self._counts: dict[int, CompletionLogprobs] = {}

    def read(self, prompt: int, event: Read) -> None:
        if self._echoes is not None:
            self._echoes[prompt].scores = event.scores or ()

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        told = []
        for choice in choices:
            echo = self._echo(choice)
            lists = [*self._echoed(choice, echo), self._count(choice).of(choice.scores)] if self.logprobs else []
            logprobs = {name: [one for part in lists for one in part[name]] for name in lists[0]} if lists else None
            told.append(self._choice(choice, (echo.text if echo else "") + choice.text, logprobs, choice.finish))
        return {**self.head, "choices": told}

    def opening(self, choices: Sequence[Choice]) -> Iterator[dict[str, Any]]:
        for choice in choices:
            if (echo := self._echo(choice)) is not None:
                (logprobs,) = self._echoed(choice, echo) or [None]
                yield {**self.head, "choices": [self._choice(choice, echo.text, logprobs, None)]}

    def chunks(self, choice: Choice, fresh: Fresh) -> Iterator[dict[str, Any]]:
        logprobs = self._count(choice).of(fresh.scores) if self.logprobs else None
        yield {**self.head, "choices": [self._choice(choice, fresh.text, logprobs, fresh.finish)]}

    @staticmethod
    def _choice(choice: Choice, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
        return {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _echo(self, choice: Choice) -> Echo | None:
        """The prompt before a choice; not before a refusal, which answers nothing."""
        refused = choice.refused and choice.tokens == 0
        return None if self._echoes is None or refused else self._echoes[choice.index // self._n]

    def _echoed(self, choice: Choice, echo: Echo | None) -> list[dict[str, Any]]:
        if echo is None or not self.logprobs:
            return []
        return [self._count(choice).of([echo.ids[0], *echo.scores], prompt=True)]

    def _count(self, choice: Choice) -> CompletionLogprobs:
        return self._counts.setdefault(choice.index, CompletionLogprobs(self.tokenizer))
