"""Drop training documents whose embedding is close to that of an earlier document or of a held-out document.

The embeddings are those of a model of the store, such as the result of `contrastive`. A document has the mean of the
embeddings of its passages. Equal and nearly equal texts are dropped by `curate`; this stage finds texts that say the
same in other words.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from vita.data.curation.corpus import TextShardWriter, ZstdLineWriter, dump_document, dump_drop, read_corpus
from vita.data.curation.filter_stats import DocumentCount
from vita.data.curation.semantic_duplicates import NearestKept, nearest_kept
from vita.data.records import Document, DroppedRecord
from vita.data.tokens.token_counts import text_bytes
from vita.nn.requirements import has_no_classifier
from vita.reporting.charts import histogram
from vita.reporting.figures import ReportContent
from vita.reporting.page import Figure, write_report_pages
from vita.spine.config import Settings
from vita.spine.disk import write_atomically
from vita.spine.erasures import NOT_STATED
from vita.spine.errors import DataError
from vita.spine.stage import Context, Draft, explicit_only
from vita.stages.kinds import Corpus, Model

if TYPE_CHECKING:
    from vita.infer.text_model import TextModel

VERSION = 2
NEEDS = {"model": (has_no_classifier,)}

_CHUNK_DOCUMENTS = 512
"""Documents whose embeddings are stored together; a run that is killed computes one chunk again."""
_CHARACTERS_PER_TOKEN = 3
"""Characters of a passage for each token that the model reads; a longer rest of a passage is cut."""
_NUM_SAMPLES, _SAMPLE_CHARACTERS = 20, 600
_THRESHOLDS = (0.99, 0.97, 0.95, 0.9, 0.85, 0.8, 0.7)


class Config(Settings):
    """The threshold, and the passages of long documents."""

    threshold: float = Field(0.95, gt=0, le=1)
    """Smallest cosine with an earlier document at which a document is dropped. It depends on the model: compare the
    samples and the histogram of the report."""
    passages: int = Field(8, ge=1)
    """Largest number of passages of a document that are embedded, spread evenly over the document."""


@dataclass(frozen=True)
class Inputs:
    corpus: Corpus
    model: Model | None = explicit_only()
    """The model that embeds the documents: an embedding model, or any language model, whose mean output is used."""


@dataclass
class _Part:
    """The distinct documents of a part of the corpus, and its figures."""

    sources: dict[str, DocumentCount] = field(default_factory=dict)
    """Kept documents of each source, without copies."""
    licences: dict[str, DocumentCount] = field(default_factory=dict)
    copies: int = 0
    """Kept documents with the copies of repeated ones."""

    def add(self, document: Document) -> None:
        """Count a document that is kept."""
        size = text_bytes(document.text)
        self.sources.setdefault(document.source, DocumentCount()).add(size)
        self.licences.setdefault(document.licence or "not stated", DocumentCount()).add(size)

    @property
    def total(self) -> DocumentCount:
        """Return the kept documents of all sources."""
        counts = self.sources.values()
        return DocumentCount(sum(count.documents for count in counts), sum(count.bytes for count in counts))


def input_problem(config: Config, slots: Collection[str]) -> str | None:
    """Return the reason why the inputs do not suit the settings."""
    return None if "model" in slots else "no model embeds the documents: set the input `model`"


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Corpus]:
    """Embed all documents, find those close to an earlier one, and write the others."""
    from vita.infer.text_model import TextModel

    assert inputs.model is not None, "a plan without a model is refused"
    model = TextModel.open(inputs.model.path, device=context.machine.device)
    rows = list(_identities(inputs.corpus.path))
    held_out = sum(part == "heldout" for part, _ in rows)
    embeddings = _embeddings(inputs.corpus.path, model, config, context, total=len(rows))
    nearest = nearest_kept(embeddings, threshold=config.threshold, references=held_out)
    folder = context.draft_folder()
    parts, samples = _write(inputs.corpus.path, folder, rows, nearest)
    if not parts["train"].sources:
        hint = "raise `threshold`, or use another model: this one gives all texts nearly equal embeddings"
        raise DataError("deduplicate", "every training document is close to an earlier or held-out document", hint=hint)
    report = _report(config, inputs.model, parts, nearest, held_out)
    kept = {other for _, _, other in samples}
    texts = {
        identity: document.text
        for _, document in _distinct(inputs.corpus.path)
        if (identity := (document.source, document.id)) in kept
    }
    _write_report(report, samples, nearest, texts, folder)
    facts = {name: report[name] for name in ("documents", "bytes", "licences", "threshold")}
    sources = {name: counts["train"] for name, counts in report["sources"].items()}
    return Draft(Corpus, folder, {**facts, "dropped": {"semantic": report["documents"]["dropped"]}, "sources": sources})


_PARTS: tuple[Literal["heldout", "train"], ...] = ("heldout", "train")
_Identity = tuple[str, str]


def _distinct(corpus: Path) -> Iterator[tuple[str, Document]]:
    """Yield (part, document) without further copies of repeated documents, the held-out documents first."""
    for part in _PARTS:
        seen: set[_Identity] = set()
        for document in read_corpus(corpus, part):
            identity = document.source, document.id
            if identity not in seen:
                seen.add(identity)
                yield part, document


def _identities(corpus: Path) -> Iterator[tuple[str, _Identity]]:
    return ((part, (document.source, document.id)) for part, document in _distinct(corpus))


def _embeddings(
    corpus: Path, model: TextModel, config: Config, context: Context, *, total: int
) -> Float32[np.ndarray, "N D"]:
    """Return the embeddings of the distinct documents, of length 1; chunks of an earlier run are read again."""
    chunks: list[Float32[np.ndarray, "C D"]] = []
    batch: list[Document] = []

    def finish() -> None:
        path = context.scratch / "embeddings" / f"{len(chunks):06d}.float32"
        if not path.exists():
            vectors = _embed(model, [document.text for document in batch], config.passages)
            write_atomically(path, vectors.tobytes())
        chunks.append(np.frombuffer(path.read_bytes(), np.float32).reshape(len(batch), -1))
        batch.clear()
        context.emit("progress", done=sum(map(len, chunks)), total=total, unit="documents", doing="embedding")

    for _, document in _distinct(corpus):
        batch.append(document)
        if len(batch) == _CHUNK_DOCUMENTS:
            finish()
    if batch:
        finish()
    return np.concatenate(chunks)


def _embed(model: TextModel, texts: Sequence[str], passages: int) -> Float32[np.ndarray, "B D"]:
    """Return the mean embedding of the passages of each text, of length 1."""
    size = _CHARACTERS_PER_TOKEN * model.max_tokens
    pieces = [_passages(text, size, passages) for text in texts]
    embeddings = model.embed(list(itertools.chain.from_iterable(pieces))).double().cpu()
    means = [rows.mean(0) for rows in embeddings.split([len(parts) for parts in pieces])]
    return np.stack([(mean / mean.norm().clamp(min=1e-12)).float().numpy() for mean in means])


def _passages(text: str, size: int, most: int) -> list[str]:
    """Return at most `most` passages of `size` characters, spread evenly over a text."""
    count = min(most, max(1, -(-len(text) // size)))
    last = max(0, len(text) - size)
    starts = [round(last * number / max(1, count - 1)) for number in range(count)]
    return [text[start : start + size] for start in starts]


def _write(
    corpus: Path, folder: Path, rows: list[tuple[str, _Identity]], nearest: NearestKept
) -> tuple[dict[str, _Part], list[tuple[float, Document, _Identity]]]:
    """Write the kept documents and the drops; return the figures of the parts, and dropped documents as samples."""
    parts: dict[str, _Part] = {part: _Part() for part in _PARTS}
    samples: list[tuple[float, Document, _Identity]] = []
    row = -1
    with ZstdLineWriter(folder / "drops.jsonl.zst") as drops:
        for part in _PARTS:
            (folder / part).mkdir()
            figures, keeps = parts[part], dict[_Identity, bool]()
            with TextShardWriter(folder / part) as writer:
                for document in read_corpus(corpus, part):
                    identity = document.source, document.id
                    if identity not in keeps:
                        row += 1
                        keeps[identity] = not nearest.dropped[row]
                        if nearest.dropped[row]:
                            other = rows[nearest.index[row]]
                            drops.write(dump_drop(_drop(document, float(nearest.cosine[row]), other)))
                            samples.append((float(nearest.cosine[row]), document, other[1]))
                            samples = _spread(samples)
                        else:
                            figures.add(document)
                    if keeps[identity]:
                        figures.copies += 1
                        writer.write(dump_document(document))
    return parts, samples


def _drop(document: Document, cosine: float, other: tuple[str, _Identity]) -> DroppedRecord:
    part, (source, id) = other
    kind = "the held-out document" if part == "heldout" else "the document"
    detail = f"cosine {cosine:.4f} with {kind} {id} of {source}"
    licence = document.licence or NOT_STATED
    return DroppedRecord(document.id, document.source, "semantic", detail, (source, id), licence=licence)


def _spread(samples: list[tuple[float, Document, _Identity]]) -> list[tuple[float, Document, _Identity]]:
    """Return samples spread over the cosines: of too many, one of the two closest ones is left out."""
    if len(samples) <= _NUM_SAMPLES:
        return samples
    ordered = sorted(samples, key=lambda sample: sample[0])
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(ordered)]
    closest = int(np.argmin(gaps))
    return [*ordered[: closest + 1], *ordered[closest + 2 :]]


# -- the report


def _report(
    config: Config, model: Model, parts: dict[str, _Part], nearest: NearestKept, held_out: int
) -> dict[str, Any]:
    cosines = nearest.cosine[held_out:]
    train, heldout = parts["train"], parts["heldout"]
    return {
        "threshold": config.threshold,
        "model": model.digest,
        "documents": {
            "read": len(nearest.cosine),
            "dropped": int(nearest.dropped.sum()),
            "dropped_for_held_out": int((nearest.dropped & (nearest.index < held_out)).sum()),
            "train": train.total.documents,
            "train_with_repeats": train.copies,
            "held_out": held_out,
        },
        "bytes": {"train": train.total.bytes, "held_out": heldout.total.bytes},
        "above": {str(value): round(float((cosines >= value).mean()), 6) for value in _THRESHOLDS},
        "dropped": {"semantic": {"documents": int(nearest.dropped.sum())}},
        "licences": {
            name: _plain(train.licences.get(name), heldout.licences.get(name))
            for name in sorted({*train.licences, *heldout.licences})
        },
        "sources": {
            name: {"train": _plain(train.sources.get(name)), "held_out": _plain(heldout.sources.get(name))}
            for name in sorted({*train.sources, *heldout.sources})
        },
    }


def _plain(*counts: DocumentCount | None) -> dict[str, int]:
    present = [count for count in counts if count]
    return {name: sum(getattr(count, name) for count in present) for name in ("documents", "bytes")}


def _write_report(
    report: dict[str, Any],
    samples: list[tuple[float, Document, _Identity]],
    nearest: NearestKept,
    texts: Mapping[_Identity, str],
    folder: Path,
) -> None:
    documents = report["documents"]
    lead = f"{documents['dropped']:,} of {documents['read']:,} documents were dropped, because their embedding has a "
    lead += f"cosine of at least {report['threshold']:g} with an earlier or a held-out document."
    chart = histogram([float(value) for value in nearest.cosine if value > -1], x="cosine with the nearest document")
    caption = "Documents by their cosine with the nearest earlier document that was kept."
    pages = {
        "Cosines": [Figure("semantic-cosines", chart, caption)],
        "Samples": [
            {
                "prompt": document.text[:_SAMPLE_CHARACTERS],
                "how": f"cosine {cosine:.4f} with {other[1]} of {other[0]}",
                "text": texts[other][:_SAMPLE_CHARACTERS],
            }
            for cosine, document, other in sorted(samples, key=lambda sample: sample[0])
        ],
    }
    write_report_pages(
        ReportContent.of("deduplicate", details=report), folder, title="Documents in other words", lead=lead,
        content=pages,
    )  # fmt: skip
