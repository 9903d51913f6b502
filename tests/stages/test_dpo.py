"""Learning from preferences: it begins where it must, the better answer wins, and what was lost or is wrong is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from tests.stages.preferring import PAIRS, chatting, context, notes, written
from tests.stages.test_pretrain import everything
from vita.nn import hf
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, ModelError, TrainingError
from vita.spine.stage import read_stage
from vita.stages import dpo
from vita.stages.kinds import Model, Preferences
from vita.train import preference_batches

LENGTH = {"use": "length", "options": {"words": 2}}


def run(
    model: Model, scratch: Path, *sources: str | dict[str, Any], told: list[Any] | None = None, **settings: Any
) -> Any:
    more = {name: settings.pop(name) for name in ("preferences", "reward") if name in settings}
    values = {
        "sources": sources,
        "precision": "float32",
        "batch_size": 8,
        "learning_rate": 2e-3,
        "eval_fraction": 0.3,
        **settings,
    }
    return dpo.run(build(dpo.Config, values, where="dpo"), dpo.Inputs(model, **more), context(scratch, told))


def curve(draft: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (draft.folder / "report/metrics.jsonl").read_text().splitlines()]


def verdicts() -> list[dict[str, Any]]:
    sides = [(row, side) for row in PAIRS for side in ("chosen", "rejected")]
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in sides]


def test_the_better_answer_wins_and_all_of_it_is_told(tmp_path: Path) -> None:
    told: list[Any] = []
    rewards = {
        "eval_rewards": [LENGTH],
        "correctness": {"use": "matches", "options": {"pattern": "[a-z]"}},
        "eval_prompts": 3,
    }
    draft = run(
        chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), told=told, steps=30, beta=0.3, **rewards
    )
    first, last = curve(draft)[1], curve(draft)[-1]
    assert first["loss/sigmoid"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(first["loss/sigmoid"] + first["loss/sft"], rel=1e-5)
    assert last["rewards/margins"] > 0 and last["rewards/accuracies"] == 1.0 and last["log_ratio/chosen"] > 0
    facts = draft.facts
    assert facts["pairs/accuracy/after"] == 1.0 and facts["pairs/reward/accuracy"] == 1.0
    assert facts["pairs"] + facts["heldout_pairs"] == len(PAIRS)
    report = json.loads((draft.folder / "report/report.json").read_text())
    assert report["figures"]["held_out"]["pairs"]["accuracy/after"]["n"] == facts["heldout_pairs"] / 2, (
        "two of a prompt"
    )
    assert {"reward/change", "kl", "accuracy/change"} <= report["figures"]["comparison"]["comparison"].keys()
    assert (draft.folder / "report/items.jsonl.zst").is_file()
    page = (draft.folder / "report/report.md").read_text()
    assert "Held-out pairs" in page and "Comparison with the parent model" in page
    said = notes(told)
    assert "the first chosen answer reads: <|im_start|>" in said.replace("│", "")
    assert f"{facts['pairs']} pairs to learn from" in said


def test_a_reference_that_is_another_model_is_refused_at_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = preference_batches.reference_logprobs
    monkeypatch.setattr(
        preference_batches,
        "reference_logprobs",
        lambda *given, **named: right(*given, **named) + torch.tensor([1.0, 0.0]),
    )
    with pytest.raises(TrainingError, match=r"the first step: `loss/sigmoid` must start at 0.6931"):
        run(chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), steps=2)


def test_killed_anywhere_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    whole = run(model, tmp_path / "one", source, steps=6, checkpoint_seconds=0.0)
    from vita.train.trainer import Trainer

    step = Trainer.step

    def killed(self: Trainer, work: Any) -> Any:
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self, work)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "two", source, steps=6, checkpoint_seconds=0.0)
    monkeypatch.setattr(Trainer, "step", step)
    told: list[Any] = []
    resumed = run(model, tmp_path / "two", source, steps=6, checkpoint_seconds=0.0, told=told)
    assert "resumes after step 3 of 6" in notes(told)
    assert everything(whole.folder) == everything(resumed.folder) and whole.facts == resumed.facts


def test_cutting_a_step_into_micro_batches_changes_nothing(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    whole = curve(run(model, tmp_path / "one", source, steps=2))[-1]
    cut = curve(run(model, tmp_path / "two", source, steps=2, micro_batch_tokens=100))[-1]
    for name in ("loss", "loss/sft", "loss/sigmoid", "gradient_norm", "rewards/margins"):
        assert cut[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6), name


def test_every_loss_trains_and_begins_where_it_must(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    begins = {}
    for name in ("ipo", "simpo", "hinge"):
        draft = run(model, tmp_path / name, source, steps=2, losses={name: 1.0}, num_evals=1)
        begins[name] = curve(draft)[1]["loss"]
    assert begins["ipo"] == pytest.approx((1 / 0.6) ** 2, rel=1e-4) and begins["hinge"] == pytest.approx(1, rel=1e-4)
    assert len(set(begins.values())) == 3


def test_kto_learns_from_verdicts(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path, verdicts())
    draft = run(model, tmp_path / "scratch", source, steps=12, losses={"kto": 1.0, "sft": 0.5})
    first, last = curve(draft)[1], curve(draft)[-1]
    assert first["loss/kto"] == pytest.approx(0.5, abs=1e-4) and first["kl_reference"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/chosen"] > last["rewards/rejected"]
    cut = run(model, tmp_path / "cut", source, steps=2, losses={"kto": 1.0, "sft": 0.5}, micro_batch_tokens=100)
    assert curve(cut)[2]["loss"] == pytest.approx(curve(draft)[2]["loss"], rel=0.05)
    with pytest.raises(DataError, match="expected pairs of answers, got answers with a label"):
        run(model, tmp_path / "dpo", source, steps=2)


def test_kto_with_a_single_held_out_prompt_learns_from_all(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {word}.", "completion": word, "label": True} for word in ("mu", "ba", "ko", "ti")]
    model, source = chatting(tmp_path / "model"), written(tmp_path, rows)
    counts = []
    for seed in range(9):
        facts = run(
            model, tmp_path / f"{seed}", source, steps=1, losses={"kto": 1.0}, eval_fraction=0.25, seed=seed
        ).facts
        counts.append((facts["pairs"], facts["heldout_pairs"]))
    assert (4, 0) in counts and all(sum(both) == 4 and both[1] != 1 for both in counts)


def test_a_pair_as_long_as_the_context_fits(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {word}.", "chosen": word * 30, "rejected": "no"} for word in ("mu", "ba", "ko", "ti")]
    facts = run(
        chatting(tmp_path / "model", context=90), tmp_path / "run", written(tmp_path, rows), steps=1, eval_fraction=0.0
    ).facts
    assert facts["pairs"] == 4


def test_a_reward_is_told_the_columns_of_the_row_and_fails_before_training(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def known(completions, answer, completion_ids):\n"
        "    return [float(a in text) for a, text in zip(answer, completions)]\n"
        "def lost(completions, missing):\n    return [0.0 for _ in completions]\n"
    )
    source = written(tmp_path, [{**row, "answer": row["chosen"]} for row in PAIRS])
    model, place = chatting(tmp_path / "model"), f"{tmp_path}/rewards.py"
    found = run(model, tmp_path / "run", source, steps=1, eval_fraction=0.3, eval_rewards=[f"{place}:known"]).facts
    assert "comparison/reward/change" in found
    told: list[Any] = []
    with pytest.raises(DataError, match=r"dpo.eval_rewards: lost: raised TypeError: .*missing"):
        run(model, tmp_path / "bad", source, told=told, steps=1, eval_fraction=0.3, eval_rewards=[f"{place}:lost"])
    assert not [event for event, _ in told if event == "metrics"]


def test_a_source_that_repeats_is_learnt_more_often_and_held_out_once(tmp_path: Path) -> None:
    model = chatting(tmp_path / "model")
    kinds = {"pairs": (PAIRS, {}), "ratings": (verdicts(), {"losses": {"kto": 1.0}})}
    for name, (rows, more) in kinds.items():
        path = written(tmp_path, rows, name=f"{name}.jsonl")
        once = run(model, tmp_path / name, path, steps=1, **more).facts
        thrice = run(model, tmp_path / f"{name}3", {"path": path, "repeat": 3}, steps=1, **more).facts
        assert (thrice["pairs"], thrice["heldout_pairs"]) == (3 * once["pairs"], once["heldout_pairs"])
        assert once["heldout_pairs"] > 0


def test_a_setting_that_no_chosen_loss_reads_is_refused(tmp_path: Path) -> None:
    model, path = chatting(tmp_path / "model"), written(tmp_path)
    for setting, losses in (
        ("label_smoothing", "cdpo and robust"),
        ("simpo_gamma", "simpo"),
        ("desirable_weight", "kto"),
    ):
        with pytest.raises(ConfigError, match=f"`{setting}` is set, and none of sft, sigmoid reads it; only {losses}"):
            changed: dict[str, Any] = {setting: 0.3}
            run(model, tmp_path / setting, path, steps=1, **changed)
    run(model, tmp_path / "robust", path, steps=1, losses={"robust": 1.0}, label_smoothing=0.3)


def test_held_out_verdicts_share_one_reference_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = chatting(tmp_path / "model"), written(tmp_path, verdicts())
    told = []
    for size in (64, 3):
        monkeypatch.setattr(preference_batches, "EVAL_BATCH_PAIRS", size)
        draft = run(model, tmp_path / f"scratch{size}", path, steps=4, losses={"kto": 1.0}, num_evals=4)
        told.append([row["heldout_loss"] for row in curve(draft) if "heldout_loss" in row])
    assert told[0] == pytest.approx(told[1], abs=2e-6) and len(told[0]) == 5


def test_several_samples_of_each_answer_count_as_one_prompt(tmp_path: Path) -> None:
    told = {"eval_rewards": [LENGTH], "eval_prompts": 3, "eval_sampling": {"temperature": 1.0, "max_tokens": 8}}
    draft = run(chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), steps=1, eval_samples=5, **told)
    items = zstandard.ZstdDecompressor().decompress((draft.folder / "report/items.jsonl.zst").read_bytes())
    assert len(items.splitlines()) == 15
    figures = json.loads((draft.folder / "report/report.json").read_text())["figures"]["comparison"]["comparison"]
    assert figures["reward/change"]["n"] == 3


def test_shuffled_labels_are_a_control(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    facts = run(model, tmp_path / "control", source, steps=20, shuffle_labels=True, losses={"sigmoid": 1.0}).facts
    assert abs(facts["pairs/reward/margin"]) < 1.0
    assert facts["pairs"] + facts["heldout_pairs"] == len(PAIRS)


def test_what_is_too_long_is_dropped_or_cut_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "chosen": "long " * 60, "rejected": "short"}] * 3
    full = [{"prompt": "tell " * 60, "chosen": "a", "rejected": "b"}]
    model, source = chatting(tmp_path / "model", context=64), written(tmp_path, PAIRS + long + full)
    told: list[Any] = []
    facts = run(model, tmp_path / "drop", source, steps=1, eval_fraction=0.0, told=told).facts
    assert facts["dropped_too_long"] == 4 and facts["pairs"] == len(PAIRS)
    assert "4 of 28 pairs are not learned: 4 longer than 64 tokens" in notes(told)
    facts = run(model, tmp_path / "cut", source, steps=1, eval_fraction=0.0, on_long="truncate").facts
    assert facts["pairs"] == len(PAIRS) + 3 and facts["dropped_cut_before_answer"] == 1


def test_cleaned_pairs_come_as_an_input(tmp_path: Path) -> None:
    (tmp_path / "preferences").mkdir()
    written(tmp_path / "preferences", name="preferences.jsonl")
    given = Preferences("3" * 64, tmp_path / "preferences", {})
    facts = run(chatting(tmp_path / "model"), tmp_path / "scratch", preferences=given, steps=1).facts
    assert facts["pairs"] + facts["heldout_pairs"] == len(PAIRS)


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    model, source = chatting(tmp_path / "model"), written(tmp_path)
    with pytest.raises(ConfigError, match=r"dpo.sources: is required, or the input `preferences`"):
        run(model, tmp_path / "scratch")
    with pytest.raises(ConfigError, match=r"preference_loss: `sigmod` is not known here; did you mean `sigmoid`"):
        run(model, tmp_path / "scratch", source, losses={"sigmod": 1.0})
    with pytest.raises(ConfigError, match=r"dpo.losses: `sigmoid` cannot be combined with `kto`"):
        run(model, tmp_path / "scratch", source, losses={"sigmoid": 1.0, "kto": 1.0})
    with pytest.raises(ConfigError, match=r"dpo.losses: contains no loss"):
        run(model, tmp_path / "scratch", source, losses={"sft": 0.0})
    with pytest.raises(ConfigError, match=r"dpo.max_length: expected at most 128"):
        run(model, tmp_path / "scratch", source, max_length=500)
    with pytest.raises(DataError, match=r"hold no pairs to learn from \(1 with two equal answers\)"):
        row = {"prompt": "a", "chosen": "b", "rejected": "b"}
        run(model, tmp_path / "scratch", written(tmp_path, [row], name="same.jsonl"))
    with pytest.raises(ConfigError, match="reward: `lenght` is not known here; did you mean `length`"):
        run(model, tmp_path / "scratch", source, eval_rewards=["lenght"])
    (model.path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="holds no chat template"):
        run(model, tmp_path / "scratch", source)


def test_all_processes_carry_it_out_and_the_tuned_model_is_whole(tmp_path: Path) -> None:
    assert read_stage("dpo", dpo).parallel
    draft = run(chatting(tmp_path / "model"), tmp_path / "scratch", written(tmp_path), steps=1, eval_fraction=0.0)
    assert hf.load(draft.folder).architecture == hf.load(tmp_path / "model").architecture
    assert "pairs/accuracy/after" not in draft.facts
