"""Release, feedback and farewell: what is pinned, what is learnt from users, and what comes back from an archive."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_sft import begun
from vita.cards.restore import restore
from vita.data.feedback import FeedbackRecord, write_feedback
from vita.data.records import Message
from vita.data.sources.read import Source, preferences
from vita.data.tokens.chat_template import ChatTemplate
from vita.gates.services import state_of
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
    found = begun(folder)
    ChatTemplate.default().save(folder)
    return found


def release(folder: Path, own: Model, **settings: Any) -> Release:
    draft = release_stage.run(
        build(release_stage.Config, {"version": "1", **settings}, where="release"),
        release_stage.Inputs(own),
        context(folder),
    )
    return Release("e" * 64, draft.folder, draft.facts)


@pytest.fixture(autouse=True)
def own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("VITA_SIGNING_KEY", str(tmp_path / "key.pem"))


def test_a_release_pins_every_file_and_brings_golden_answers(tmp_path):
    made = release(tmp_path / "scratch", model(tmp_path / "model"), name="cat", version="2", max_batch_size=3)
    told = json.loads((made.path / "release.json").read_text())
    assert set(told["files"]) == {f"model/{path.name}" for path in (tmp_path / "model").iterdir()}
    assert (told["name"], told["version"], told["model"], told["limits"]["max_batch_size"]) == ("cat", "2", "2" * 64, 3)
    assert len(told["golden"]) == len(release_stage.GOLDEN)
    assert all(len(one["greedy"]) <= 32 and one["logprob"] <= 0 for one in told["golden"])


def test_a_release_is_recorded_once_and_serves_nothing_by_itself(tmp_path):
    ledger, own = Ledger(tmp_path / "ledger.db"), model(tmp_path / "model")
    ledger.move(own.digest, "approved", who="Ada", why="a test")
    made = release(tmp_path / "scratch", own, name="cat")
    for _ in range(2):
        release_stage.record(made, release_stage.Inputs(own), ledger)
    assert [move.state for move in ledger.moves(own.digest)] == ["approved", "approved"]
    assert state_of(ledger, own.digest) == "approved"
    assert ledger.named("release/cat:1") == made.digest
    again = Release("d" * 64, made.path, made.facts)
    release_stage.record(again, release_stage.Inputs(own), ledger)
    assert [move.details["release"] for move in ledger.moves(own.digest)[1:]] == [made.digest, again.digest]


def said(number: int, prompt: str, **more: Any) -> FeedbackRecord:
    given = {"value": 1.0, "consent": True, "who": "user", "rejected": "A bad cat.", "answer": "A cat.", **more}
    return FeedbackRecord(f"f{number}", "vote", f"r{number}", "m" * 64, (Message("user", prompt),), **given)


def refined(folder: Path, voices: list[FeedbackRecord], **settings: Any) -> Any:
    place = folder / "feedback"
    place.mkdir()
    write_feedback(voices, place)
    config = build(refine.Config, settings, where="refine")
    return refine.run(config, refine.Inputs(Feedback("f" * 64, place, {})), context(folder / "scratch"))


def test_feedback_becomes_pairs_that_the_next_tuning_reads(tmp_path):
    draft = refined(tmp_path, [said(1, "What is a cat?"), said(2, "Who am I? ann@example.org", consent=True)])
    assert draft.facts["pairs"] == 2
    pairs = list(preferences(Source.model_validate(str(draft.folder))))
    assert [pair.chosen[0].content for pair in pairs] == ["A cat.", "A cat."]
    assert "[email]" in pairs[1].prompt[0].content
    assert pairs[0].metadata["requests"] == ["r1"]


def test_what_the_model_is_tested_on_is_not_learnt(tmp_path):
    held = tmp_path / "held.txt"
    held.write_text("What is a cat?")
    voices = [said(1, "What is a cat?"), said(2, "What is a dog?")]
    assert refined(tmp_path, voices, decontaminate_texts=[str(held)]).facts["pairs"] == 1


def test_too_little_feedback_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(DataError, match="expected at least 1 pairs, got 0; dropped: 1 no consent"):
        refined(tmp_path, [said(1, "What?", consent=False)])


def retired(folder: Path, **settings: Any) -> tuple[Any, retire.Inputs]:
    own = model(folder / "model")
    inputs = retire.Inputs(own, release=release(folder / "release", own, name="cat"))
    config = build(retire.Config, {"reason": "a better one is there", **settings}, where="retire")
    return retire.run(config, inputs, context(folder / "scratch")), inputs


def test_an_archive_holds_the_whole_and_was_restored_once(tmp_path):
    draft, _ = retired(tmp_path)
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


def test_a_committed_archive_comes_back_with_its_golden_answers(tmp_path):
    store = Store(tmp_path / "store")
    draft, _ = retired(tmp_path)
    artifact = store.commit(draft)
    restored = restore(artifact.path, tmp_path / "again")
    assert restored.golden == len(release_stage.GOLDEN)
    assert (restored.model / "model.safetensors").is_file()
    with pytest.raises(StoreError, match="is not empty"):
        restore(artifact.path, tmp_path / "again")


def test_a_changed_archive_does_not_come_back(tmp_path):
    draft, _ = retired(tmp_path)
    (draft.folder / "model" / "config.json").write_text("{}")
    with pytest.raises(StoreError, match=r"the signed file model/config.json was changed"):
        restore(draft.folder, tmp_path / "again")


def test_other_golden_answers_are_told_apart(tmp_path):
    from vita.cards.restore import check_golden
    from vita.infer.engine import Engine

    own = model(tmp_path / "model")
    golden = release_stage.golden_answers(Engine.open(own.path), ("What?",), tokens=8)
    check_golden(Engine.open(own.path), golden, where="archive")
    wrong = [{**golden[0], "greedy": [1, 2, 3]}]
    with pytest.raises(ModelError, match="gives another answer"):
        check_golden(Engine.open(own.path), wrong, where="archive")
    with pytest.raises(ModelError, match="log-probability differs by"):
        check_golden(Engine.open(own.path), [{**golden[0], "logprob": 1.0}], where="archive")


def test_the_retired_version_says_why_and_names_its_successor(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    draft, inputs = retired(tmp_path)
    artifact = retire.Archive("a" * 64, draft.folder, {**draft.facts, "successor": "5" * 64})
    for _ in range(2):
        retire.record(artifact, inputs, ledger)
    (move,) = ledger.moves(inputs.model.digest)
    assert (move.state, move.why, move.details["successor"]) == ("retired", "a better one is there", "5" * 64)
    assert move.details["archive"] == "a" * 64


def test_a_successor_that_was_announced_is_kept(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    draft, inputs = retired(tmp_path)
    ledger.move(inputs.model.digest, "deprecated", who="Ada", why="old", sunset=1.0, successor="5" * 64)
    retire.record(retire.Archive("a" * 64, draft.folder, draft.facts), inputs, ledger)
    assert ledger.moves(inputs.model.digest)[-1].details["successor"] == "5" * 64


def test_a_release_of_other_weights_is_not_archived_with_these(tmp_path):
    own = model(tmp_path / "model")
    other = Release("e" * 64, release(tmp_path / "release", own).path, {})
    (other.path / "release.json").write_text(json.dumps({"model": "9" * 64, "golden": []}))
    config = build(retire.Config, {"reason": "old"}, where="retire")
    with pytest.raises(PlanError, match="expected a release of the model 222222222222, got '?one of 999999999999"):
        retire.run(config, retire.Inputs(own, release=other), context(tmp_path / "scratch"))


def test_without_a_version_it_is_called_by_its_weights(tmp_path):
    made = release(tmp_path / "scratch", model(tmp_path / "model"), name="cat", version=None)
    assert made.facts["version"] == "2" * 8
    assert json.loads((made.path / "release.json").read_text())["version"] == "2" * 8
