"""The stage `classify`: texts, pairs, several classes and numbers, with the same logits in transformers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.chat_models import context, create_chat_model, notes, write_rows
from tests.stages.test_encoders import save_with_tokenizer
from tests.stages.test_pretrain import file_contents
from vita.data.tokens.text_encoding import TextEncoder
from vita.infer.pretrained import Pretrained
from vita.nn.classifier import SequenceClassifier
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.stages import classify
from vita.stages.kinds import Model

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne", "so", "li", "pa", "du", "fe", "wo")
TEXTS = [{"sentence": f"{a} {b} {'yes' if good else 'no'}", "label": int(good)}
         for a in WORDS for b in WORDS for good in (True, False)]  # fmt: skip


def run(model: Model, scratch: Path, *sources: str, events: list[Any] | None = None, **settings: Any) -> Any:
    values = {"sources": sources, "precision": "float32", "batch_size": 16, "learning_rate": 3e-3, **settings}
    config = build(classify.Config, values, where="classify")
    return classify.run(config, classify.Inputs(model), context(scratch, events))


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report/report.json").read_text())["figures"]["classification"]["heldout"]


def vita_logits(folder: Path, *texts: tuple[str, ...]) -> torch.Tensor:
    opened = Pretrained.load_classifier(folder)
    encoded = TextEncoder(opened.tokenizer, length=opened.model.architecture.context).encode(texts)
    rows = [
        opened.model.logits(torch.tensor([text.ids]), torch.tensor([len(text.ids)]), types=torch.tensor([text.types]))
        for text in encoded
    ]
    return torch.cat(rows).detach()


@pytest.mark.slow
def test_a_classifier_beats_the_majority_and_the_pipeline_of_transformers_gives_its_probabilities(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    events: list[Any] = []
    source = write_rows(tmp_path, TEXTS, name="texts.jsonl")
    names = ["negative", "positive"]
    draft = run(
        create_chat_model(tmp_path / "model"), tmp_path / "scratch", source, events=events, epochs=2, labels=names
    )
    measured = figures(draft.folder)
    assert measured["accuracy"]["value"] > 0.9 > measured["majority_accuracy"]["high"]
    assert measured["accuracy_gain"]["low"] > 0 and measured["accuracy"]["n"] == draft.facts["heldout_texts"]
    assert {"f1", "mcc", "macro_f1"} <= measured.keys() and draft.facts["accuracy"] == measured["accuracy"]["value"]
    page = (draft.folder / "report/report.md").read_text()
    assert "Confusion matrix" in page and "predicted positive" in page
    config = json.loads((draft.folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    classifier = transformers.pipeline("text-classification", model=str(draft.folder), dtype=torch.float32, top_k=None)
    texts = ["mu ba yes", "wo wo no", "something longer, with <|im_end|> inside"]
    for text, answers in zip(texts[:2], classifier(texts[:2], batch_size=2), strict=True):
        expected = vita_logits(draft.folder, (text,)).softmax(-1)[0]
        for answer in answers:
            assert answer["score"] == pytest.approx(expected[names.index(answer["label"])].item(), abs=1e-5)


def test_pairs_in_a_table_with_named_columns_are_told_apart(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["left", "right", "relation"])
        table.writerows([a, b, "same" if a == b else "other"] for a in WORDS for b in (a, WORDS[-1]) for _ in range(2))
    columns: dict[str, Any] = {"text_column": "left", "pair_column": "right", "label_column": "relation"}
    model = create_chat_model(tmp_path / "model")
    draft = run(model, tmp_path / "scratch", str(tmp_path / "pairs.csv"), steps=2, **columns)
    tokenizer = transformers.AutoTokenizer.from_pretrained(draft.folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(draft.folder, dtype=torch.float32)
    inputs = tokenizer(["mu", "a longer text"], ["ba", "wo"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    torch.testing.assert_close(
        vita_logits(draft.folder, ("mu", "ba"), ("a longer text", "wo")), expected, atol=1e-4, rtol=1e-4
    )
    assert theirs.config.id2label == {0: "other", 1: "same"}
    assert not torch.equal(vita_logits(draft.folder, ("mu", "ba")), vita_logits(draft.folder, ("muba",)))


@pytest.mark.slow
def test_numbers_are_a_regression_and_lists_have_several_classes(tmp_path: Path) -> None:
    model = create_chat_model(tmp_path / "model")
    scored = [{"text": "yes " * (count % 5 + 1) + str(count), "score": count % 5 / 2} for count in range(60)]
    draft = run(model, tmp_path / "one", write_rows(tmp_path, scored, name="scored.jsonl"), epochs=6)
    measured = figures(draft.folder)
    assert draft.facts["problem"] == "regression" and measured["pearson"]["value"] > 0.5
    assert measured["squared_error"]["value"] < measured["baseline_squared_error"]["value"]
    assert json.loads((draft.folder / "config.json").read_text())["problem_type"] == "regression"
    topics = [{"text": f"{a} {b}", "labels": [a, b]} for a in WORDS[:4] for b in WORDS[:4] if a < b] * 3
    draft = run(model, tmp_path / "two", write_rows(tmp_path, topics, name="topics.jsonl"), steps=2, eval_fraction=0.3)
    assert draft.facts["problem"] == "multi" and draft.facts["classes"] == 4 and "micro_f1" in figures(draft.folder)


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, TEXTS, name="texts.jsonl")
    settings = {"steps": 6, "checkpoint_seconds": 0.0}
    first = run(model, tmp_path / "one", source, **settings)
    events: list[Any] = []
    resumed = run(model, tmp_path / "one", source, events=events, **settings)
    assert "resumes after step 6" in notes(events)
    other = run(model, tmp_path / "two", source, steps=6)
    assert file_contents(first.folder) == file_contents(resumed.folder) == file_contents(other.folder)


def test_an_adapter_keeps_its_labels_and_a_classifier_continues_with_its_head(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, TEXTS, name="texts.jsonl")
    adapter = {"type": "lora", "rank": 4, "target_modules": "all-linear"}
    draft = run(model, tmp_path / "one", source, steps=4, adapter=adapter, labels=["no", "yes"])
    (draft.folder.parent / model.digest).symlink_to(model.path)  # as in a store
    opened = Pretrained.load_classifier(draft.folder)
    assert opened.model.score.weight.shape == (2, 32) and opened.model.score.weight.abs().sum() > 0
    adapted, head = Model("6" * 64, draft.folder, {}), {"steps": 2, "trained_parameters": "head"}
    with pytest.raises(ConfigError, match="head cannot train a model with an adapter; set `adapter: none` to merge it"):
        run(adapted, tmp_path / "four", source, **head)
    merged = run(adapted, tmp_path / "five", source, adapter="none", labels=["no", "yes"], **head)
    assert Pretrained.load_classifier(merged.folder).model.score.weight.shape == (2, 32)
    events: list[Any] = []
    full = run(model, tmp_path / "two", source, steps=2)
    again = Model("3" * 64, full.folder, {})
    run(again, tmp_path / "three", source, steps=2, events=events)
    assert "the head of the initial classifier continues" in notes(events)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoder", "modernbert"])
def test_a_linear_classifier_learns_on_fixed_outputs(tmp_path: Path, name: str) -> None:
    if name == "decoder":
        model = create_chat_model(tmp_path / "model")
    else:
        save_with_tokenizer(name, tmp_path / "model")
        model = Model("5" * 64, tmp_path / "model", {})
    names = [
        f"{a} {b}" for a in ("warm", "furry", "street", "number", "kettle") for b in ("the", "of", "and", "it", "on")
    ]
    rows = [{"sentence": f"{name} {('house', 'cat')[label]}", "label": label} for name in names for label in (0, 1)]
    source = write_rows(tmp_path, rows, name="texts.jsonl")
    settings: dict[str, Any] = {"trained_parameters": "head", "learning_rate": "auto", "eval_fraction": 0.3}
    draft = run(model, tmp_path / "scratch", source, epochs=15, **settings)
    assert figures(draft.folder)["accuracy_gain"]["low"] > 0
    initial = SequenceClassifier.of(Pretrained.load(model.path).model, outputs=2, pooling=draft.facts["pooling"])
    before = dict(initial.named_parameters())
    for key, weight in Pretrained.load_classifier(draft.folder).model.named_parameters():
        assert torch.equal(weight, before[key]) != key.startswith("score."), key


def test_held_out_files_are_not_trained_on(tmp_path: Path) -> None:
    train, test = write_rows(tmp_path, TEXTS, name="a.jsonl"), write_rows(tmp_path, TEXTS[:20], name="b.jsonl")
    draft = run(create_chat_model(tmp_path / "model"), tmp_path / "scratch", train, heldout_sources=[test], steps=1)
    assert draft.facts["heldout_texts"] == 20 and draft.facts["dropped_held_out_text"] == 20
    assert draft.facts["texts"] == len(TEXTS) - 20


def test_mistakes_are_refused_with_the_reason(tmp_path: Path) -> None:
    model = create_chat_model(tmp_path / "model")
    unlabelled = write_rows(tmp_path, [{"sentence": "mu", "label": -1}] * 3 + TEXTS[:1], name="hidden.jsonl")
    with pytest.raises(DataError, match="a label in the column `label`"):
        run(model, tmp_path / "s", unlabelled)
    with pytest.raises(DataError, match="two classes or more"):
        run(model, tmp_path / "s", write_rows(tmp_path, TEXTS[:1] * 5, name="one.jsonl"), eval_fraction=0)
    with pytest.raises(DataError, match="name them with `text_column`, `label_column`"):
        run(model, tmp_path / "s", write_rows(tmp_path, [{"words": "mu", "kind": "a"}], name="odd.jsonl"))
    source = write_rows(tmp_path, TEXTS, name="texts.jsonl")
    with pytest.raises(ConfigError, match=r"classify.labels: does not contain the class `1`"):
        run(model, tmp_path / "s", source, labels=["yes"])
    with pytest.raises(ConfigError, match=r"classify.pooling: expected last, as the classifier of qwen3"):
        run(model, tmp_path / "s", source, pooling="mean")
    with pytest.raises(ConfigError, match=r"`trained_parameters: head` trains only the output layer"):
        run(model, tmp_path / "s", source, trained_parameters="head", adapter="lora")
