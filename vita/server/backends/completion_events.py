"""Models of the responses of `/v1/completions`, whose values have exactly the types of the OpenAI API.

    choice = single_choice(event)           # raises `ValidationError` for a response of another form

A value of another type is an error and is not converted: the text "5" is no number, and `true` is no token id. Fields
that are not read may have any value, because endpoints add fields of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Byte = Annotated[int, Field(ge=0, le=255)]
TokenId = Annotated[int, Field(ge=0)]


class ResponsePart(BaseModel):
    """A part of a response of an endpoint. Errors do not quote its values, which can be texts of users."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class TokenCandidate(ResponsePart):
    """A token in the format of llama.cpp; its id, its bytes or its text names it."""

    id: TokenId | None = None
    token: str | None = None
    bytes: list[Byte] | None = None
    logprob: float | None = None

    @model_validator(mode="after")
    def _names_a_token(self) -> Self:
        if self.id is None and not self.bytes and self.token is None:
            raise ValueError("a token has no `id`, no `bytes` and no `token`")
        return self


class TokenEntry(TokenCandidate):
    """A token of the answer with the most likely tokens at its position."""

    top_logprobs: list[TokenCandidate] | None = None


class Logprobs(ResponsePart):
    """The log-probabilities of tokens: `content` in the format of llama.cpp, or lists in that of OpenAI."""

    content: list[TokenEntry] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None

    @model_validator(mode="after")
    def _has_equal_lengths(self) -> Self:
        for values in (self.token_logprobs, self.top_logprobs):
            if values and len(values) != len(self.tokens or ()):
                raise ValueError("the lists of tokens and of log-probabilities have different lengths")
        return self


class CompletionChoice(ResponsePart):
    """The part of the only answer in one response or event."""

    index: Annotated[int, Field(ge=0, le=0)] = 0
    """The number of the answer; a request asks for one."""
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class _Completion(ResponsePart):
    choices: Annotated[list[CompletionChoice], Field(max_length=1)] | None = None


class EmbeddingRow(ResponsePart):
    """The embedding of one text."""

    index: Annotated[int, Field(ge=0, le=0)] = 0
    embedding: Annotated[list[float], Field(min_length=1)]


class EmbeddingResponse(ResponsePart):
    """The response of `/v1/embeddings` to one text."""

    data: Annotated[list[EmbeddingRow], Field(min_length=1, max_length=1)]


def single_choice(event: Mapping[str, Any]) -> CompletionChoice | None:
    """Return the only choice of a response; None for an event without one, such as that of the usage.

    Raises `pydantic.ValidationError` for values of other types than in the OpenAI API, and for several choices.
    """
    choices = _Completion.model_validate(event).choices
    return choices[0] if choices else None
