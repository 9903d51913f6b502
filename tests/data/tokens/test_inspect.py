"""Display of tokens, training targets and truncation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from vita.data.records import Document
from vita.data.tokens import inspect
from vita.data.tokens.chat_template import CHATML, ChatTemplate
from vita.data.tokens.shards import write_shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import ConfigError, DataError
from vita.testing import byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a tokens artifact of two documents, whose tokenizer is also used for files."""
    tokenizer = byte_tokenizer()
    tokenizer.save(tmp_path / "tokens" / "tokenizer")
    rows = [(Document(name, text, "s"), np.array(tokenizer.encode(text))) for name, text in (("a", "hi\n"), ("b", "é"))]
    write_shards(tmp_path / "tokens" / "train", rows, vocabulary=259, document=tokenizer.document,
                 tokenizer=tokenizer.digest)  # fmt: skip
    return tmp_path / "tokens"


def test_a_dialogue_is_shown_with_its_targets_and_truncation(folder: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo\t"}]}
    (tmp_path / "chat.jsonl").write_bytes(orjson.dumps(row) + b"\n")
    legend, heading, text = inspect.examples(tmp_path / "chat.jsonl", tokenizer=folder / "tokenizer", count=1)
    assert "«learnt»" in legend.plain
    assert "dialogue" in heading.plain and heading.plain.endswith("26 tokens, 4 learnt")
    assert text.plain.endswith("t│⏎\n«y│o│\\t│<|im_end|>»⏎\n")
    targets = [text.plain[span.start : span.end] for span in text.spans if span.style == inspect.LEARNED]
    assert targets == ["«", "y", "o", "\\t", "»"]
    _, heading, text = inspect.examples(
        tmp_path / "chat.jsonl", tokenizer=folder / "tokenizer", count=1, reading=inspect.EncodingDefaults(length=24)
    )
    assert heading.plain.endswith("26 tokens, cut to 24 (2 left out), 3 learnt") and text.plain.endswith("«y│o│\\t»")
    _, heading = inspect.examples(
        tmp_path / "chat.jsonl", tokenizer=folder / "tokenizer", count=1, reading=inspect.EncodingDefaults(length=4)
    )
    assert "26 tokens, dropped: cut at 4 tokens before their answer began; raise `max_length`" in heading.plain


def test_the_chat_template_of_the_model_is_used(folder: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}
    (tmp_path / "chat.jsonl").write_bytes(orjson.dumps(row) + b"\n")
    ChatTemplate("!" + CHATML).save(folder / "tokenizer")
    *_, text = inspect.examples(tmp_path / "chat.jsonl", tokenizer=folder / "tokenizer", count=1)
    assert text.plain.startswith("!│<|im_start|>│u")


def test_a_token_stream_shows_rows_with_their_documents(folder: Path) -> None:
    _, *lines = (
        text.plain
        for text in inspect.examples(folder, tokenizer=None, count=2, reading=inspect.EncodingDefaults(length=5))
    )
    assert lines == [
        "tokens 0 to 5 of 7, from a, b",
        "«<|endoftext|>│h│i│⏎\n│<|endoftext|>»",
        "tokens 5 to 7 of 7, from b",
        "«\\xc3│\\xa9»",
    ]


def test_documents_are_shown_if_a_file_has_no_dialogues(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("a\u200bb")
    _, heading, text = inspect.examples(
        tmp_path / "page.txt", tokenizer=folder / "tokenizer", count=1, reading=inspect.EncodingDefaults(length=3)
    )
    assert "document" in heading.plain and "6 tokens, cut to 3 (3 left out)" in heading.plain
    assert text.plain == "<|endoftext|>«a│\\xe2»"


def test_a_corpus_is_shown_by_its_training_part(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "train").mkdir(parents=True)
    (tmp_path / "corpus" / "train" / "00000.jsonl").write_bytes(b'{"id": "x", "text": "ab", "source": "s"}\n')
    (tmp_path / "corpus" / "drops.jsonl").write_bytes(b'{"id": "y", "reason": "short"}\n')
    _, heading, text = inspect.examples(
        tmp_path / "corpus", tokenizer=folder / "tokenizer", count=3, reading=inspect.EncodingDefaults(length=9)
    )
    assert heading.plain == "document x from s: 3 tokens" and text.plain == "<|endoftext|>«a│b»"


def test_invisible_characters_are_escaped() -> None:
    tokenizer = Tokenizer.train(["\u200b\u200b \u200b"] * 3, vocabulary=261)
    assert inspect.tokens(tokenizer.encode("\u200b"), tokenizer, learn=[False]).plain == "\\u200b"


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text("a")
    with pytest.raises(ConfigError, match="needs a tokenizer; name a model"):
        list(
            inspect.examples(tmp_path / "page.txt", tokenizer=None, count=1, reading=inspect.EncodingDefaults(length=3))
        )


def test_a_tokenizer_other_than_that_of_the_shards_is_refused(folder: Path, tmp_path: Path) -> None:
    Tokenizer.train(["ab ab"], vocabulary=260).save(tmp_path / "other")
    with pytest.raises(DataError, match="was written with another tokenizer"):
        list(
            inspect.examples(folder, tokenizer=tmp_path / "other", count=1, reading=inspect.EncodingDefaults(length=3))
        )
