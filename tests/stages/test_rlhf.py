"""The stage `rlhf`: each method raises the reward, a random reward does not, and a killed run resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages.test_pretrain import file_contents
from vita.design import scaling_rules
from vita.infer.engine import Engine
from vita.nn import hf
from vita.nn.init import initialize
from vita.spine.config import build
from vita.spine.errors import ConfigError, DataError, TrainingError
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.stages import rlhf, sft
from vita.stages.kinds import Model
from vita.testing import byte_tokenizer, tiny_architecture, tiny_model
from vita.train import policy_objective

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne", "lo", "fi", "su", "da", "po", "ke")
POLITE = {"use": "matches", "options": {"pattern": "!$"}}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Return a model that ends its answers with `!`, `?` or `.` equally often."""
    folder = tmp_path_factory.mktemp("tuned")
    model = tiny_model(context=64)
    initialize(model, "normal", seed=0)
    hf.save(model, folder / "initial")
    byte_tokenizer().save(folder / "initial")
    hf.save_generation(hf.GenerationTokens(start=256, padding=256, stop=(256,)), folder / "initial")
    rows = [{"instruction": f"{word}?", "output": word + end} for word in WORDS for end in "!?." for _ in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "sources": [str(folder / "rows.jsonl")],
        "steps": 160,
        "learning_rate": 0.02,
        "batch_size": 4,
        "eval_fraction": 0.0,
    }
    config = build(sft.Config, {**values, "precision": "float32", "compile": "no"}, where="sft")
    context = Context(folder, lambda event, **fields: None, Machine())
    draft = sft.run(config, sft.Inputs(Model("1" * 64, folder / "initial", {})), context)
    return Model("2" * 64, draft.folder, draft.facts)


def prompts(folder: Path) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{word}?", "truth": word}) + "\n" for word in WORDS))
    return str(path)


def run(
    model: Model, folder: Path, *, events: list[Any] | None = None, stop_at: int | None = None, **settings: Any
) -> Any:
    folder.mkdir(exist_ok=True)

    def emit(event: str, **fields: Any) -> None:
        if events is not None:
            events.append((event, fields))
        if event == "metrics" and fields["step"] == stop_at:
            raise KeyboardInterrupt

    values = {"sources": [prompts(folder.parent)], "rewards": [POLITE], "max_tokens": 8, "num_evals": 2, **settings}
    return rlhf.run(build(rlhf.Config, values, where="rlhf"), rlhf.Inputs(model), Context(folder, emit, Machine()))


RULE = scaling_rules.other_rate(tiny_architecture().width, 1)
"""Learning rate of the norms in pretraining."""
FAST: dict[str, dict[str, Any]] = {
    "grpo": {"steps": 25, "learning_rate": 0.1 * RULE},
    "rloo": {"steps": 25, "learning_rate": 0.1 * RULE},
    "reinforce": {"steps": 25, "learning_rate": 0.1 * RULE},
    "ppo": {
        "steps": 20,
        "learning_rate": 0.05 * RULE,
        "kl_coef": 0.05,
        "prompts_per_step": 32,
        "critic_warmup_steps": 1,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] if name in ("rloo", "reinforce") else []) for name in FAST]
)
def test_training_raises_the_reward_and_keeps_the_accuracy(tuned: Model, tmp_path: Path, method: str) -> None:
    (tmp_path / "judge.py").write_text(
        "def right(prompts, completions, truth):\n    return [c.startswith(t) for c, t in zip(completions, truth)]\n"
    )
    events: list[Any] = []
    correctness = f"{tmp_path / 'judge.py'}:right"
    draft = run(
        tuned, tmp_path / "run", method=method, events=events, correctness=correctness, eval_samples=6, **FAST[method]
    )
    facts = draft.facts
    assert facts["comparison/reward/after"] > facts["comparison/reward/before"] + 0.2, facts
    assert (
        facts["comparison/accuracy/after"] > facts["comparison/accuracy/before"] - 0.3
        and facts["heldout_truncated"] < 0.2
    ), facts
    assert ("zero_variance" in facts) == (method != "ppo")
    report = json.loads((draft.folder / "report" / "report.json").read_text())
    assert report["figures"]["comparison"]["comparison"]["reward/change"]["n"] == 4
    assert "change in reward" in (draft.folder / "report" / "report.md").read_text()
    rows = [json.loads(line) for line in (draft.folder / "report" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["ratio_deviation"] < 1e-3 for row in rows if "reward" in row)
    notes = " ".join(fields["text"] for event, fields in events if event == "note")
    assert "8 prompts to learn from, 4 held out" in notes and "held out: reward" in notes
    engine = Engine.open(draft.folder)
    assert engine.model.architecture == hf.load(tuned.path).architecture


@pytest.mark.slow
def test_a_random_reward_does_not_change_the_policy(tuned: Model, tmp_path: Path) -> None:
    facts = run(tuned, tmp_path / "run", rewards=["random_reward"], eval_rewards=[POLITE], **FAST["grpo"]).facts
    assert abs(facts["comparison/reward/change"]) < 0.35


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "grpo", "steps": 4, "minibatches": 2, "epochs": 2, "prompts_per_step": 2, "num_generations": 4},
        {"method": "ppo", "steps": 4, "epochs": 2, "prompts_per_step": 6, "critic_warmup_steps": 1},
    ],
)
def test_a_killed_run_resumes_to_the_same_bytes(tuned: Model, tmp_path: Path, settings: dict[str, Any]) -> None:
    uninterrupted = run(tuned, tmp_path / "straight", **settings)
    for stop_at in (3, 6):  # in the middle of a round, too
        with pytest.raises(KeyboardInterrupt):
            run(tuned, tmp_path / "stopped", stop_at=stop_at, checkpoint_seconds=0.0, **settings)
    resumed = run(tuned, tmp_path / "stopped", checkpoint_seconds=0.0, **settings)
    assert file_contents(resumed.folder) == file_contents(uninterrupted.folder) and resumed.facts == uninterrupted.facts


@pytest.mark.slow
def test_only_the_critic_is_trained_during_its_warmup(tuned: Model, tmp_path: Path) -> None:
    events: list[Any] = []
    settings = {
        "method": "ppo",
        "steps": 3,
        "critic_warmup_steps": 2,
        "prompts_per_step": 6,
        "num_evals": 3,
        "epochs": 1,
    }
    draft = run(tuned, tmp_path / "run", events=events, **settings)
    kl_values = [fields["heldout_kl"] for event, fields in events if event == "metrics" and "heldout_kl" in fields]
    assert kl_values[0] == kl_values[1] == 0 != kl_values[2]
    assert not [name for name in hf.load(draft.folder).state_dict() if "critic" in name]


def test_truncated_answers_get_no_reward_and_are_counted(tuned: Model, tmp_path: Path) -> None:
    constant_reward = {"use": "matches", "options": {"pattern": ""}}
    facts = run(tuned, tmp_path / "run", rewards=[constant_reward], max_tokens=1, steps=2).facts
    assert facts["heldout_truncated"] == 1 and facts["heldout_reward"] == 0 and facts["zero_variance"] > 0.8


def test_a_model_with_varying_logprobs_is_refused(
    tuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_token_stats = policy_objective.compute_token_stats

    def add_noise(model: Any, ids: Any, mask: Any) -> Any:
        stats = compute_token_stats(model, ids, mask)
        return stats._replace(logprobs=stats.logprobs + 0.5 * torch.is_grad_enabled() * mask)

    monkeypatch.setattr(policy_objective, "compute_token_stats", add_noise)
    with pytest.raises(
        TrainingError, match="first step of a round: expected ratio 1 and nothing clipped, got ratios 0.6"
    ):
        run(tuned, tmp_path / "run", steps=1)


def test_training_on_other_tokens_than_the_sampled_ones_is_refused(
    tuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vita.rl import rollouts

    sample_answers = rollouts.sample_answers

    def shift_mask(*args: Any, **kwargs: Any) -> Any:
        answers = sample_answers(*args, **kwargs)
        return rollouts.SampledAnswers(answers.prompts, answers.completions, answers.ids, answers.mask.roll(-1, dims=1))

    monkeypatch.setattr(rollouts, "sample_answers", shift_mask)
    with pytest.raises(TrainingError, match="expected equal log-probabilities of sampling and training"):
        run(tuned, tmp_path / "run", steps=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, "rlhf.num_generations: expected at least 2, since grpo compares answers, got 1"),
        ({"method": "reinforce", "epochs": 2}, "rlhf.epochs: expected 1 for reinforce, .* current policy, got 2"),
        ({"method": "reinforce", "loss": "cispo"}, "rlhf.loss: expected none for reinforce, whose loss has no ratios"),
        ({"method": "reinforce", "clip_high": 0.3}, "rlhf.clip_high: expected none for reinforce"),
        ({"loss": "cispo", "dual_clip": 3}, "rlhf.dual_clip: expected none beside cispo"),
        ({"max_tokens": 64}, "rlhf.max_tokens: expected fewer than 64, the model's context, got 64"),
        ({"method": "ppo", "steps": 2}, "rlhf.critic_warmup_steps: expected fewer than `steps`, 2"),
        ({"minibatches": 100}, "rlhf.minibatches: expected at most 64, the answers of a round, got 100"),
        ({"rewards": ["reward"]}, "rlhf.rewards: reward: needs a reward model as an input"),
        ({"rewards": ["world_politeness"]}, "rlhf.rewards: world_politeness: needs the built-in world"),
    ],
)
def test_invalid_settings_are_refused(tuned: Model, tmp_path: Path, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tuned, tmp_path / "run", **settings)


@pytest.mark.slow
def test_a_reward_without_values_stops_the_run(tuned: Model, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="20 steps in a row were skipped; reason of the last: no targets"):
        run(tuned, tmp_path / "run", rewards=["sum_correctness"], steps=40)


def test_prompts_too_long_for_an_answer_are_refused(tuned: Model, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rlhf: expected 3 prompts or more of at most 4 tokens, got 0"):
        run(tuned, tmp_path / "run", max_tokens=60)


def test_every_prompt_is_selected_once_per_epoch() -> None:
    config = build(rlhf.Config, {"sources": [{"world": {"things": 20}}], "prompts_per_step": 3}, where="rlhf")

    order = rlhf._plan(config, rlhf._resolve(config)).order(prompts=7, seed=0)
    selected = [prompt for number in range(7) for prompt in order.prompts_of_round(number)]
    assert [sorted(selected[start : start + 7]) for start in (0, 7, 14)] == [[*range(7)]] * 3
    assert selected[:7] != selected[7:14]
