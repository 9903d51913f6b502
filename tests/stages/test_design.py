"""The stage `design`: one size setting gives a blueprint that does not depend on the machine, and a speed that does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vita.design import throughput
from vita.design.plan_vs_actual import plan_vs_actual
from vita.design.scaling_rules import shape_of_depth, training_plan
from vita.design.throughput import TrainingSpeed, measure_speed
from vita.nn.architecture import Architecture
from vita.spine.config import build
from vita.spine.errors import ConfigError
from vita.spine.machine import Machine
from vita.spine.stage import Context, Draft
from vita.stages import design
from vita.stages.kinds import Tokens


def run(scratch: Path, tokens: Tokens | None = None, **values: Any) -> tuple[Draft, dict[str, Any], Context]:
    context = Context(scratch, lambda *args, **fields: None, Machine(chosen_device="cpu"))
    draft = design.run(build(design.Config, values, where="design"), design.Inputs(tokens), context)
    return draft, json.loads((draft.folder / "blueprint.json").read_text()), context


def test_a_blueprint_from_depth_and_steps_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "depth": 4,
        "steps": 1500,
        "vocabulary": 1024,
        "context": 96,
        "tokens_per_step": 1536,
        "timed_steps": 0,
    }
    first, blueprint, context = run(tmp_path / "a", None, **settings)
    second, _, _ = run(tmp_path / "b", None, **settings)
    for name in ("blueprint.json", "report.md"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    assert context.record == {}
    shape = Architecture.model_validate(blueprint["architecture"])
    assert (shape.layers, shape.width, shape.vocabulary, shape.context) == (4, 256, 1024, 96)
    assert (blueprint["training"]["steps"], blueprint["training"]["rows"]) == (1500, 16)
    assert blueprint["prediction"]["parameters"]["total"] == shape.parameters() == first.facts["parameters"]


def test_a_parameter_count_gives_a_model_of_about_that_size(tmp_path: Path) -> None:
    draft, blueprint, _ = run(tmp_path, parameters="10M", timed_steps=0)
    assert draft.facts["parameters"] == pytest.approx(10e6, rel=0.1)
    assert blueprint["training"]["tokens"] == pytest.approx(12 * 1e7, rel=0.4)


def test_the_amount_of_text_bounds_the_training_tokens(tmp_path: Path) -> None:
    tokens = Tokens("t" * 64, tmp_path, {"vocabulary": 500, "train_tokens": 100_000, "bytes_per_token": 2.5})
    _, blueprint, _ = run(tmp_path, tokens, depth=2, timed_steps=0)
    assert blueprint["architecture"]["vocabulary"] == 500
    assert blueprint["training"]["tokens"] == pytest.approx(400_000, rel=0.01)
    assert blueprint["prediction"]["epochs"] == pytest.approx(4, rel=0.01)
    assert blueprint["prediction"]["text_bytes"] == round(2.5 * blueprint["training"]["tokens"])


def test_a_time_budget_becomes_steps_at_the_measured_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = TrainingSpeed(
        0.5,
        20.0,
        flops_per_second=3e11,
        peak_flops_per_second=6e11,
        precision="bfloat16",
        compiled=True,
        tokens_per_step=4096,
    )
    monkeypatch.setattr(throughput, "measure_speed", lambda *args, **settings: speed)
    monkeypatch.setattr(design, "_usual_speed", lambda context: 3e11)
    draft, blueprint, context = run(tmp_path, budget="30 min", price_per_hour=2.0)
    tokens = (1800 * 0.97 - 20) / 0.5 * 4096  # the tokens of the budget at the timed speed, without the startup time
    assert draft.facts["tokens"] == pytest.approx(tokens, rel=0.01)
    assert blueprint["training"]["steps"] == draft.facts["steps"]
    assert context.record["training_seconds"] == pytest.approx(draft.facts["tokens"] / 4096 * 0.5 + 20, rel=0.001)
    assert context.record["cost"] == pytest.approx(0.97, abs=0.01)
    assert context.record["utilisation"] == 0.5
    assert 2e6 < blueprint["prediction"]["parameters"]["total"] < 12e6
    for name in ("seconds", "utilisation", "cost"):
        assert name not in (draft.folder / "blueprint.json").read_text()


def test_speed_is_measured_on_real_training_steps() -> None:
    shape = shape_of_depth(1, vocabulary=512, context=32)
    plan = training_plan(shape, tokens=2560, tokens_per_step=256)
    speed = measure_speed(shape, plan, steps=1, threads=1)
    assert speed.flops_per_second == pytest.approx(shape.flops_per_token(32) * 256 / speed.seconds_per_step)
    assert 0 < speed.utilisation < 1.5
    assert not speed.compiled  # compilation does not pay off in so short a run


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "set one of parameters, depth and budget, not none"),
        ({"depth": 4, "budget": "1 h"}, "not depth and budget"),
        ({"budget": "soon"}, "design.budget: expected a valid number"),
        ({"parameters": "ten"}, "design.parameters: expected a valid integer"),
        ({"budget": 60, "steps": 5}, "a budget decides `steps`"),
        ({"budget": 60, "timed_steps": 0}, "a budget needs `timed_steps`"),
        ({"depth": 2, "context": 64, "tokens_per_step": 100}, "must be a multiple of `context`"),
        ({"width": 64, "parameters": "1M"}, "`width` goes with `depth`"),
    ],
)
def test_contradicting_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(design.Config, values, where="design")


@pytest.mark.parametrize(
    ("text", "value"), [("10M", 10_000_000), ("1.5b", 1_500_000_000), ("500k", 500_000), ("42", 42)]
)
def test_counts_with_unit_suffixes_are_parsed(text: str, value: int) -> None:
    assert design.count(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("30 min", 1800), ("2h", 7200), ("90", 90), ("1.5 hours", 5400), ("1 d", 86400)]
)
def test_durations_with_units_are_parsed(text: str, value: float) -> None:
    assert design.seconds(text) == value


def test_the_plan_is_compared_with_the_actual_run(tmp_path: Path) -> None:
    draft, blueprint, _ = run(tmp_path, depth=2, steps=100, timed_steps=0)
    predicted = blueprint["prediction"]
    actual = {"heldout_bits_per_byte": predicted["bits_per_byte"]["value"] * 1.02, "tokens": predicted["tokens"]}
    designed = {"training_seconds": 100.0, "tokens_per_second": 1000.0}
    rows = {row.figure: row for row in plan_vs_actual(blueprint, designed, facts=actual, record={"seconds": 110.0})}
    assert rows["bits per byte"].error == "+2.0 %, within the range"
    assert rows["tokens"].error == "+0.0 %"
    assert rows["seconds"].error == "+10.0 %"
    assert "bytes of memory" not in rows  # it was not measured
    assert design.plan_table(draft.folder, designed, actual, {"seconds": 110.0}).row_count == 3


def test_windows_and_latent_attention_are_settings_of_a_new_model(tmp_path: Path) -> None:
    from vita.nn.families import read_architecture, write_config

    sizes: dict[str, Any] = {"depth": 8, "steps": 10, "vocabulary": 512, "context": 64, "timed_steps": 0}
    _, blueprint, _ = run(tmp_path / "a", None, **sizes, window=16)
    shape = Architecture.model_validate(blueprint["architecture"])
    assert (shape.window, shape.window_layers) == (16, (0, 1, 2, 4, 5, 6))
    assert read_architecture(write_config(shape)) == shape
    _, blueprint, _ = run(tmp_path / "b", None, **sizes, window=16, window_pattern=0)
    assert blueprint["architecture"]["window_layers"] == [*range(8)]
    _, blueprint, _ = run(tmp_path / "c", None, **sizes, latent=True)
    latent = Architecture.model_validate(blueprint["architecture"])
    assert latent.family == "deepseek_v3" and latent.latent is not None
    assert latent.latent.key_value_rank == 256 and latent.latent.rotated_dim == 32 and latent.latent.query_rank is None
    assert read_architecture(write_config(latent)) == latent
    assert latent.cache_bytes_per_token() < 0.3 * shape.cache_bytes_per_token()
    custom = {"key_value_rank": 32, "unrotated_dim": 16, "rotated_dim": 8, "value_dim": 12}
    _, blueprint, _ = run(tmp_path / "d", None, **sizes, latent=custom)
    assert blueprint["architecture"]["head_dim"] == 24
    for values, message in (
        ({"window": 16, "latent": True}, "exclude each other"),
        ({"window_pattern": 2}, "goes with `window`"),
        ({"window": 16, "window_pattern": 1}, "leaves no layer"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / "e", None, **sizes, **values)


@pytest.mark.parametrize(
    ("settings", "family", "dense_layers"),
    [({"experts": 8}, "qwen3_moe", ()), ({"experts": 8, "shared_experts": 1, "dense_layers": 1}, "dots1", (0,))],
)
def test_a_mixture_needs_the_operations_of_the_dense_model_and_the_memory_of_all_experts(
    settings: dict[str, int], family: str, dense_layers: tuple[int, ...], tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"depth": 4, "steps": 10, "vocabulary": 1024, "context": 96, "timed_steps": 0}
    dense, _, _ = run(tmp_path / "dense", None, **sizes)
    mixture, blueprint, _ = run(tmp_path / "mixture", None, **sizes, **settings)
    shape = Architecture.model_validate(blueprint["architecture"])
    assert shape.family == family and shape.experts is not None and shape.experts.dense_layers == dense_layers
    assert mixture.facts["flops"] == pytest.approx(dense.facts["flops"], rel=0.02)
    assert mixture.facts["active_parameters"] == pytest.approx(dense.facts["parameters"], rel=0.02)
    assert mixture.facts["parameters"] == shape.parameters() > 1.5 * dense.facts["parameters"]
    assert blueprint["prediction"]["memory"]["weights"] == 4 * shape.parameters()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"active_experts": 3}, "`active_experts` goes with `experts`"),
        ({"experts": 2, "active_experts": 3}, "3 active experts of 2"),
        ({"experts": 4, "shared_experts": 1, "router": "softmax"}, "shared experts need the router `sigmoid`"),
        ({"experts": 4, "router": "sigmoid"}, "needs `shared_experts`"),
        ({"experts": 4, "dense_layers": 2}, "dense_layers"),
    ],
)
def test_impossible_mixtures_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, None, depth=2, steps=10, vocabulary=512, context=32, timed_steps=0, **settings)
