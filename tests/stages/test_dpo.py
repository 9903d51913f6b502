"""The stage `dpo`: initial loss, training on pairs and ratings, resumption, dropped rows and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

from tests.stages.chat_models import PAIRS, context, create_chat_model, notes, write_rows
from tests.stages.test_pretrain import file_contents
from vita.nn import hf
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, ModelError, TrainingError
from vita.spine.stage import read_stage
from vita.stages import dpo
from vita.stages.kinds import Model, Preferences
from vita.train import preference_batches

LENGTH = {"use": "length", "options": {"words": 2}}


def run(
    model: Model, scratch: Path, *sources: str | dict[str, Any], events: list[Any] | None = None, **settings: Any
) -> Any:
    inputs = {name: settings.pop(name) for name in ("preferences", "reward") if name in settings}
    values = {
        "sources": sources,
        "precision": "float32",
        "batch_size": 8,
        "learning_rate": 2e-3,
        "eval_fraction": 0.3,
        **settings,
    }
    return dpo.run(build(dpo.Config, values, where="dpo"), dpo.Inputs(model, **inputs), context(scratch, events))


def curve(draft: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (draft.folder / "report/metrics.jsonl").read_text().splitlines()]


def labelled_rows() -> list[dict[str, Any]]:
    sides = [(row, side) for row in PAIRS for side in ("chosen", "rejected")]
    return [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row, side in sides]


def test_dpo_prefers_the_chosen_answer_and_reports_its_metrics(tmp_path: Path) -> None:
    events: list[Any] = []
    rewards = {
        "eval_rewards": [LENGTH],
        "correctness": {"use": "matches", "options": {"pattern": "[a-z]"}},
        "eval_prompts": 3,
    }
    draft = run(
        create_chat_model(tmp_path / "model"),
        tmp_path / "scratch",
        write_rows(tmp_path),
        events=events,
        steps=30,
        beta=0.3,
        **rewards,
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
    messages = notes(events)
    assert "the first chosen answer reads: <|im_start|>" in messages.replace("│", "")
    assert f"{facts['pairs']} pairs to learn from" in messages


def test_a_reference_that_is_another_model_is_refused_at_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference_logprobs = preference_batches.reference_logprobs
    monkeypatch.setattr(
        preference_batches,
        "reference_logprobs",
        lambda *args, **kwargs: reference_logprobs(*args, **kwargs) + torch.tensor([1.0, 0.0]),
    )
    with pytest.raises(TrainingError, match=r"the first step: `loss/sigmoid` must start at 0.6931"):
        run(create_chat_model(tmp_path / "model"), tmp_path / "scratch", write_rows(tmp_path), steps=2)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    uninterrupted = run(model, tmp_path / "one", source, steps=6, checkpoint_seconds=0.0)
    from vita.train.trainer import Trainer

    step = Trainer.step

    def interrupt_after_three_steps(self: Trainer, work: Any) -> Any:
        if self.done == 3:
            raise KeyboardInterrupt
        return step(self, work)

    monkeypatch.setattr(Trainer, "step", interrupt_after_three_steps)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "two", source, steps=6, checkpoint_seconds=0.0)
    monkeypatch.setattr(Trainer, "step", step)
    events: list[Any] = []
    resumed = run(model, tmp_path / "two", source, steps=6, checkpoint_seconds=0.0, events=events)
    assert "resumes after step 3 of 6" in notes(events)
    assert file_contents(uninterrupted.folder) == file_contents(resumed.folder) and uninterrupted.facts == resumed.facts


def test_micro_batches_do_not_change_a_step(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    full_batch = curve(run(model, tmp_path / "one", source, steps=2))[-1]
    micro_batches = curve(run(model, tmp_path / "two", source, steps=2, micro_batch_tokens=100))[-1]
    for name in ("loss", "loss/sft", "loss/sigmoid", "gradient_norm", "rewards/margins"):
        assert micro_batches[name] == pytest.approx(full_batch[name], rel=1e-4, abs=1e-6), name


def test_losses_start_at_their_value_at_equal_models(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    first_losses = {}
    for name in ("ipo", "simpo", "hinge"):
        draft = run(model, tmp_path / name, source, steps=2, losses={name: 1.0}, num_evals=1)
        first_losses[name] = curve(draft)[1]["loss"]
    assert first_losses["ipo"] == pytest.approx((1 / 0.6) ** 2, rel=1e-4) and first_losses["hinge"] == pytest.approx(
        1, rel=1e-4
    )
    assert len(set(first_losses.values())) == 3


def test_kto_learns_from_labelled_answers(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, labelled_rows())
    draft = run(model, tmp_path / "scratch", source, steps=12, losses={"kto": 1.0, "sft": 0.5})
    first, last = curve(draft)[1], curve(draft)[-1]
    assert first["loss/kto"] == pytest.approx(0.5, abs=1e-4) and first["kl_reference"] == pytest.approx(0, abs=1e-4)
    assert last["rewards/chosen"] > last["rewards/rejected"]
    micro_batched = run(
        model, tmp_path / "cut", source, steps=2, losses={"kto": 1.0, "sft": 0.5}, micro_batch_tokens=100
    )
    assert curve(micro_batched)[2]["loss"] == pytest.approx(curve(draft)[2]["loss"], rel=0.05)
    with pytest.raises(DataError, match="expected pairs of answers, got answers with a label"):
        run(model, tmp_path / "dpo", source, steps=2)


def test_kto_trains_on_all_answers_when_one_prompt_would_be_held_out(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {word}.", "completion": word, "label": True} for word in ("mu", "ba", "ko", "ti")]
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path, rows)
    counts = []
    for seed in range(9):
        facts = run(
            model, tmp_path / f"{seed}", source, steps=1, losses={"kto": 1.0}, eval_fraction=0.25, seed=seed
        ).facts
        counts.append((facts["pairs"], facts["heldout_pairs"]))
    assert (4, 0) in counts and all(sum(pair_counts) == 4 and pair_counts[1] != 1 for pair_counts in counts)


def test_a_pair_as_long_as_the_context_fits(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {word}.", "chosen": word * 30, "rejected": "no"} for word in ("mu", "ba", "ko", "ti")]
    facts = run(
        create_chat_model(tmp_path / "model", context=90),
        tmp_path / "run",
        write_rows(tmp_path, rows),
        steps=1,
        eval_fraction=0.0,
    ).facts
    assert facts["pairs"] == 4


@pytest.mark.slow
def test_reward_functions_get_the_columns_of_the_row_and_fail_before_training(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(
        "def known(completions, answer, completion_ids):\n"
        "    return [float(a in text) for a, text in zip(answer, completions)]\n"
        "def lost(completions, missing):\n    return [0.0 for _ in completions]\n"
    )
    source = write_rows(tmp_path, [{**row, "answer": row["chosen"]} for row in PAIRS])
    model, module = create_chat_model(tmp_path / "model"), f"{tmp_path}/rewards.py"
    facts = run(model, tmp_path / "run", source, steps=1, eval_fraction=0.3, eval_rewards=[f"{module}:known"]).facts
    assert "comparison/reward/change" in facts
    events: list[Any] = []
    with pytest.raises(DataError, match=r"dpo.eval_rewards: lost: raised TypeError: .*missing"):
        run(model, tmp_path / "bad", source, events=events, steps=1, eval_fraction=0.3, eval_rewards=[f"{module}:lost"])
    assert not [event for event, _ in events if event == "metrics"]


def test_a_repeated_source_is_trained_on_more_often_and_held_out_once(tmp_path: Path) -> None:
    model = create_chat_model(tmp_path / "model")
    kinds = {"pairs": (PAIRS, {}), "ratings": (labelled_rows(), {"losses": {"kto": 1.0}})}
    for name, (rows, settings) in kinds.items():
        path = write_rows(tmp_path, rows, name=f"{name}.jsonl")
        single_facts = run(model, tmp_path / name, path, steps=1, **settings).facts
        repeated_facts = run(model, tmp_path / f"{name}3", {"path": path, "repeat": 3}, steps=1, **settings).facts
        assert (repeated_facts["pairs"], repeated_facts["heldout_pairs"]) == (
            3 * single_facts["pairs"],
            single_facts["heldout_pairs"],
        )
        assert single_facts["heldout_pairs"] > 0


def test_a_setting_that_no_selected_loss_uses_is_refused(tmp_path: Path) -> None:
    model, path = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    for setting, losses in (
        ("label_smoothing", "cdpo and robust"),
        ("simpo_gamma", "simpo"),
        ("desirable_weight", "kto"),
    ):
        with pytest.raises(ConfigError, match=f"`{setting}` is set, and none of sft, sigmoid reads it; only {losses}"):
            changed: dict[str, Any] = {setting: 0.3}
            run(model, tmp_path / setting, path, steps=1, **changed)
    run(model, tmp_path / "robust", path, steps=1, losses={"robust": 1.0}, label_smoothing=0.3)


def test_all_held_out_labels_share_one_kl_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = create_chat_model(tmp_path / "model"), write_rows(tmp_path, labelled_rows())
    heldout_losses = []
    for size in (64, 3):
        monkeypatch.setattr(preference_batches, "EVAL_BATCH_PAIRS", size)
        draft = run(model, tmp_path / f"scratch{size}", path, steps=4, losses={"kto": 1.0}, num_evals=4)
        heldout_losses.append([row["heldout_loss"] for row in curve(draft) if "heldout_loss" in row])
    assert heldout_losses[0] == pytest.approx(heldout_losses[1], abs=2e-6) and len(heldout_losses[0]) == 5


def test_several_samples_of_each_answer_count_as_one_prompt(tmp_path: Path) -> None:
    settings = {"eval_rewards": [LENGTH], "eval_prompts": 3, "eval_sampling": {"temperature": 1.0, "max_tokens": 8}}
    draft = run(
        create_chat_model(tmp_path / "model"),
        tmp_path / "scratch",
        write_rows(tmp_path),
        steps=1,
        eval_samples=5,
        **settings,
    )
    items = zstandard.ZstdDecompressor().decompress((draft.folder / "report/items.jsonl.zst").read_bytes())
    assert len(items.splitlines()) == 15
    figures = json.loads((draft.folder / "report/report.json").read_text())["figures"]["comparison"]["comparison"]
    assert figures["reward/change"]["n"] == 3


def test_shuffled_labels_give_no_reward_margin(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
    facts = run(model, tmp_path / "control", source, steps=20, shuffle_labels=True, losses={"sigmoid": 1.0}).facts
    assert abs(facts["pairs/reward/margin"]) < 1.0
    assert facts["pairs"] + facts["heldout_pairs"] == len(PAIRS)


def test_long_pairs_are_dropped_or_truncated_and_counted(tmp_path: Path) -> None:
    long = [{"prompt": "Tell.", "chosen": "long " * 60, "rejected": "short"}] * 3
    full = [{"prompt": "tell " * 60, "chosen": "a", "rejected": "b"}]
    model, source = create_chat_model(tmp_path / "model", context=64), write_rows(tmp_path, PAIRS + long + full)
    events: list[Any] = []
    facts = run(model, tmp_path / "drop", source, steps=1, eval_fraction=0.0, events=events).facts
    assert facts["dropped_too_long"] == 4 and facts["pairs"] == len(PAIRS)
    assert "4 of 28 pairs are not learned: 4 longer than 64 tokens" in notes(events)
    facts = run(model, tmp_path / "cut", source, steps=1, eval_fraction=0.0, on_long="truncate").facts
    assert facts["pairs"] == len(PAIRS) + 3 and facts["dropped_cut_before_answer"] == 1


def test_curated_pairs_are_read_from_the_input(tmp_path: Path) -> None:
    (tmp_path / "preferences").mkdir()
    write_rows(tmp_path / "preferences", name="preferences.jsonl")
    preferences = Preferences("3" * 64, tmp_path / "preferences", {})
    facts = run(create_chat_model(tmp_path / "model"), tmp_path / "scratch", preferences=preferences, steps=1).facts
    assert facts["pairs"] + facts["heldout_pairs"] == len(PAIRS)


def test_invalid_settings_and_inputs_are_refused(tmp_path: Path) -> None:
    model, source = create_chat_model(tmp_path / "model"), write_rows(tmp_path)
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
        run(model, tmp_path / "scratch", write_rows(tmp_path, [row], name="same.jsonl"))
    with pytest.raises(ConfigError, match="reward: `lenght` is not known here; did you mean `length`"):
        run(model, tmp_path / "scratch", source, eval_rewards=["lenght"])
    (model.path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="holds no chat template"):
        run(model, tmp_path / "scratch", source)


def test_dpo_is_a_parallel_stage_and_saves_a_complete_model(tmp_path: Path) -> None:
    assert read_stage("dpo", dpo).parallel
    draft = run(
        create_chat_model(tmp_path / "model"), tmp_path / "scratch", write_rows(tmp_path), steps=1, eval_fraction=0.0
    )
    assert hf.load(draft.folder).architecture == hf.load(tmp_path / "model").architecture
    assert "pairs/accuracy/after" not in draft.facts
