"""The stage `tokenize`: written shards and report, determinism, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.stages import tokenize
from vita.stages.kinds import Corpus, Model, Tokens
from vita.testing import byte_tokenizer

TEXTS = [f"The cat number {i} sat on mat {i * 7}; naïve 猫 said “miau” and slept.\n" * (1 + i % 5) for i in range(40)]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path / "corpus", train=TEXTS, heldout=TEXTS[:3])


def write_corpus(folder: Path, *, languages: list[str] | None = None, **splits: list[str]) -> Corpus:
    for split, texts in splits.items():
        (folder / split).mkdir(parents=True)
        rows = [
            {
                "id": f"{split}-{i}",
                "text": text,
                "source": "odd" if i % 2 else "even",
                "licence": "CC0",
                "metadata": {"language": languages[i]} if languages else {},
            }
            for i, text in enumerate(texts)
        ]
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        (folder / split / "part-00000.jsonl.zst").write_bytes(zstandard.compress(data))
    return Corpus("0" * 64, folder)


def test_the_report_has_the_figures_of_each_language(tmp_path: Path) -> None:
    texts = {"en": "The cat sat on the mat. " * 40, "ru": "Кошка сидела на ковре. " * 4}
    corpus = write_corpus(tmp_path / "corpus", train=list(texts.values()), languages=list(texts))
    characters = {}
    for temperature in (1, 4):
        folder = run(corpus, tmp_path / f"scratch{temperature}", vocabulary=283, language_temperature=temperature)
        tokenizer = Tokenizer.load(folder / "tokenizer")
        languages = json.loads((folder / "report.json").read_text())["details"]["train"]["languages"]
        for language, text in texts.items():
            tokens = len(tokenizer.encode(text))
            assert languages[language]["tokens_per_word"] == round(tokens / len(text.split()), 6)
            assert languages[language]["characters_per_token"] == round(len(text) / tokens, 6)
        characters[temperature] = {name: row["characters_per_token"] for name, row in languages.items()}
    assert characters[4]["ru"] > characters[1]["ru"]
    assert characters[4]["en"] < characters[1]["en"]


def run(corpus: Corpus, scratch: Path, *, model: Model | None = None, emit: Any = None, **settings: Any) -> Path:
    """Tokenize a corpus and return the folder of the draft."""
    scratch.mkdir()
    config = build(tokenize.Config, {"vocabulary": 300, **settings}, where="tokenize")
    context = Context(scratch, emit or (lambda event, **fields: None), Machine(threads=2))
    draft = tokenize.run(config, tokenize.Inputs(corpus, model), context)
    assert draft.kind is Tokens and context.record["learning_seconds"] >= 0
    assert draft.facts["train_tokens"] == Shards.open(draft.folder / "train").tokens
    return draft.folder


def test_every_document_follows_its_document_token_in_the_shards(corpus: Corpus, tmp_path: Path) -> None:
    folder = run(corpus, tmp_path / "scratch", shard_tokens=1000)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    assert tokenizer.vocabulary == 300
    for split, texts in (("train", TEXTS), ("heldout", TEXTS[:3])):
        shards = Shards.open(folder / split)
        shards.verify()
        assert shards.documents == len(texts) and shards.tokenizer == tokenizer.digest
        for i, text in enumerate(texts):
            start, stop = shards.starts[i : i + 2].tolist()
            first, *document_ids = shards.read(start, stop).tolist()
            assert first == tokenizer.document and tokenizer.decode(document_ids) == text
            (span,) = shards.documents_between(start, stop)
            assert (span.id, span.source, span.licence) == (f"{split}-{i}", "odd" if i % 2 else "even", "CC0")


def test_the_report_counts_by_source(corpus: Corpus, tmp_path: Path) -> None:
    folder = run(corpus, tmp_path / "scratch")
    report = json.loads((folder / "report.json").read_text())["details"]
    tokenizer, train = Tokenizer.load(folder / "tokenizer"), report["train"]
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    size, words = sum(len(text.encode()) for text in TEXTS), sum(len(text.split()) for text in TEXTS)
    assert (train["all"]["tokens"], train["all"]["bytes"], train["all"]["documents"]) == (tokens, size, 40)
    assert train["all"]["bytes_per_token"] == round(size / tokens, 6)
    assert train["all"]["tokens_per_word"] == round(tokens / words, 6)
    assert train["all"]["round_trip"] == 1 and train["all"]["checked"] == 40
    assert set(train["sources"]) == {"even", "odd"} and train["stream_tokens"] == tokens + 40
    assert report["tokenizer"]["vocabulary"] == 300 and 0 < report["tokenizer"]["used"] < 300
    page = (folder / "report.md").read_text()
    assert "A vocabulary of 300 tokens, trained on this corpus." in page
    assert "| odd | 20 |" in page and "| all round trip | 1 |" in page


def test_the_same_corpus_gives_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    folders = [run(corpus, tmp_path / name) for name in ("a", "b")]
    names = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    for name in names[0]:
        if (folders[0] / name).is_file():
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_tokenizer_is_trained_on_a_bounded_sample_of_the_corpus(tmp_path: Path) -> None:
    """With a sample of a sixteenth, words of the first and last documents still become tokens."""
    texts = ["zebra " * 20_000, "plain " * 140_000, "yacht " * 20_000]
    folder = run(
        write_corpus(tmp_path / "corpus", train=texts), tmp_path / "scratch", sample_bytes=2**16, vocabulary=274
    )
    tokenizer = Tokenizer.load(folder / "tokenizer")
    assert len(tokenizer.encode(" zebra")) == len(tokenizer.encode(" yacht")) == 1


def test_the_tokenizer_of_a_model_is_used_unchanged(corpus: Corpus, tmp_path: Path) -> None:
    byte_tokenizer().save(tmp_path / "model")
    notes = []
    folder = run(corpus, tmp_path / "scratch", model=Model("1" * 64, tmp_path / "model"),
                 emit=lambda event, **fields: notes.append(fields.get("text")))  # fmt: skip
    assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (
        tmp_path / "model" / "tokenizer.json"
    ).read_bytes()
    assert Shards.open(folder / "train").tokens == sum(len(text.encode()) + 1 for text in TEXTS)
    assert "uses the model's own tokenizer of 259 tokens" in notes
    assert "the model's own" in (folder / "report.md").read_text()


def test_progress_is_reported_in_bytes_up_to_the_total(corpus: Corpus, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run(corpus, tmp_path / "scratch", emit=lambda event, **fields: events.append({"event": event, **fields}))
    total = sum(len(text.encode()) for text in TEXTS)
    assert {"event": "progress", "done": total, "total": total, "unit": "bytes"} in events


def test_a_corpus_that_cannot_support_the_vocabulary_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lower `vocabulary` by at least"):
        run(corpus, tmp_path / "scratch", vocabulary=5000)


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the corpus holds no text to train on"):
        run(write_corpus(tmp_path / "corpus", train=[], heldout=[]), tmp_path / "scratch")


def test_a_vocabulary_smaller_than_the_bytes_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenize\.vocabulary"):
        run(corpus, tmp_path / "scratch", vocabulary=100)
