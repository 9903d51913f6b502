"""The check at the end of training stages, through the command line: a run that learned nothing gives no model."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from tests.stages.preferring import create_chat_model, write_rows
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
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    code = stopped.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def trained(stage: str, *options: str) -> int:
    return vita(*COMMANDS[stage], "--model", "base", *options)


def listing(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert vita("ls", "--json") == 0
    return {name: row for row in json.loads(capsys.readouterr().out) for name in row["names"]}


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_tokenizer_larger_than_the_embedding_is_refused_by_every_stage(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder / "base/tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.add_special_tokens([AddedToken("<|tool|>", special=True)])
    tokenizer.save(path)
    assert trained(stage, "--steps", "1") == 6
    assert "the tokenizer has 260 tokens, the model 259" in capsys.readouterr().err
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_before_training(
    folder: Path, stage: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(folder / "base/model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, folder / "base/model.safetensors", metadata={"format": "pt"})
    assert trained(stage, "--steps", "1") == 6
    assert "model.norm.weight, contains NaN" in capsys.readouterr().err.replace(": contains", ", contains")
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["adapt", "sft", "dpo", "reward"])
def test_a_run_whose_weights_explode_is_refused_and_its_reasons_are_kept(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second time from its checkpoint: a refused run is never taken for an answer
        assert trained(stage, "--steps", "13", "--learning-rate", "1e30", "--warmup-fraction", "0") == 7
        errors = capsys.readouterr().err
        assert "the trained model is not kept" in errors and "Traceback" not in errors
    [record] = (folder / "store").rglob("validation.json")
    assert json.loads(record.read_text())["stage"] == stage
    assert (record.parent / "metrics.jsonl").exists()
    assert f"my/{stage}" not in listing(capsys)


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_run_of_one_step_is_not_refused_for_being_short(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(stage, "--steps", "1", "--set", "seed=3") == 0, capsys.readouterr().err
    assert listing(capsys)[f"my/{stage}"]["facts"]["improvement"].startswith("not judged")


def test_a_rate_too_small_to_change_any_weight_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trained("sft", "--steps", "2", "--learning-rate", "1e-30") == 7
    assert "no weight has changed" in capsys.readouterr().err


def coin_pairs(count: int) -> list[dict[str, str]]:
    """Pairs whose better answer was drawn with a coin: nothing can be learned from them."""
    chance = random.Random(0)
    rows = []
    for number in range(count):
        answers = [f"answer {chance.randrange(1000)}" for _ in range(2)]
        rows.append({"prompt": f"Question {number}?", "chosen": answers[0], "rejected": answers[1]})
    return rows


@pytest.mark.slow
def test_a_reward_model_at_chance_is_refused_and_stops_the_life(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(folder, coin_pairs(240), name="coin.jsonl")
    command = ["reward", "coin.jsonl", "--model", "base", "--eval-fraction", "0.3"]
    assert vita(*command) == 7
    errors = capsys.readouterr().err
    assert "does not differ from chance" in errors and "allow_no_improvement: true" in errors
    assert "my/reward" not in listing(capsys)
    assert vita(*command, "--allow-no-improvement", "true") == 0
    facts = listing(capsys)["my/reward"]["facts"]
    assert facts["improvement"].startswith("not improved (allowed by `allow_no_improvement`): held-out accuracy")


def test_a_reward_model_at_chance_on_transcripts_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Transcripts as public preference data has them, with labels drawn by a coin."""
    rows = [
        {
            name: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[name]}"
            for name in ("chosen", "rejected")
        }
        for row in coin_pairs(240)
    ]  # fmt: skip
    write_rows(folder, rows, name="transcripts.jsonl")
    assert vita("reward", "transcripts.jsonl", "--model", "base", "--eval-fraction", "0.3", "--life", "hh") == 7
    assert "does not differ from chance" in capsys.readouterr().err
    assert "hh/reward" not in listing(capsys)


# -- the criteria


def row(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": loss, "learning_rate": 1e-3, **more}


def run_of(losses: list[float], **ends: tuple[float, float]) -> TrainResult:
    curve = [row(step, loss) for step, loss in enumerate(losses, 1)]
    first = {"step": 0, **{name: values[0] for name, values in ends.items()}}
    curve[-1] |= {name: values[1] for name, values in ends.items()}
    return TrainResult(len(losses), 0, [first, *curve])


@pytest.mark.parametrize(
    ("skipped", "steps", "refused"),
    [(0, 13, False), (1, 5, False), (10, 13, True), (1, 1, True), (10, 100, False), (11, 100, True)],
)
def test_more_than_a_tenth_of_skipped_steps_is_refused(skipped: int, steps: int, refused: bool) -> None:
    reason = {"skip_reason": "loss nan"}
    curve = [row(n, 1.0, **(reason if n < skipped else {})) for n in range(steps)]
    curve = [{**one, "step": one["step"] + 1} for one in curve]
    assert bool(step_problems(curve)) == refused


def test_batches_without_targets_do_not_count_as_skipped() -> None:
    assert not step_problems([row(n, 0.0, skip_reason="no targets") for n in range(1, 10)])


def test_losses_that_end_as_nan_are_refused() -> None:
    nan = float("nan")
    assert step_problems([row(n, 1.0 if n < 98 else nan) for n in range(1, 101)])
    assert step_problems([row(1, 1.0, heldout_loss=nan)]) == ["the last heldout_loss is nan"]


def test_improvement_of_a_loss_is_judged_by_held_out_data_or_by_the_trend_of_training() -> None:
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0))
    flat = [2 + 0.1 * float(value) for value in noise]
    falling = [value - step / 40 for step, value in enumerate(flat)]
    assert loss_evidence(run_of(flat, heldout_loss=(2.0, 2.1))).verdict == "not improved"
    assert loss_evidence(run_of(flat, heldout_loss=(2.0, 1.9))).verdict == "improved"
    assert loss_evidence(run_of(falling, heldout_loss=(2.0, 2.1))).verdict == "improved"
    assert loss_evidence(run_of(falling)).verdict == "improved"
    assert loss_evidence(run_of(falling[::-1])).verdict == "not improved"
    assert loss_evidence(run_of(flat[:19], heldout_loss=(2.0, 2.1))).verdict == "not judged"
    assert loss_evidence(run_of(flat, heldout_loss=(2.0, 2.1)), control=True).verdict == "not judged"


def test_an_accuracy_is_judged_when_there_is_enough_to_tell() -> None:
    enough: dict[str, Any] = {"items": 60, "examples_seen": 600, "available": 600}
    assert accuracy_evidence(0.7, 0.57, **enough).verdict == "improved"
    assert accuracy_evidence(0.55, 0.42, **enough).verdict == "not improved"
    assert accuracy_evidence(0.3, 0.2, **enough).verdict == "not improved"
    assert accuracy_evidence(0.55, 0.42, **enough, control=True).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, **{**enough, "items": 29}).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, **{**enough, "examples_seen": 32}).verdict == "not judged"
    assert accuracy_evidence(0.55, 0.42, items=60, examples_seen=512, available=100_000).verdict == "not improved"


def test_a_gain_is_refused_only_where_it_is_below_zero_for_certain() -> None:
    assert gain_evidence(-0.2, -0.3, -0.1).verdict == "not improved"
    assert gain_evidence(-0.2, -0.3, -0.1, other_judge=True).verdict == "not judged"
    assert gain_evidence(0.0, -0.1, 0.1).verdict == "not judged"
    assert gain_evidence(0.2, 0.1, 0.3).verdict == "improved"
    assert gain_evidence(0.2, float("-inf"), float("inf")).verdict == "not judged"
