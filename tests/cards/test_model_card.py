"""The model card: recorded facts, missing facts, and the front matter for the Hugging Face hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cards.lives import EVIL, Life, first_half, second_half
from vita.cards.hub_metadata import front_matter
from vita.cards.model_card import Card, gather
from vita.cards.model_card_page import card_markdown, write
from vita.nn.families import write_config
from vita.spine.errors import StoreError
from vita.testing import tiny_architecture


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(tmp_path)


def _card(life: Life, digest: str) -> Card:
    return gather(life.ledger, life.store, digest)


def test_the_card_lists_missing_measurements(life: Life) -> None:
    text = card_markdown(_card(life, first_half(life)))
    assert "Measured: knowledge of the built-in world." in text
    assert "Not measured: held-out text;" in text
    assert "These weights were not attacked" in text
    assert "No gate has decided on these weights" in text
    assert "| accuracy on unseen questions | 98% (87% to 99.6%) | 40 | 2% (0.4% to 13%) |" in text


def test_the_card_lists_sources_licences_and_drops_of_the_lineage(life: Life) -> None:
    card = _card(life, first_half(life))
    assert [artifact.label for artifact in card.lineage] == [
        f"cat/{name}" for name in ("design", "curate", "tokenize", "pretrain", "sft")
    ]
    assert [(source.source, source.licence, source.tokens) for source in card.data] == [
        (EVIL, "CC0-1.0", 400),
        ("file ffffffffffff", "MIT", None),
    ]
    assert card.drops == {"duplicate": 10}
    assert card.licences == ["CC0-1.0", "MIT"]
    assert {row.figure: row.actual for row in card.plan}["tokens"] == "1,000"


def test_the_hub_reads_the_front_matter(life: Life) -> None:
    hub = pytest.importorskip("huggingface_hub")
    text = card_markdown(_card(life, first_half(life)))
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "cc0-1.0-and-mit")
    assert front["datasets"] == [] and "conversational" in front["tags"]
    hub_data = hub.ModelCard(text).data
    assert hub_data.model_name == "cat/sft"
    result = hub_data.eval_results[0]
    assert (result.metric_type, result.dataset_name, result.metric_value) == ("held_out/accuracy", "world", 0.975)


def test_a_missing_licence_is_unknown(life: Life) -> None:
    model = life.step("sft", "model", config={"sources": [{"path": "a.jsonl"}]})
    assert front_matter(_card(life, model))["license"] == "unknown"
    licensed_model = life.step(
        "sft", "model", config={"sources": [{"huggingface": "org/set", "licence": "Apache-2.0"}]}
    )
    front = front_matter(_card(life, licensed_model))
    assert (front["license"], front["datasets"]) == ("apache-2.0", ["org/set"])


def test_the_card_shows_attacks_gates_states_releases_feedback_and_successor(life: Life) -> None:
    chat = first_half(life)
    card = _card(life, second_half(life, chat))
    assert (card.state, card.successor) == ("retired", chat)
    assert card.feedback == {"thumbs up": 2, "thumbs down": 1}
    assert [release["version"] for release in card.releases] == ["1"]
    text = card_markdown(card)
    assert "attack success rate" in text and "waiver by Ada" in text and "cat:2" in text
    assert "verdict: waived" in text
    assert "|bar|" not in text.replace("\\|bar\\|", "")


def test_the_card_of_an_imported_model_states_that_its_origin_is_unknown(life: Life) -> None:
    model = life.step("kept", "model", stage="adopted")
    text = card_markdown(_card(life, model))
    assert "of unknown size" in text and "Unknown: no source is recorded in its lineage." in text


def test_the_card_is_written_as_markdown_html_and_json(life: Life, tmp_path: Path) -> None:
    write(_card(life, second_half(life, first_half(life))), tmp_path / "card")
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == ["README.md", "card.html", "card.json"]
    assert json.loads((tmp_path / "card" / "card.json").read_text())["state"] == "retired"
    assert "<script" not in (tmp_path / "card" / "card.html").read_text()


def test_an_artifact_that_is_not_a_model_has_no_card(life: Life) -> None:
    with pytest.raises(StoreError, match="expected a model, got a corpus"):
        _card(life, life.step("curate", "corpus"))


def test_the_card_of_a_classifier_and_of_an_embedding_model_names_their_task(life: Life) -> None:
    config = write_config(tiny_architecture())
    classes = ["Qwen3ForSequenceClassification"]
    classifier = life.step("classify", "model", files={"config.json": {**config, "architectures": classes}})
    embedding = life.step("contrastive", "model", files={"config.json": config})
    card = gather(life.ledger, life.store, classifier)
    assert front_matter(card)["pipeline_tag"] == "text-classification"
    assert "A text classifier with" in card_markdown(card) and "labels of texts like those" in card_markdown(card)
    card = gather(life.ledger, life.store, embedding)
    assert front_matter(card)["library_name"] == "sentence-transformers"
    assert "A text embedding model with" in card_markdown(card)
