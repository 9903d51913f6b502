"""The stage `reward`: ranking of held-out pairs, early stopping, and equal scores in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.chat_models import PAIRS, context, create_chat_model, notes, write_rows
from tests.stages.test_pretrain import file_contents
from vita.data.records import Message
from vita.infer.reward import RewardModel
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError
from vita.stages import reward
from vita.stages.kinds import Model, Reward


def run(model: Model, scratch: Path, *sources: str, events: list[Any] | None = None, **settings: Any) -> Any:
    values = {
        "sources": sources,
        "precision": "float32",
        "batch_size": 8,
        "learning_rate": 3e-3,
        "eval_fraction": 0.3,
        **settings,
    }
    return reward.run(build(reward.Config, values, where="reward"), reward.Inputs(model), context(scratch, events))


def dialogue(prompt: str, answer: str) -> list[Message]:
    return [Message("user", prompt), Message("assistant", answer)]


def test_a_reward_model_ranks_held_out_pairs_and_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward, "MIN_STOPPING_PAIRS", 1)
    events: list[Any] = []
    draft = run(
        create_chat_model(tmp_path / "model"),
        tmp_path / "scratch",
        write_rows(tmp_path),
        events=events,
        steps=60,
        eval_every=5,
    )
    assert draft.kind is Reward
    facts = draft.facts
    assert facts["accuracy"] > 0.95 and facts["steps"] < 60
    assert f"early stopping after {facts['steps']} of 60 steps" in notes(events)
    assert facts["pairs/accuracy"] == facts["accuracy"] and 0 <= facts["calibration_error"] <= 1
    page = (draft.folder / "report/report.md").read_text()
    assert "Calibration" in page and "## Held-out pairs" in page and "| pairs | " in page
    judge = RewardModel.open(draft.folder)
    dialogues = [dialogue("Say xu.", answer) for answer in ("xu yes", "xu no")]
    chosen_score, rejected_score = judge.score(dialogues)
    assert chosen_score > rejected_score
    assert judge.score([dialogues[1]]) == pytest.approx([rejected_score], abs=1e-5)
    with pytest.raises(DataError, match="dialogue 1: expected 1 to 128 tokens"):
        judge.score([dialogue("Say.", "long " * 60)])


def test_too_few_held_out_pairs_do_not_stop_training(tmp_path: Path) -> None:
    draft = run(
        create_chat_model(tmp_path / "model"), tmp_path / "scratch", write_rows(tmp_path), steps=12, eval_every=1
    )
    assert draft.facts["heldout_pairs"] < reward.MIN_STOPPING_PAIRS and draft.facts["steps"] == 12


def test_transformers_gives_the_same_scores(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    draft = run(create_chat_model(tmp_path / "model"), tmp_path / "scratch", write_rows(tmp_path), steps=2)
    hf_model = transformers.AutoModelForSequenceClassification.from_pretrained(draft.folder, dtype=torch.float32)
    judge = RewardModel.open(draft.folder)
    dialogues = [dialogue("Say mu.", "mu yes"), dialogue("Say something longer.", "no")]
    for messages, score in zip(dialogues, judge.score(dialogues), strict=True):
        with torch.no_grad():
            assert hf_model(input_ids=torch.tensor([judge.ids(messages)])).logits.item() == pytest.approx(
                score, abs=1e-4
            )


def test_a_killed_run_with_early_stopping_resumes_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "MIN_STOPPING_PAIRS", 1)
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    settings = {"steps": 12, "eval_every": 4, "early_stop_margin": 0.02, "checkpoint_seconds": 0.0}
    uninterrupted = run(model, tmp_path / "one", source, **settings)
    assert uninterrupted.facts["steps"] < 12
    # The state is that of a run killed after its last checkpoint, before the draft was written.
    events: list[Any] = []
    resumed = run(model, tmp_path / "one", source, events=events, **settings)
    assert f"resumes after step {uninterrupted.facts['steps']}" in notes(events)
    other = run(model, tmp_path / "two", source, **{**settings, "checkpoint_seconds": 30.0})
    assert (
        file_contents(resumed.folder) == file_contents(other.folder)
        and resumed.facts == other.facts == uninterrupted.facts
    )


def test_a_zero_head_starts_at_ln_two_and_margins_raise_the_loss(tmp_path: Path) -> None:
    model = create_chat_model(tmp_path / "model")
    rows = [{**row, "margin": 1.0} for row in PAIRS]
    plain = run(model, tmp_path / "plain", write_rows(tmp_path), steps=1, head_init="zero")
    with_margin = run(
        model, tmp_path / "apart", write_rows(tmp_path, rows, name="apart.jsonl"), steps=1, head_init="zero"
    )
    losses = [
        json.loads((draft.folder / "report/metrics.jsonl").read_text().splitlines()[1])
        for draft in (plain, with_margin)
    ]
    assert losses[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert losses[1]["loss"] == pytest.approx(1.313262, abs=1e-5)


def test_shuffled_labels_give_no_margin(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    facts = run(model, tmp_path / "control", source, steps=12, shuffle_labels=True, early_stop_margin=100.0).facts
    assert abs(facts["margin"]) < 1.0


def test_long_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "chosen": "long " * 60, "rejected": "short"}] * 3
    model, source = create_chat_model(tmp_path / "model", context=64), write_rows(tmp_path, PAIRS + long)
    events: list[Any] = []
    facts = run(model, tmp_path / "scratch", source, steps=1, eval_fraction=0.0, events=events).facts
    assert (
        facts["dropped_too_long"] == 3
        and "accuracy" not in facts
        and "Dropped: 3 longer than 64 tokens" in notes(events)
    )


def test_invalid_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    with pytest.raises(ConfigError, match=r"reward.sources: is required, or the input `preferences`"):
        run(model, tmp_path / "scratch")
    with pytest.raises(ConfigError, match=r"reward.max_length: expected at most 128"):
        run(model, tmp_path / "scratch", source, max_length=500)
    with pytest.raises(ConfigError, match=r"reward.head_init: expected 'small' or 'zero', got 'big'"):
        run(model, tmp_path / "scratch", source, head_init="big")
