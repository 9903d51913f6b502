"""The stage `test` for classifiers and embedding models, words in its report, and refusals of unsuitable steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.models import Vita, command_runner
from tests.stages.chat_models import PAIRS as PREFERENCES
from tests.stages.chat_models import context, create_chat_model, write_rows
from tests.stages.test_classify import TEXTS
from tests.stages.test_classify import run as run_classify
from tests.stages.test_contrastive import PAIRS
from tests.stages.test_contrastive import run as run_contrastive
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.stages import test
from vita.stages.kinds import Model


def run(model: Model, scratch: Path, *, initial: Model | None = None, **settings: Any) -> Any:
    inputs = test.Inputs(model, initial=initial)
    return test.run(build(test.Config, settings, where="test"), inputs, context(scratch))


@pytest.mark.slow
def test_a_classifier_is_measured_on_labelled_texts_for_a_gate(tmp_path: Path) -> None:
    source = write_rows(tmp_path, TEXTS, name="texts.jsonl")
    draft = run_classify(create_chat_model(tmp_path / "model"), tmp_path / "one", source, steps=20)
    model = Model("4" * 64, draft.folder, {})
    report = run(model, tmp_path / "two", labelled={"texts": source}, words=["y"], contexts={"mu": ["mu a", "b mu"]})
    content = json.loads((report.folder / "report.json").read_text())
    assert content["model"] == "4" * 64 and content["figures"]["classification"]["texts"]["accuracy"]["value"] > 0.9
    assert report.facts["texts/accuracy"] == content["figures"]["classification"]["texts"]["accuracy"]["value"]
    page = (report.folder / "report.md").read_text()
    assert "Confusion matrix" in page and "Nearest tokens" in page and "The word mu in context" in page
    with pytest.raises(ConfigError, match=r"test.labelled: is required for a classifier"):
        run(model, tmp_path / "two")


def test_embeddings_are_measured_on_pairs_with_the_tokens_before_training_beside(tmp_path: Path) -> None:
    source, initial = write_rows(tmp_path, PAIRS), create_chat_model(tmp_path / "model")
    draft = run_contrastive(initial, tmp_path / "one", source, steps=5)
    model = Model("5" * 64, draft.folder, {})
    report = run(model, tmp_path / "two", initial=initial, pairs={"pairs": source}, limit=60, words=["m"])
    figures = json.loads((report.folder / "report.json").read_text())["figures"]["embedding"]["pairs"]
    assert {"recall@1", "recall@10", "mrr"} <= figures.keys() and figures["recall@1"]["n"] == 60
    assert "| word | after | before |" in (report.folder / "report.md").read_text()
    with pytest.raises(ConfigError, match=r"test.labelled: expected a classifier"):
        run(model, tmp_path / "two", labelled={"texts": source})


@pytest.mark.slow
def test_steps_that_cannot_use_a_classifier_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vita: Vita = command_runner(capsys)
    create_chat_model(tmp_path / "model")
    texts = write_rows(tmp_path, TEXTS, name="texts.jsonl")
    pairs = write_rows(tmp_path, PREFERENCES, name="pairs.jsonl")
    for step, reason in {
        f"dpo: {{sources: [{pairs}]}}": "it is a sequence classifier, which assigns labels to texts",
        "test: {}": "it is a classifier, which needs `labelled`",
        f"contrastive: {{sources: [{pairs}]}}": "it is a sequence classifier, and not a language model",
        "merge: {}": "it is a sequence classifier, and not a language model",
    }.items():
        stages = f"  classify: {{sources: [{texts}], inputs: {{model: model}}}}\n  {step}\n"
        (tmp_path / "life.yaml").write_text(f"name: labels\nstages:\n{stages}")
        code, _, err = vita("plan", "life.yaml")
        assert code == 2 and reason in " ".join(err.split()), err
