"""A completion, and its construction token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.detokenizer import TextStream
from vita.infer.sampling import Sampling

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Completion:
    """The answer of the model to a prompt."""

    text: str
    ids: tuple[int, ...]
    """The chosen tokens, including the one that ended the answer."""
    finish: Finish
    """`stop` at a stop text or a token that ends answers, `length` at `max_tokens` or a full context."""
    logprobs: tuple[float, ...]
    """The model's log-probability of each chosen token, before temperature and filters."""


class CompletionBuilder:
    """A completion while its tokens arrive."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        tokenizer: Tokenizer,
        *,
        limit: int,
        visible: frozenset[int] = frozenset(),
    ) -> None:
        """`limit` is the most tokens of the answer; `visible` are special tokens whose names belong to its text."""
        self.prompt, self.sampling = prompt, sampling
        self.finish: Finish | None = None
        self.new_text = ""
        """The text that the last token added."""
        self._tokenizer, self._limit = tokenizer, limit
        self._hidden = tokenizer.special_ids - visible
        self._stream = TextStream(sampling.stop)
        self._ids: list[int] = []
        self._logprobs: list[float] = []
        self._text: list[str] = []

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens until now."""
        return tuple(self._ids)

    @property
    def stop(self) -> str | None:
        """The stop text that ended the answer."""
        return self._stream.stop

    @property
    def remaining(self) -> int:
        """The number of tokens until the limit."""
        return self._limit - len(self._ids)

    def append(self, token: int, logprob: float, *, data: bytes | None = None) -> None:
        """Append a token; `finish` is set if it ends the answer. `data` are its bytes, by default those of its id."""
        self._ids.append(token)
        self._logprobs.append(logprob)
        if token in self._hidden:
            self.new_text = ""
        else:
            self.new_text = self._stream.push(self._tokenizer.token_bytes(token) if data is None else data)
        if token in self._tokenizer.stops or self._stream.stopped:
            self.finish = "stop"
        elif len(self._ids) == self._limit:
            self.finish = "length"
        if self.finish:
            self.new_text += self._stream.finish()
        if self._stream.stopped:
            self.finish = "stop"
        self._text.append(self.new_text)

    def completion(self) -> Completion:
        """The finished completion."""
        assert self.finish is not None
        return Completion("".join(self._text), tuple(self._ids), self.finish, tuple(self._logprobs))
