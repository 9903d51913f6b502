"""Training stages read each file of the model folder once, however many parts of it they use."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stages.chat_models import context, create_chat_model, write_rows
from vita.spine.config import build
from vita.stages import adapt, dpo, reward, rlhf, sft
from vita.stages.kinds import Model

_folder: str | None = None
_opened: Counter[str] = Counter()


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    """Count every file of `_folder` that Python opens; an audit hook stays for the life of the process."""
    if event == "open" and _folder is not None and str(arguments[0]).startswith(_folder):
        _opened[Path(str(arguments[0])).name] += 1


sys.addaudithook(_count)


@contextmanager
def count_opened_files(folder: Path) -> Iterator[Counter[str]]:
    """Count how often each file of a folder is opened in this block."""
    global _folder
    _opened.clear()
    _folder = f"{folder}/"
    try:
        yield _opened
    finally:
        _folder = None


def run_dpo(model: Model, folder: Path) -> None:
    rewards = {"eval_rewards": [{"use": "length", "options": {"words": 2}}], "eval_prompts": 2}
    values = {
        "sources": [write_rows(folder)],
        "precision": "float32",
        "batch_size": 8,
        "steps": 2,
        "eval_fraction": 0.3,
        **rewards,
    }
    dpo.run(_config(dpo, values), dpo.Inputs(model), context(folder / "scratch"))


def run_rlhf(model: Model, folder: Path) -> None:
    values = {
        "sources": [_rows(folder, prompt=True)], "rewards": [{"use": "matches", "options": {"pattern": "!$"}}],
        "max_tokens": 4, "steps": 1, "num_evals": 1, "eval_prompts": 2, "prompts_per_step": 2, "num_generations": 2,
    }  # fmt: skip
    rlhf.run(_config(rlhf, values), rlhf.Inputs(model), context(folder / "scratch"))


def run_sft(model: Model, folder: Path) -> None:
    values = {"sources": [_rows(folder)], "precision": "float32", "batch_size": 2, "steps": 2, "compile": "no"}
    sft.run(_config(sft, values), sft.Inputs(model), context(folder / "scratch"))


def run_reward(model: Model, folder: Path) -> None:
    values = {
        "sources": [write_rows(folder)],
        "precision": "float32",
        "batch_size": 8,
        "steps": 2,
        "eval_fraction": 0.3,
    }
    reward.run(_config(reward, values), reward.Inputs(model), context(folder / "scratch"))


def run_adapt(model: Model, folder: Path) -> None:
    path = folder / "texts.jsonl"
    texts = [{"text": f"the cat number {number} sat on the mat and slept there all day"} for number in range(40)]
    path.write_text("".join(json.dumps(text) + "\n" for text in texts))
    values = {"sources": [str(path)], "precision": "float32", "batch_size": 2, "steps": 2, "compile": "no", "replay": 0}
    adapt.run(_config(adapt, values), adapt.Inputs(model), context(folder / "scratch"))


def _config(stage: Any, values: dict[str, Any]) -> Any:
    return build(stage.Config, {**values, "allow_no_improvement": True}, where="test")


def _rows(folder: Path, *, prompt: bool = False) -> str:
    path = folder / "rows.jsonl"
    words = ("mu", "ba", "ko", "ti", "ra", "ne", "lo", "fi")
    rows = [{"prompt": word} if prompt else {"instruction": f"{word}?", "output": f"{word}!"} for word in words]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


SLOW = [pytest.param(run, marks=pytest.mark.slow) for run in (run_sft, run_reward, run_adapt)]


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_dpo, run_rlhf, *SLOW])
def test_a_training_stage_reads_each_file_of_the_model_folder_once(
    run: Callable[[Model, Path], None], tmp_path: Path
) -> None:
    model = create_chat_model(tmp_path / "model")
    with count_opened_files(model.path) as opened:
        run(model, tmp_path)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(opened)
    assert {name: count for name, count in opened.items() if count > 1} == {}
