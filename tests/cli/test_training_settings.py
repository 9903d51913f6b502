"""Settings of the training stages on the command line: present and former names, and the actual learning rate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_training_data import Vita, chat_model, facts_of, vita, write_rows

__all__ = ["vita"]
ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(20)]
PAIRS = [{"prompt": f"What is {n}?", "chosen": "Yes.", "rejected": "No."} for n in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "rows"), [("sft", ROWS), ("dpo", PAIRS), ("reward", PAIRS)])
def test_the_resolved_learning_rate_is_printed_and_recorded(vita: Vita, stage: str, rows: list[dict[str, str]]) -> None:
    words = (stage, write_rows("rows.jsonl", rows), "--model", chat_model(Path("m")), "--steps", "2", "--name", "c")
    code, output = vita(*words)
    rate = facts_of(vita, f"c/{stage}")["learning_rate"]
    assert code == 0 and f"learning rate {rate:.4g} (auto), linear schedule, 2 steps" in output
    code, output = vita(*words, "--learning-rate", "1e-4")
    assert code == 0 and "learning rate 0.0001, linear schedule" in output
    assert facts_of(vita, f"c/{stage}")["learning_rate"] == 1e-4


def test_former_options_and_settings_are_refused_with_the_present_name(vita: Vita) -> None:
    rows, model = write_rows("rows.jsonl", ROWS), chat_model(Path("m"))
    code, output = vita("sft", rows, "--model", model, "--rate", "0.1")
    assert code == 2 and "`rate` has been renamed to `learning_rate`" in output and "an absolute number" in output
    code, output = vita("sft", rows, "--model", model, "--set", "rows=4")
    assert code == 2 and "`rows` has been renamed to `batch_size`" in output
    life = {
        "name": "l",
        "settings": {"micro_tokens": 64},
        "stages": {"sft": {"sources": [rows], "inputs": {"model": "@m"}}},
    }
    Path("life.yaml").write_text(json.dumps(life))
    code, output = vita("live", "life.yaml")
    assert code != 0 and "`micro_tokens` has been renamed to `micro_batch_tokens`" in output


def test_a_stage_whose_batches_vary_in_shape_refuses_to_compile(vita: Vita) -> None:
    words = (write_rows("pairs.jsonl", PAIRS), "--model", chat_model(Path("m")), "--steps", "1", "--compile", "yes")
    code, output = vita("dpo", *words)
    assert code == 2 and "dpo.compile: expected 'auto' or 'no', got 'yes'" in output
