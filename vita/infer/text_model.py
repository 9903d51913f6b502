"""Inference with models that read whole texts: classifiers, embedding models and masked-language models.

    model = TextModel.open(folder)
    model.embed(["A cat is a furry mammal."])                       # [1, width], of length 1
    model.classify([("A cat sleeps.", "An animal rests.")])         # [{"entailment": 0.9, "other": 0.1}]
    model.fill_mask("A cat is a furry [MASK].", top=5)

Texts of all kinds are computed together in batches: one pass through the layers, then the head of each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vita.data.tokens.text_encoding import EncodedText, TextEncoder
from vita.data.tokens.tokenizer import Tokenizer
from vita.infer.embedding_format import EmbeddingConfig, read_embedding_config
from vita.infer.pretrained import Pretrained
from vita.nn.classifier import ClassifierSpec, SequenceClassifier, is_classifier, read_spec
from vita.nn.pooling import pooled, text_states
from vita.nn.transformer import Transformer
from vita.spine.errors import DataError, ModelError
from vita.spine.model_files import ModelFiles, ModelFolder

# B batch, T position, D width, E numbers of an embedding, L label, M masked position, V vocabulary

Task = Literal["embedding", "classification", "masked"]


@dataclass(frozen=True)
class TextRequest:
    """A text in tokens, and what to compute for it."""

    text: EncodedText
    task: Task
    positions: tuple[int, ...] = ()
    """Positions of the masked tokens."""


class MaskedToken(NamedTuple):
    """A candidate for a masked token."""

    id: int
    probability: float


def model_task(folder: ModelFolder) -> Task | None:
    """Return the task of a model folder; None for a model that generates text."""
    files = ModelFiles.of(folder)
    if is_classifier(files):
        return "classification"
    if read_embedding_config(files) is not None:
        return "embedding"
    from vita.infer.pretrained import architecture_of

    return None if architecture_of(files).causal else "masked"


class TextModel:
    """A model that reads whole texts, with its tokenizer."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        embedding: EmbeddingConfig | None = None,
        labels: ClassifierSpec | None = None,
        device: str | torch.device = "cpu",
        tokens_at_once: int = 8192,
    ) -> None:
        self.model = model.to(device).eval()
        self.tokenizer, self.device, self.tokens_at_once = tokenizer, torch.device(device), tokens_at_once
        self.embedding, self.labels = embedding or EmbeddingConfig(), labels
        self.context, self.template = model.architecture.context, None
        self._encoders: dict[int, TextEncoder] = {}
        self.is_embedding_model = embedding is not None

    @classmethod
    def open(cls, folder: ModelFolder, *, device: str | torch.device = "cpu") -> TextModel:
        """Open the classifier, the embedding model or the language model of a folder.

        A language model without settings of embeddings has the mean of its outputs as embedding.
        """
        files = ModelFiles.of(folder)
        if is_classifier(files):
            pretrained: Pretrained[Any] = Pretrained.load_classifier(files, device=device, finite=False)
            return cls(pretrained.model, pretrained.tokenizer, labels=read_spec(files), device=device)
        pretrained = Pretrained.load(files, device=device, finite=False)
        return cls(pretrained.model, pretrained.tokenizer, embedding=read_embedding_config(files), device=device)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the model can do."""
        if self.labels is not None:
            return ("classification",)
        has_masked_head = not self.model.architecture.causal and self.mask_token is not None
        if self.is_embedding_model:
            return ("embedding",)
        return ("masked", "embedding") if has_masked_head else ("embedding",)

    @property
    def max_tokens(self) -> int:
        """Maximum tokens of a text, with its special tokens."""
        return min(self.context, self.embedding.length or self.context)

    @property
    def mask_token(self) -> int | None:
        """The id of the token for a masked word; None for a tokenizer without it."""
        return self.tokenizer.id_of(self.tokenizer.name_of("mask_token"))

    @property
    def uncut_encoder(self) -> TextEncoder:
        """Return an encoder that keeps one token more than the maximum, so that a text that is too long is noticed."""
        if 0 not in self._encoders:
            self._encoders[0] = TextEncoder(self.tokenizer, length=self.max_tokens + 1)
        return self._encoders[0]

    def encoder(self, length: int | None = None) -> TextEncoder:
        """Return the encoder of texts, which cuts them to `length` tokens, by default the maximum."""
        count = min(length or self.max_tokens, self.max_tokens)
        if count not in self._encoders:
            self._encoders[count] = TextEncoder(self.tokenizer, length=count)
        return self._encoders[count]

    # -- whole tasks

    def embed(self, texts: Sequence[str], *, dimensions: int | None = None) -> Float[Tensor, "B D"]:
        """Return the embeddings of texts, which are cut at the maximum length."""
        encoded = self.encoder().encode([(self.embedding.prompt + text,) for text in texts])
        rows = self.compute([TextRequest(text, "embedding") for text in encoded])
        return cut_embeddings(torch.stack(rows), dimensions) if rows else torch.zeros(0, self.model.architecture.width)

    def classify(self, texts: Sequence[Sequence[str]]) -> list[dict[str, float]]:
        """Return the scores of each label for texts or pairs: probabilities, or the number of a regression."""
        encoded = self.encoder().encode(texts)
        return [
            self.label_scores(row) for row in self.compute([TextRequest(text, "classification") for text in encoded])
        ]

    def fill_mask(self, text: str, *, top: int = 5) -> list[list[MaskedToken]]:
        """Return the most likely tokens for each masked token of a text."""
        request = self.masked_request(text)
        return masked_tokens(self.compute([request])[0], top=top)

    # -- requests

    def masked_request(self, text: str) -> TextRequest:
        """Return the request for the masked tokens of a text; raise a `DataError` for a text without any."""
        mask = self.mask_token
        if mask is None:
            raise ModelError("tokenizer", "has no `mask_token`")
        encoding = self.tokenizer.new_engine().encode(text, add_special_tokens=True)
        return self.masked_ids(encoding.ids)

    def masked_ids(self, ids: Sequence[int]) -> TextRequest:
        """Return the request for the masked tokens of a text in tokens."""
        positions = tuple(position for position, token in enumerate(ids) if token == self.mask_token)
        if not positions:
            name = self.tokenizer.name_of("mask_token")
            raise DataError("text", expected=f"at least one {name}", got="none")
        if len(ids) > self.context:
            raise DataError("text", expected=f"at most {self.context} tokens, the context", got=len(ids))
        return TextRequest(EncodedText(list(ids), [0] * len(ids)), "masked", positions)

    def label_scores(self, logits: Float[Tensor, "L"]) -> dict[str, float]:
        """Return the score of each label as the pipeline of transformers: softmax, sigmoid, or the number itself."""
        assert self.labels is not None
        problem, count = self.labels.problem, len(self.labels.labels)
        if problem == "regression":
            values = logits
        elif problem == "multi" or count == 1:
            values = logits.sigmoid()
        else:
            values = logits.softmax(-1)
        return dict(zip(self.labels.labels, values.tolist(), strict=True))

    # -- computation

    def compute(self, requests: Sequence[TextRequest]) -> list[Tensor]:
        """Return the result of each request: an embedding, logits of labels, or logits of masked tokens."""
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].text.ids))
        results: dict[int, Tensor] = {}
        while order:
            count = max(1, self.tokens_at_once // len(requests[order[0]].text.ids))
            batch, order = order[:count], order[count:]
            results |= zip(batch, self.compute_batch([requests[index] for index in batch]), strict=True)
        return [results[index] for index in range(len(requests))]

    @torch.inference_mode()
    def compute_batch(self, requests: Sequence[TextRequest]) -> list[Tensor]:
        """Compute requests in one pass, padded to the longest; numbers that are not finite are a `ModelError`."""
        ids, lengths, types = self._padded([request.text for request in requests])
        states = text_states(self.model, ids, lengths, types=types)
        by_task: dict[Task, list[int]] = {}
        for row, request in enumerate(requests):
            by_task.setdefault(request.task, []).append(row)
        results: dict[int, Tensor] = {}
        for task, rows in by_task.items():
            if task == "masked":
                results |= {row: self._masked_logits(states[row], requests[row].positions) for row in rows}
            else:
                values = self._head(task, states[rows], lengths[rows])
                results |= zip(rows, values.cpu(), strict=True)
        if not all(bool(value.isfinite().all()) for value in results.values()):
            raise ModelError("model", "computes numbers that are not finite", hint="its weights may hold NaN")
        return [results[row] for row in range(len(requests))]

    def _head(self, task: Task, states: Float[Tensor, "B T D"], lengths: Tensor) -> Tensor:
        if task == "embedding":
            vectors = pooled(states, lengths, self.embedding.pooling).float()
            return F.normalize(vectors, dim=-1) if self.embedding.normalize else vectors
        assert isinstance(self.model, SequenceClassifier)
        return self.model.head_logits(states, lengths)

    def _masked_logits(self, states: Float[Tensor, "T D"], positions: Sequence[int]) -> Float[Tensor, "M V"]:
        return self.model.head.logits(states[list(positions)]).float().cpu()

    def _padded(self, texts: Sequence[EncodedText]) -> tuple[Tensor, Tensor, Tensor]:
        lengths = [len(text.ids) for text in texts]
        ids = torch.full((len(texts), max(lengths)), self.tokenizer.pad, dtype=torch.int64)
        types = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids)
            types[row, : len(text.ids)] = torch.tensor(text.types)
        return ids.to(self.device), torch.tensor(lengths, device=self.device), types.to(self.device)


def cut_embeddings(vectors: Float[Tensor, "*B D"], dimensions: int | None) -> Float[Tensor, "*B E"]:
    """Return the first `dimensions` numbers of embeddings, scaled to length 1 (Kusupati et al. 2022)."""
    if dimensions is None or dimensions == vectors.shape[-1]:
        return vectors
    if not 0 < dimensions <= vectors.shape[-1]:
        raise DataError("dimensions", expected=f"1 to {vectors.shape[-1]}", got=dimensions)
    return F.normalize(vectors[..., :dimensions], dim=-1)


def masked_tokens(logits: Float[Tensor, "M V"], *, top: int) -> list[list[MaskedToken]]:
    """Return the most likely tokens of each masked position with their probabilities."""
    values, ids = logits.softmax(-1).topk(min(top, logits.shape[-1]), dim=-1)
    return [
        [MaskedToken(*pair) for pair in zip(tokens, probabilities, strict=True)]
        for tokens, probabilities in zip(ids.tolist(), values.tolist(), strict=True)
    ]
