"""`vita deduplicate`: documents with equal embeddings are dropped, linked, and never kept beside held-out copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.corpora import rows, write
from tests.cli.models import save_chat_model
from tests.cli.test_cli import Vita, vita
from tests.server.test_text_endpoints import classifier_folder, embedding_folder

__all__ = ["vita"]

BEGINNING = "A letter of many words, of which the model reads the beginning alone. " * 6
TEXTS = [f"The {animal} sleeps in the {place}." for animal in ("cat", "dog", "owl", "cow") for place in ("barn", "sun")]


@pytest.fixture
def corpus(vita: Vita, tmp_path: Path) -> None:
    """Curate eight texts, the first of them three times, with held-out copies of the last."""
    letters = [
        {"id": f"d{n}", "text": text, "licence": "CC0"}
        for n, text in enumerate([*TEXTS[:7], BEGINNING + "Cat.", *TEXTS[:1] * 2])
    ]
    write(tmp_path / "mail" / "a.jsonl", *letters)
    write(tmp_path / "kept" / "b.jsonl", {"id": "h0", "text": BEGINNING + "Dog."})
    sources = "sources=[{path: mail, name: mail, repeat: 2}, {path: kept, name: kept}]"
    code, _, err = vita(
        "curate", "--set", sources, "--set", "filters=[]", "--set", "deduplicate=none",
        "--set", "held_out_sources=[kept]", "--held-out", "0", "--life", "x",
    )  # fmt: skip
    assert code == 0, err


@pytest.mark.usefixtures("corpus")
def test_documents_close_to_earlier_and_held_out_ones_are_dropped_with_a_link(vita: Vita, tmp_path: Path) -> None:
    save_chat_model(tmp_path / "model")
    arguments = ("deduplicate", "model", "--corpus", "x/curate", "--life", "x", "--threshold", "1", "--passages", "1")
    code, _, err = vita(*arguments)
    assert code == 0, err
    train = [row["id"] for row in rows(vita, "x/deduplicate")]
    assert train == 2 * [f"d{n}" for n in range(7)]
    assert [row["id"] for row in rows(vita, "x/deduplicate", "heldout")] == ["h0"]
    drops = {row["id"]: row for row in rows(vita, "x/deduplicate", "drops")}
    links = {id: tuple(row["repeats"].values()) for id, row in drops.items()}
    assert links == {"d7": ("kept", "h0"), "d8": ("mail", "d0"), "d9": ("mail", "d0")}
    assert {row["reason"] for row in drops.values()} == {"semantic"}
    assert "cosine 1.0000 with the held-out document h0 of kept" in drops["d7"]["detail"]
    page = (Path(json.loads(vita("show", "x/deduplicate", "--json")[1])["folder"]) / "report.md").read_text()
    assert "cosine 1.0000 with h0 of kept" in page and BEGINNING[:40] in page
    facts = json.loads(vita("show", "x/deduplicate", "--json")[1])["facts"]
    assert facts["documents"]["train"] == 7 and facts["documents"]["train_with_repeats"] == 14
    assert facts["dropped"] == {"semantic": 3} and facts["documents"]["dropped_for_held_out"] == 1


@pytest.mark.usefixtures("corpus")
def test_a_classifier_and_a_missing_model_are_refused(vita: Vita, tmp_path: Path) -> None:
    classifier_folder(tmp_path / "classifier")
    code, _, err = vita("deduplicate", "classifier", "--corpus", "x/curate", "--life", "x")
    assert code != 0 and "sequence classifier" in err
    code, _, err = vita("deduplicate", "--corpus", "x/curate", "--life", "x")
    assert code != 0 and "no model embeds the documents" in err


@pytest.mark.usefixtures("corpus")
def test_a_threshold_below_every_cosine_leaves_nothing_and_is_an_error(vita: Vita, tmp_path: Path) -> None:
    embedding_folder(tmp_path / "model")
    code, _, err = vita("deduplicate", "model", "--corpus", "x/curate", "--life", "x", "--threshold", "0.01")
    assert code != 0
    assert "every training document is close to an earlier or held-out document" in err and "raise `threshold`" in err
