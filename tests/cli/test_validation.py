"""The check at the end of training stages on the command line: a run without improvement gives no model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from tests.stages.chat_models import create_chat_model, write_rows
from vita.cli import main
from vita.train.loop import TrainResult
from vita.train.validation import accuracy_evidence, gain_evidence, loss_evidence, step_problems

DIALOGUES = [
    {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"{n} it is"}]}
    for n in range(60)
]
COMMANDS = {
    "adapt": ["adapt", "texts.jsonl", "--replay", "0"],
    "sft": ["sft", "dialogues.jsonl"],
    "reward": ["reward", "pairs.jsonl"],
    "dpo": ["dpo", "pairs.jsonl"],
    "rlhf": [
        *(
            "rlhf",
            "pairs.jsonl",
            "--prompts-per-step",
            "2",
            "--num-generations",
            "2",
            "--max-tokens",
            "4",
            "--eval-prompts",
            "2",
        ),
        *("--set", "rewards=[{use: random_reward}]"),
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_THREADS", "1")
    (tmp_path / "base").mkdir()
    create_chat_model(tmp_path / "base")
    write_rows(tmp_path)
    write_rows(tmp_path, DIALOGUES, name="dialogues.jsonl")
    texts = [{"text": f"The kettle of the house number {n} is a kettle like all the others. " * 3} for n in range(60)]
    write_rows(tmp_path, texts, name="texts.jsonl")
    return tmp_path


def vita(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(list(arguments))
    code = exit_info.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def train(stage: str, *options: str) -> int:
    return vita(*COMMANDS[stage], "--model", "base", *options)


def listing(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert vita("ls", "--json") == 0
    return {name: row for row in json.loads(capsys.readouterr().out) for name in row["names"]}


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_tokenizer_larger_than_the_embedding_is_refused_by_every_stage(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "base/tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken("<|tool|>", special=True)])
    tokenizer.save(path)
    assert train(stage, "--steps", "1") == 6
    assert "the tokenizer has 260 tokens, the model 259" in capsys.readouterr().err
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_training(
    folder: Path, stage: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(folder / "base/model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / "base/model.safetensors", metadata={"format": "pt"})
    assert train(stage, "--steps", "1") == 6
    assert "model.norm.weight, contains NaN" in capsys.readouterr().err.replace(": contains", ", contains")
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["adapt", "sft", "dpo", "reward"])
def test_a_diverged_run_is_refused_and_its_reasons_are_recorded(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second run resumes from a checkpoint: a refused run is never a result
        assert train(stage, "--steps", "13", "--learning-rate", "1e30", "--warmup-fraction", "0") == 7
        errors = capsys.readouterr().err
        assert "the trained model is not kept" in errors and "Traceback" not in errors
    [record] = (folder / "store").rglob("validation.json")
    assert json.loads(record.read_text())["stage"] == stage
    assert (record.parent / "metrics.jsonl").exists()
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_run_of_one_step_is_not_refused_for_being_short(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(stage, "--steps", "1", "--set", "seed=3") == 0, capsys.readouterr().err
    assert listing(capsys)[f"my/{stage}"]["facts"]["improvement"].startswith("not judged")


@pytest.mark.slow
def test_a_learning_rate_too_small_to_change_any_weight_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("sft", "--steps", "2", "--learning-rate", "1e-30") == 7
    assert "no weight has changed" in capsys.readouterr().err


def random_pairs(count: int) -> list[dict[str, str]]:
    """Return pairs with random preferences, from which nothing can be learned."""
    generator = random.Random(0)
    rows = []
    for number in range(count):
        answers = [f"answer {generator.randrange(1000)}" for _ in range(2)]
        rows.append({"prompt": f"Question {number}?", "chosen": answers[0], "rejected": answers[1]})
    return rows


@pytest.mark.slow
def test_a_reward_model_at_chance_is_refused_and_stops_the_life(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder, random_pairs(240), name="coin.jsonl")
    command = ["reward", "coin.jsonl", "--model", "base", "--eval-fraction", "0.3"]
    assert vita(*command) == 7
    errors = capsys.readouterr().err
    assert "does not differ from chance" in errors and "allow_no_improvement: true" in errors
    assert "my/reward" not in listing(capsys)
    assert vita(*command, "--allow-no-improvement", "true") == 0
    facts = listing(capsys)["my/reward"]["facts"]
    assert facts["improvement"].startswith("not improved (allowed by `allow_no_improvement`): held-out accuracy")


@pytest.mark.slow
def test_a_reward_model_at_chance_on_transcripts_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Transcripts in the format of public preference data, with random labels."""
    rows = [
        {
            name: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[name]}"
            for name in ("chosen", "rejected")
        }
        for row in random_pairs(240)
    ]  # fmt: skip
    write_rows(folder, rows, name="transcripts.jsonl")
    assert vita("reward", "transcripts.jsonl", "--model", "base", "--eval-fraction", "0.3", "--life", "hh") == 7
    assert "does not differ from chance" in capsys.readouterr().err
    assert "hh/reward" not in listing(capsys)


# -- the criteria


def row(step: int, loss: float, **fields: Any) -> dict[str, Any]:
    return {"step": step, "loss": loss, "learning_rate": 1e-3, **fields}


def run_of(losses: list[float], **evaluations: tuple[float, float]) -> TrainResult:
    curve = [row(step, loss) for step, loss in enumerate(losses, 1)]
    first_row = {"step": 0, **{name: values[0] for name, values in evaluations.items()}}
    curve[-1] |= {name: values[1] for name, values in evaluations.items()}
    return TrainResult(len(losses), 0, [first_row, *curve])


@pytest.mark.parametrize(
    ("skipped", "steps", "is_refused"),
    [(0, 13, False), (1, 5, False), (10, 13, True), (1, 1, True), (10, 100, False), (11, 100, True)],
)
def test_a_run_that_skipped_more_than_a_tenth_of_its_steps_is_refused(
    skipped: int, steps: int, is_refused: bool
) -> None:
    reason = {"skip_reason": "loss nan"}
    curve = [row(n, 1.0, **(reason if n < skipped else {})) for n in range(steps)]
    curve = [{**step_row, "step": step_row["step"] + 1} for step_row in curve]
    assert bool(step_problems(curve)) == is_refused


def test_batches_without_targets_do_not_count_as_skipped() -> None:
    assert not step_problems([row(n, 0.0, skip_reason="no targets") for n in range(1, 10)])


def test_losses_that_end_as_nan_are_refused() -> None:
    nan = float("nan")
    assert step_problems([row(n, 1.0 if n < 98 else nan) for n in range(1, 101)])
    assert step_problems([row(1, 1.0, heldout_loss=nan)]) == ["the last heldout_loss is nan"]


def test_improvement_of_a_loss_is_judged_by_held_out_data_or_by_the_trend_of_training() -> None:
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0))
    flat_losses = [2 + 0.1 * float(value) for value in noise]
    falling_losses = [value - step / 40 for step, value in enumerate(flat_losses)]
    assert loss_evidence(run_of(flat_losses, heldout_loss=(2.0, 2.1))).verdict == "not improved"
    assert loss_evidence(run_of(flat_losses, heldout_loss=(2.0, 1.9))).verdict == "improved"
    assert loss_evidence(run_of(falling_losses, heldout_loss=(2.0, 2.1))).verdict == "improved"
    assert loss_evidence(run_of(falling_losses)).verdict == "improved"
    assert loss_evidence(run_of(falling_losses[::-1])).verdict == "not improved"
    assert loss_evidence(run_of(flat_losses[:19], heldout_loss=(2.0, 2.1))).verdict == "not judged"
    assert loss_evidence(run_of(flat_losses, heldout_loss=(2.0, 2.1)), control=True).verdict == "not judged"


def test_an_accuracy_is_judged_only_with_enough_items_and_examples() -> None:
    counts: dict[str, Any] = {"items": 60, "examples_seen": 600, "available": 600}
    assert accuracy_evidence(0.7, 0.57, **counts).verdict == "improved"
    assert accuracy_evidence(0.55, 0.42, **counts).verdict == "not improved"
    assert accuracy_evidence(0.3, 0.2, **counts).verdict == "not improved"
    assert accuracy_evidence(0.55, 0.42, **counts, control=True).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, **{**counts, "items": 29}).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, **{**counts, "examples_seen": 32}).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, items=60, examples_seen=512, available=100_000).verdict == "not improved"


def test_a_gain_is_refused_only_if_its_interval_is_below_zero() -> None:
    assert gain_evidence(-0.2, -0.3, -0.1).verdict == "not improved"
    assert gain_evidence(-0.2, -0.3, -0.1, other_judge=True).verdict == "not judged"
    assert gain_evidence(0.0, -0.1, 0.1).verdict == "not judged"
    assert gain_evidence(0.2, 0.1, 0.3).verdict == "improved"
    assert gain_evidence(0.2, float("-inf"), float("inf")).verdict == "not judged"
