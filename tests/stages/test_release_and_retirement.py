"""The stages `release`, `refine` and `retire`: pinned files, training pairs from feedback, and restored archives."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_sft import create_model
from vita.cards.restore import restore
from vita.data.feedback import FeedbackRecord, write_feedback
from vita.data.records import Message
from vita.data.sources.read import Source, preferences
from vita.data.tokens.chat_template import ChatTemplate
from vita.gates.services import state_of
from vita.nn import int8
from vita.spine.config import build
from vita.spine.errors import DataError, ModelError, PlanError, StoreError
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.spine.store import Store
from vita.stages import refine, retire
from vita.stages import release as release_stage
from vita.stages.kinds import Feedback, Model, Release


def context(folder: Path) -> Context:
    folder.mkdir(exist_ok=True)
    return Context(folder, lambda event, **fields: None, Machine(), [{"stage": "sft", "config": {"seed": 0}}])


def model(folder: Path) -> Model:
    sft_model = create_model(folder)
    ChatTemplate.default().save(folder)
    return sft_model


def release(folder: Path, released_model: Model, **settings: Any) -> Release:
    draft = release_stage.run(
        build(release_stage.Config, {"version": "1", **settings}, where="release"),
        release_stage.Inputs(released_model),
        context(folder),
    )
    return Release("e" * 64, draft.folder, draft.facts)


@pytest.fixture(autouse=True)
def signing_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VITA_SIGNING_KEY", str(tmp_path / "key.pem"))


@pytest.mark.slow
def test_a_release_pins_every_file_and_contains_golden_answers(tmp_path):
    cat_release = release(tmp_path / "scratch", model(tmp_path / "model"), name="cat", version="2", max_batch_size=3)
    manifest = json.loads((cat_release.path / "release.json").read_text())
    assert set(manifest["files"]) == {f"model/{path.name}" for path in (tmp_path / "model").iterdir()}
    assert (manifest["name"], manifest["version"], manifest["model"], manifest["limits"]["max_batch_size"]) == (
        "cat",
        "2",
        "2" * 64,
        3,
    )
    assert len(manifest["golden"]) == len(release_stage.GOLDEN)
    assert all(len(answer["greedy"]) <= 32 and answer["logprob"] <= 0 for answer in manifest["golden"])


@pytest.mark.skipif(not int8.has_exact_products(), reason="no exact 8-bit products on this processor")
@pytest.mark.slow
def test_a_release_with_quantized_weights_is_compared_with_its_golden_answers(tmp_path):
    backend = {"program": "vita", "quantization": "int8", "tolerance": 0.5}
    source = model(tmp_path / "model")
    quantized = release(tmp_path / "scratch", source, name="cat", version=None, backend=backend)
    assert quantized.facts["version"] == f"{source.digest[:8]}-int8" and quantized.facts["quantization"] == "int8"
    assert 0 < quantized.facts["golden_difference"] < 0.5
    assert json.loads((quantized.path / "release.json").read_text())["backend"] == backend
    with pytest.raises(ModelError, match="int8 weights change the answers of this model"):
        release(tmp_path / "strict", source, name="cat", backend={**backend, "tolerance": 1e-9})
    config = build(release_stage.Config, {"backend": backend}, where="release")
    problem = release_stage.unsupported(config, {"model": {"causal": False}})
    assert problem is not None and "leave out `quantization`" in problem


@pytest.mark.slow
def test_a_release_is_recorded_once_and_stays_approved(tmp_path):
    ledger, approved_model = Ledger(tmp_path / "ledger.db"), model(tmp_path / "model")
    ledger.move(approved_model.digest, "approved", who="Ada", why="a test")
    first_release = release(tmp_path / "scratch", approved_model, name="cat")
    for _ in range(2):
        release_stage.record(first_release, release_stage.Inputs(approved_model), ledger)
    assert [move.state for move in ledger.moves(approved_model.digest)] == ["approved", "approved"]
    assert state_of(ledger, approved_model.digest) == "approved"
    assert ledger.named("release/cat:1") == first_release.digest
    second_release = Release("d" * 64, first_release.path, first_release.facts)
    release_stage.record(second_release, release_stage.Inputs(approved_model), ledger)
    assert [move.details["release"] for move in ledger.moves(approved_model.digest)[1:]] == [
        first_release.digest,
        second_release.digest,
    ]


def feedback_record(number: int, prompt: str, **changes: Any) -> FeedbackRecord:
    fields = {"value": 1.0, "consent": True, "who": "user", "rejected": "A bad cat.", "answer": "A cat.", **changes}
    return FeedbackRecord(f"f{number}", "vote", f"r{number}", "m" * 64, (Message("user", prompt),), **fields)


def refine_feedback(folder: Path, records: list[FeedbackRecord], **settings: Any) -> Any:
    feedback_folder = folder / "feedback"
    feedback_folder.mkdir()
    write_feedback(records, feedback_folder)
    config = build(refine.Config, settings, where="refine")
    return refine.run(config, refine.Inputs(Feedback("f" * 64, feedback_folder, {})), context(folder / "scratch"))


def test_refine_turns_feedback_into_preference_pairs(tmp_path):
    draft = refine_feedback(
        tmp_path, [feedback_record(1, "What is a cat?"), feedback_record(2, "Who am I? ann@example.org", consent=True)]
    )
    assert draft.facts["pairs"] == 2
    pairs = list(preferences(Source.model_validate(str(draft.folder))))
    assert [pair.chosen[0].content for pair in pairs] == ["A cat.", "A cat."]
    assert "[email]" in pairs[1].prompt[0].content
    assert pairs[0].metadata["requests"] == ["r1"]


def test_refine_drops_feedback_that_contains_test_texts(tmp_path):
    test_text = tmp_path / "held.txt"
    test_text.write_text("What is a cat?")
    records = [feedback_record(1, "What is a cat?"), feedback_record(2, "What is a dog?")]
    assert refine_feedback(tmp_path, records, decontaminate_texts=[str(test_text)]).facts["pairs"] == 1


def test_too_little_feedback_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(DataError, match="expected at least 1 pairs, got 0; dropped: 1 no consent"):
        refine_feedback(tmp_path, [feedback_record(1, "What?", consent=False)])


def retire_model(folder: Path, **settings: Any) -> tuple[Any, retire.Inputs]:
    retiring_model = model(folder / "model")
    inputs = retire.Inputs(retiring_model, release=release(folder / "release", retiring_model, name="cat"))
    config = build(retire.Config, {"reason": "a better one is there", **settings}, where="retire")
    return retire.run(config, inputs, context(folder / "scratch")), inputs


@pytest.mark.slow
def test_an_archive_contains_model_recipe_and_pinned_packages(tmp_path):
    draft, _ = retire_model(tmp_path)
    names = {path.relative_to(draft.folder).as_posix() for path in draft.folder.rglob("*")}
    assert {"model/model.safetensors", "recipe.json", "tombstone.json", "constraints.txt", "release.json"} <= names
    pinned = (draft.folder / "constraints.txt").read_text().splitlines()
    assert f"torch=={importlib.metadata.version('torch')}" in pinned
    assert all(
        line.startswith("#") or re.fullmatch(r"[a-z0-9._-]+==[^ ]+(  # sha256:[0-9a-f]{64})?", line) for line in pinned
    )
    assert json.loads((draft.folder / "recipe.json").read_text())[0]["stage"] == "sft"
    assert json.loads((draft.folder / "tombstone.json").read_text())["name"] == "cat:1"
    assert draft.facts["golden"] == len(release_stage.GOLDEN)


@pytest.mark.slow
def test_a_committed_archive_is_restored_with_its_golden_answers(tmp_path):
    store = Store(tmp_path / "store")
    draft, _ = retire_model(tmp_path)
    artifact = store.commit(draft)
    restored = restore(artifact.path, tmp_path / "restored")
    assert restored.golden == len(release_stage.GOLDEN)
    assert (restored.model / "model.safetensors").is_file()
    with pytest.raises(StoreError, match="is not empty"):
        restore(artifact.path, tmp_path / "restored")


@pytest.mark.slow
def test_a_changed_archive_is_not_restored(tmp_path):
    draft, _ = retire_model(tmp_path)
    (draft.folder / "model" / "config.json").write_text("{}")
    with pytest.raises(StoreError, match=r"the signed file model/config.json was changed"):
        restore(draft.folder, tmp_path / "restored")


@pytest.mark.slow
def test_different_golden_answers_are_refused(tmp_path):
    from vita.cards.restore import check_golden
    from vita.infer.engine import Engine

    cat_model = model(tmp_path / "model")
    golden = release_stage.golden_answers(Engine.open(cat_model.path), ("What?",), tokens=8)
    check_golden(Engine.open(cat_model.path), golden, where="archive")
    wrong_answers = [{**golden[0], "greedy": [1, 2, 3]}]
    with pytest.raises(ModelError, match="gives another answer"):
        check_golden(Engine.open(cat_model.path), wrong_answers, where="archive")
    with pytest.raises(ModelError, match="log-probability differs by"):
        check_golden(Engine.open(cat_model.path), [{**golden[0], "logprob": 1.0}], where="archive")


@pytest.mark.slow
def test_a_retirement_records_its_reason_and_successor(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    draft, inputs = retire_model(tmp_path)
    artifact = retire.Archive("a" * 64, draft.folder, {**draft.facts, "successor": "5" * 64})
    for _ in range(2):
        retire.record(artifact, inputs, ledger)
    (move,) = ledger.moves(inputs.model.digest)
    assert (move.state, move.why, move.details["successor"]) == ("retired", "a better one is there", "5" * 64)
    assert move.details["archive"] == "a" * 64


@pytest.mark.slow
def test_retirement_keeps_the_announced_successor(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    draft, inputs = retire_model(tmp_path)
    ledger.move(inputs.model.digest, "deprecated", who="Ada", why="old", sunset=1.0, successor="5" * 64)
    retire.record(retire.Archive("a" * 64, draft.folder, draft.facts), inputs, ledger)
    assert ledger.moves(inputs.model.digest)[-1].details["successor"] == "5" * 64


@pytest.mark.slow
def test_a_release_of_another_model_is_not_archived(tmp_path):
    retiring_model = model(tmp_path / "model")
    other_release = Release("e" * 64, release(tmp_path / "release", retiring_model).path, {})
    (other_release.path / "release.json").write_text(json.dumps({"model": "9" * 64, "golden": []}))
    config = build(retire.Config, {"reason": "old"}, where="retire")
    with pytest.raises(PlanError, match="expected a release of the model 222222222222, got '?one of 999999999999"):
        retire.run(config, retire.Inputs(retiring_model, release=other_release), context(tmp_path / "scratch"))


@pytest.mark.slow
def test_a_release_without_a_version_is_named_by_its_weights(tmp_path):
    cat_release = release(tmp_path / "scratch", model(tmp_path / "model"), name="cat", version=None)
    assert cat_release.facts["version"] == "2" * 8
    assert json.loads((cat_release.path / "release.json").read_text())["version"] == "2" * 8
