"""Models of the request bodies of endpoints that read whole texts: rerank, classify and fill-mask.

`/v1/rerank` has the fields of Cohere and Jina, `/v1/classify` those of vLLM.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from vita.server.request_body import RequestBody

MAX_TEXTS = 2048
"""Maximum number of texts of a request, as in the OpenAI API."""
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
User = Annotated[str | None, Field(max_length=512)]


class RerankDocument(RequestBody):
    """A document of a rerank request."""

    text: str = Field(min_length=1)


class RerankRequest(RequestBody):
    """POST /v1/rerank."""

    unsupported = {"rank_fields": (), "max_chunks_per_doc": ()}

    model: ModelName
    """The name of the model."""
    query: str = Field(min_length=1)
    """The query with which the documents are compared."""
    documents: Annotated[list[str | RerankDocument], Field(fail_fast=True, min_length=1, max_length=MAX_TEXTS)]
    """The documents: texts, or objects with `text`."""
    top_n: int | None = Field(default=None, ge=1)
    """Number of results; by default all documents."""
    return_documents: bool = False
    """Return the text of each document also."""
    max_tokens_per_doc: int | None = Field(default=None, ge=1)
    """Tokens after which a document is cut; by default it is cut where the query with it fills the context."""
    user: User = None
    """Identifier of the end user, for the records of the service."""

    @field_validator("documents")
    @classmethod
    def _not_empty(cls, value: list[Any]) -> list[Any]:
        if any(not document for document in value):
            raise ValueError("an empty document cannot be ranked")
        return value

    @property
    def texts(self) -> list[str]:
        """The texts of the documents."""
        return [document if isinstance(document, str) else document.text for document in self.documents]


class TextPairInput(RequestBody):
    """A text or a pair of texts to classify."""

    text: str = Field(min_length=1)
    text_pair: str | None = None


class ClassifyRequest(RequestBody):
    """POST /v1/classify."""

    model: ModelName
    """The name of the model."""
    input: str | TextPairInput | Annotated[list[str | TextPairInput], Field(min_length=1, max_length=MAX_TEXTS)]
    """A text, an object with `text` and `text_pair`, or a list of either."""
    user: User = None
    """Identifier of the end user, for the records of the service."""

    @field_validator("input")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if any(text == "" for text in (value if isinstance(value, list) else [value])):
            raise ValueError("an empty text cannot be classified")
        return value

    @property
    def inputs(self) -> list[tuple[str, ...]]:
        """The texts and pairs as a list."""
        values = self.input if isinstance(self.input, list) else [self.input]
        return [
            (value,)
            if isinstance(value, str)
            else (value.text,)
            if value.text_pair is None
            else (value.text, value.text_pair)
            for value in values
        ]


class FillMaskRequest(RequestBody):
    """POST /v1/fill-mask."""

    model: ModelName
    """The name of the model."""
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_TEXTS)]
    """A text with one or more mask tokens, or a list of such texts."""
    top_k: int = Field(default=5, ge=1, le=1000)
    """Number of most likely tokens for each mask."""
    user: User = None
    """Identifier of the end user, for the records of the service."""

    @property
    def inputs(self) -> list[str]:
        """The texts as a list."""
        return self.input if isinstance(self.input, list) else [self.input]
