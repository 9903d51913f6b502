"""A reward model: it ranks what it never saw, stops when that is enough, and gives one score whoever asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.preferring import PAIRS, chatting, context, notes, written
from tests.stages.test_pretrain import everything
from vita.data.records import Message
from vita.infer.reward import RewardModel
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.stages import reward
from vita.stages.kinds import Model, Reward


def run(model: Model, scratch: Path, *sources: str, told: list[Any] | None = None, **settings: Any) -> Any:
    values = {
        "sources": sources,
        "precision": "float32",
        "batch_size": 8,
        "learning_rate": 3e-3,
        "eval_fraction": 0.3,
        **settings,
    }
    return reward.run(build(reward.Config, values, where="reward"), reward.Inputs(model), context(scratch, told))


def dialogue(prompt: str, answer: str) -> list[Message]:
    return [Message("user", prompt), Message("assistant", answer)]


def test_it_ranks_pairs_it_never_saw_and_stops_when_that_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "MIN_STOPPING_PAIRS", 1)
    told: list[Any] = []
    draft = run(
        chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), told=told, steps=60, eval_every=5
    )
    assert draft.kind is Reward
    facts = draft.facts
    assert facts["accuracy"] > 0.95 and facts["steps"] < 60
    assert f"early stopping after {facts['steps']} of 60 steps" in notes(told)
    assert facts["pairs/accuracy"] == facts["accuracy"] and 0 <= facts["calibration_error"] <= 1
    page = (draft.folder / "report/report.md").read_text()
    assert "Calibration" in page and "## Held-out pairs" in page and "| pairs | " in page
    judge = RewardModel.open(draft.folder)
    asked = [dialogue("Say xu.", answer) for answer in ("xu yes", "xu no")]
    better, worse = judge.score(asked)
    assert better > worse
    assert judge.score([asked[1]]) == pytest.approx([worse], abs=1e-5)
    with pytest.raises(DataError, match="dialogue 1: expected 1 to 128 tokens"):
        judge.score([dialogue("Say.", "long " * 60)])


def test_a_few_pairs_never_say_that_it_is_enough(tmp_path: Path) -> None:
    draft = run(chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), steps=12, eval_every=1)
    assert draft.facts["heldout_pairs"] < reward.MIN_STOPPING_PAIRS and draft.facts["steps"] == 12


def test_transformers_gives_the_same_scores(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    draft = run(chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), steps=2)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(draft.folder, dtype=torch.float32)
    judge = RewardModel.open(draft.folder)
    told = [dialogue("Say mu.", "mu yes"), dialogue("Say something longer.", "no")]
    for one, score in zip(told, judge.score(told), strict=True):
        with torch.no_grad():
            assert theirs(input_ids=torch.tensor([judge.ids(one)])).logits.item() == pytest.approx(score, abs=1e-4)


def test_an_enough_run_that_was_killed_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward, "MIN_STOPPING_PAIRS", 1)
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    settings = {"steps": 12, "eval_every": 4, "early_stop_margin": 0.02, "checkpoint_seconds": 0.0}
    whole = run(model, tmp_path / "one", source, **settings)
    assert whole.facts["steps"] < 12
    # As if it had been killed after its last checkpoint, before the draft was written.
    told: list[Any] = []
    again = run(model, tmp_path / "one", source, told=told, **settings)
    assert f"resumes after step {whole.facts['steps']}" in notes(told)
    other = run(model, tmp_path / "two", source, **{**settings, "checkpoint_seconds": 30.0})
    assert everything(again.folder) == everything(other.folder) and again.facts == other.facts == whole.facts


def test_a_head_of_zeros_begins_at_ln_two_and_a_margin_is_wanted(tmp_path: Path) -> None:
    model = chatting(tmp_path / "model")
    rows = [{**row, "margin": 1.0} for row in PAIRS]
    plain = run(model, tmp_path / "plain", written(tmp_path), steps=1, head_init="zero")
    apart = run(model, tmp_path / "apart", written(tmp_path, rows, name="apart.jsonl"), steps=1, head_init="zero")
    losses = [json.loads((one.folder / "report/metrics.jsonl").read_text().splitlines()[1]) for one in (plain, apart)]
    assert losses[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert losses[1]["loss"] == pytest.approx(1.313262, abs=1e-5)


def test_shuffled_labels_are_a_control(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    facts = run(model, tmp_path / "control", source, steps=12, shuffle_labels=True, early_stop_margin=100.0).facts
    assert abs(facts["margin"]) < 1.0


def test_long_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "chosen": "long " * 60, "rejected": "short"}] * 3
    model, source = chatting(tmp_path / "model", context=64), written(tmp_path, PAIRS + long)
    told: list[Any] = []
    facts = run(model, tmp_path / "scratch", source, steps=1, eval_fraction=0.0, told=told).facts
    assert (
        facts["dropped_too_long"] == 3 and "accuracy" not in facts and "Dropped: 3 longer than 64 tokens" in notes(told)
    )


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    with pytest.raises(ConfigError, match=r"reward.sources: is required, or the input `preferences`"):
        run(model, tmp_path / "scratch")
    with pytest.raises(ConfigError, match=r"reward.max_length: expected at most 128"):
        run(model, tmp_path / "scratch", source, max_length=500)
    with pytest.raises(ConfigError, match=r"reward.head_init: expected 'small' or 'zero', got 'big'"):
        run(model, tmp_path / "scratch", source, head_init="big")
