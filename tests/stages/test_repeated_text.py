"""Repeated text within documents in the stage `curate`: cuts, their record, held-out documents and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_curate import drops, report, run, texts, write
from vita.data.curation.corpus import read_corpus
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.stages import curate

LINE = "This line occurs in the documents and is long enough."
SETTINGS = {"filters": [], "held_out": 0, "deduplicate": {"documents": "exact", "lines": True}}


def test_a_cut_document_keeps_its_id_and_records_the_ranges(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": f"Begin.\n{LINE}\n"},
        {"id": "b", "text": f"Ä.\n{LINE}\nMail ann@mail.net.", "metadata": {"year": 1}},
        {"id": "c", "text": f"{LINE}\n {LINE.upper()}"},
    ]
    draft = run(tmp_path, sources=[str(write(tmp_path / "in.jsonl", rows))], **SETTINGS)
    first, second = read_corpus(draft.folder, "train")
    assert (first.id, first.text) == ("a", rows[0]["text"]) and "cut" not in first.metadata
    # `Ä.` and its line end are three characters, and the line has 53 and its line end.
    masked_and_cut = {"masked": {"email": 1}, "cut": {"lines": [[3, 57]]}}
    assert second.metadata == {"year": 1, "language": "unknown", **masked_and_cut}
    assert (second.id, second.text) == ("b", "Ä.\nMail <EMAIL>.")
    assert drops(draft) == [("c", "repeated_text", "all of its text occurs in documents before it")]
    figures = report(draft)
    lines = figures["repeated_text"]["lines"]
    assert (lines["ranges"], lines["documents"], lines["bytes"]) == (3, 2, 54 + 54 + 54)
    assert {sample["text"] for sample in lines["samples"]} == {LINE}
    assert figures["documents"]["train"] == 2 and figures["documents"]["dropped"] == 1
    assert figures["bytes"]["train"] == len(first.text.encode()) + len(second.text.encode())


def test_text_of_held_out_documents_is_cut_from_training(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": f"{LINE}\nTraining."}, {"text": LINE + "\n"}])
    test = write(tmp_path / "test.jsonl", [{"text": f"{LINE}\n{LINE}\nTest."}])
    sources = {"train": str(train), "test": str(test)}
    draft = run(tmp_path, sources=sources, held_out_sources=["test"], **SETTINGS)
    assert texts(draft, "heldout") == [f"{LINE}\n{LINE}\nTest."], "held-out sources are never changed"
    assert texts(draft) == ["Training."]


def test_a_corpus_of_which_no_text_is_left_for_training_is_refused(tmp_path: Path) -> None:
    sources = {
        name: str(write(tmp_path / f"{name}.jsonl", [{"text": LINE + end}]))
        for name, end in (("a", ""), ("b", "\n\nX"))
    }
    with pytest.raises(Exception, match="held out"):
        run(tmp_path, sources=sources, held_out_sources=["b"], **SETTINGS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "message"),
    [({"lines": {"min_characters": 0}}, "min_characters"), ({"substrings": {"min_words": 4}}, "min_words")],
)
def test_lengths_below_the_minimum_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(curate.Config, {"sources": ["a"], "deduplicate": setting}, where="curate")


@pytest.mark.slow
def test_settings_of_repeated_text_that_are_off_do_not_change_the_identity() -> None:
    off = build(curate.Config, {"sources": ["a"], "deduplicate": {"lines": False}}, where="curate")
    assert off.deduplicate == build(curate.Config, {"sources": ["a"]}, where="curate").deduplicate
    assert off.deduplicate.repeats is None
