"""`vita plan` states the quality to expect of a pretraining step, before and after its design is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita
from tests.cli.test_cli import vita as vita

LIFE = """
name: small
stages:
  design: {depth: 1, width: 32, vocabulary: 300, context: 32, tokens_per_step: 64, steps: 1000, timed_steps: 0}
  curate: {sources: [{world: {things: 20, documents: 200}}], filters: []}
  tokenize: {vocabulary: 300}
  initialize: {}
  pretrain: {}
"""


@pytest.mark.slow
def test_the_plan_advises_an_open_weight_model_for_a_small_budget(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE)
    rows = json.loads(vita("plan", "life.yaml", "--json")[1])
    quality = {row["step"]: row["quality"] for row in rows}
    assert [name for name, value in quality.items() if value] == ["pretrain"]
    # 4 x 32^2 + 3 x 32 x 128 in the layer and 300 x 32 in the head; 64,000 tokens
    assert quality["pretrain"]["parameters"] == 4096 + 12_288 + 9600
    assert quality["pretrain"]["tokens"] == 64_000
    assert (quality["pretrain"]["level"], quality["pretrain"]["answers"]) == ("fragments", "none")

    code, out, err = vita("plan", "life.yaml", "--set", "pretrain.steps=10")
    assert code == 0 and not err
    assert (
        "pretrain: 25,984 matrix parameters, 640 tokens" in out
        and "start from an open-weight model (`vita adopt`)" in out
    )
    assert "basis: 0.0 tokens per parameter" in out

    assert vita("live", "life.yaml", "--until", "design")[0] == 0
    rows = json.loads(vita("plan", "life.yaml", "--json")[1])
    assert next(row["quality"] for row in rows if row["step"] == "pretrain") == quality["pretrain"]


@pytest.mark.slow
def test_a_large_design_and_the_built_in_world_have_other_expectations(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(LIFE)
    large = "design={parameters: 7B, timed_steps: 0}"
    code, out, err = vita("plan", "life.yaml", "--set", large)
    assert code == 0 and not err
    assert "an open-weight model (`vita adopt`) is a better start" in out and "tokens per parameter; " in out
    assert "answers questions about its objects" in vita("plan", "life.yaml", "--set", "design.text=world")[1]


@pytest.mark.slow
def test_the_plan_estimates_the_time_on_one_gpu(vita: Vita) -> None:
    rows = json.loads(vita("plan", "speedrun", "--gpu", "H100", "--json")[1])
    [estimate] = [row["gpu_time"] for row in rows if row["gpu_time"]]
    # 12 layers of 4 x 768^2 + 3 x 768 x 2048 and a head of 50,304 x 768: 6 operations per parameter; attention computes
    # 6 x 2 x 768 operations per visible key in each layer, of which a token has 512.5 on average
    flops = 6 * (12 * (4 * 768**2 + 3 * 768 * 2048) + 50_304 * 768) + 12 * 6 * 2 * 768 * 512.5
    assert estimate["tokens_per_second"] == pytest.approx([0.35 * 989e12 / flops, 0.43 * 989e12 / flops], rel=1e-3)
    tokens = 3500 * 524_288
    assert estimate["seconds"] == pytest.approx([tokens / speed for speed in estimate["tokens_per_second"][::-1]])
    code, out, _ = vita("plan", "speedrun", "--gpu", "H100")
    assert code == 0 and "pretrain: on one H100 about 57 to 71 minutes of training steps" in out
    code, _, err = vita("plan", "speedrun", "--gpu", "H1000")
    assert code == 2 and "--gpu: `H1000` is not known here" in err
