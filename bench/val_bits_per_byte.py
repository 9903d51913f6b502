"""Bits per byte of any language model on a file of documents, with one protocol for all systems.

A system has two callables: `encode(text) -> ids` and `score(windows) -> nats`. Each document is encoded separately
and cut into windows of at most `context` tokens that do not overlap. Each window follows one opening token, and its
tokens are scored given the opening token and the tokens before them, so that every token is scored once, from its own
window only. The sum of nats over the documents, divided by ln 2 and by their UTF-8 bytes, does not depend on the
tokenizer.

    result = bits_per_byte(texts(path), encode=..., score=..., document=tokenizer.document, context=512)

    python -m bench.val_bits_per_byte --model FOLDER --documents val_visible.jsonl.zst
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zstandard

Opening = Literal["document", "carried"]
"""The token before a window: always the document token ("document"), or the document token before the first window
and the last token of the previous window before the others ("carried")."""

OPENINGS: tuple[Opening, ...] = ("document", "carried")

Score = Callable[[list[list[int]]], list[float]]
"""Windows -> total nats of `window[1:]` for each window, with each token given the tokens before it in its window."""


@dataclass(frozen=True)
class Result:
    """Bits per byte over all documents, with a 95% interval over documents (bootstrap, 1000 draws)."""

    bits_per_byte: float
    low: float
    high: float
    documents: int
    scored_tokens: int
    scored_bytes: int


def bits_per_byte(
    documents: Sequence[str],
    score: Score,
    *,
    encode: Callable[[str], Sequence[int]],
    document: int,
    context: int,
    opening: Opening = "document",
) -> Result:
    """Return the sum of nats / (ln 2 x UTF-8 bytes) of `documents` with `score`."""
    windows: list[list[int]] = []
    owners: list[int] = []
    for number, text in enumerate(documents):
        document_windows = list(cut_windows(list(encode(text)), document=document, context=context, opening=opening))
        windows += document_windows
        owners += [number] * len(document_windows)
    nats = np.zeros(len(documents))
    np.add.at(nats, owners, score(windows))
    sizes = np.array([len(text.encode()) for text in documents], dtype=np.float64)
    low, high = _bootstrap(nats, sizes)
    return Result(
        bits_per_byte=float(nats.sum() / (math.log(2) * sizes.sum())),
        low=low,
        high=high,
        documents=len(documents),
        scored_tokens=sum(len(window) - 1 for window in windows),
        scored_bytes=int(sizes.sum()),
    )


def cut_windows(
    ids: Sequence[int], *, document: int, context: int, opening: Opening = "document"
) -> Iterator[list[int]]:
    """Yield windows of an opening token and at most `context` of `ids`; together they contain every id once."""
    for start in range(0, len(ids), context):
        first = document if start == 0 or opening == "document" else ids[start - 1]
        yield [first, *ids[start : start + context]]


def texts(path: Path, *, limit: int | None = None) -> list[str]:
    """Return the `text` of the rows of a jsonl or jsonl.zst file, at most `limit` of them."""
    stream = zstandard.open(path, "rb") if path.suffix == ".zst" else path.open("rb")
    with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as file:
        return [json.loads(line)["text"] for _, line in zip(range(limit or 1 << 60), file, strict=False)]


def torch_score(logits_of: Callable[[Any], Any], *, rows: int = 16) -> Score:
    """Create a score function from a causal model `ids [B, T] -> logits [B, T, V]`.

    Windows of similar length form a batch; shorter windows are padded on the right, which a causal model does not
    attend to. Log-probabilities are computed in fp32 for every dtype of the model.
    """
    import torch

    def score(windows: list[list[int]]) -> list[float]:
        nats = [0.0] * len(windows)
        order = sorted(range(len(windows)), key=lambda i: len(windows[i]))
        for start in range(0, len(order), rows):
            batch = order[start : start + rows]
            longest = max(3, max(len(windows[i]) for i in batch))  # some models do not accept a single position
            ids = torch.zeros(len(batch), longest, dtype=torch.long)
            target_mask = torch.zeros(len(batch), longest - 1, dtype=torch.bool)
            for row, i in enumerate(batch):
                ids[row, : len(windows[i])] = torch.tensor(windows[i])
                target_mask[row, : len(windows[i]) - 1] = True
            with torch.inference_mode():
                logits = logits_of(ids[:, :-1]).float()
                losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            totals = (losses.view_as(target_mask).double() * target_mask).sum(1)
            for row, i in enumerate(batch):
                nats[i] = float(totals[row])
        return nats

    return score


def vita_model(folder: Path) -> tuple[Score, Callable[[str], Sequence[int]], int, int]:
    """Return the score function, the encoder, the document token and the context of a Vita model folder."""
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.nn import hf

    model, tokenizer = hf.load(folder).eval(), Tokenizer.load(folder)
    facts = folder / "vita.json"
    context = json.loads(facts.read_text())["context"] if facts.exists() else model.architecture.context
    return torch_score(model), tokenizer.encode, tokenizer.document, context


def _bootstrap(nats: np.ndarray, sizes: np.ndarray, *, draws: int = 1000) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(nats), size=(draws, len(nats)))
    values = nats[picks].sum(1) / (math.log(2) * sizes[picks].sum(1))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per byte of a Vita model folder on a file of documents.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--documents", type=Path, required=True, help="a jsonl or jsonl.zst with a `text` in each row")
    parser.add_argument("--context", type=int, help="window length; the context the model was trained with by default")
    parser.add_argument("--limit", type=int, help="only the first so many documents")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    score, encode, document, context = vita_model(arguments.model)
    documents = texts(arguments.documents, limit=arguments.limit)
    for opening in OPENINGS:
        result = bits_per_byte(
            documents, score, encode=encode, document=document, context=arguments.context or context, opening=opening
        )
        print(json.dumps({"system": "vita", "opening": opening} | asdict(result)))


if __name__ == "__main__":
    main()
