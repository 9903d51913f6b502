"""Figures of the benchmark of pretraining, and its shapes."""

from __future__ import annotations

import sys

import pytest

from bench.pretraining import SHAPES, figures
from bench.rounds import Contender, in_turns
from bench.trainers import Shape
from vita.design.scaling_rules import context_of, shape_of_depth


def row(speed: float, *, peak: float = 1000.0, first: float = 3.0) -> dict[str, object]:
    return {
        "tokens_per_second": speed,
        "tokens_per_processor_second": speed / 2,
        "flops_per_token": 10.0,
        "seconds_to_first_step": first,
        "dtype": "bfloat16",
        "probe": {dtype: {"best": peak, "per_processor_second": peak / 2} for dtype in ("bfloat16", "float32")},
    }


def test_vita_is_compared_with_each_peer_and_the_better_of_transformers_and_nanochat():
    results = {
        "vita": [row(60), row(80)],
        "nanochat bf16 compiled": [row(30), row(20)],
        "transformers bf16": [row(10), row(10)],
        "plain bf16": [row(40), row(40)],
    }
    by_peer = {(figure.figure, figure.peer, figure.unit): figure for figure in figures(results, shape="768x12")}
    assert by_peer["pretraining 768x12", "transformers bf16", "tokens/s"].ratio == 7
    assert by_peer["pretraining 768x12", "plain bf16", "tokens/processor s"].ratio == 1.75
    assert by_peer["pretraining 768x12, best peer", "nanochat bf16 compiled", "tokens/s"].ratio == 3


def test_the_first_round_starts_cold_and_the_others_start_warm():
    results = {"vita": [row(60, first=40), row(60, first=8), row(60, first=10)]}
    seconds = {figure.figure: figure.value for figure in figures(results, shape="256x6")}
    assert seconds["first step of vita, cold, 256x6"] == 40
    assert seconds["first step of vita, warm, 256x6"] == 9


def test_utilization_is_relative_to_the_peak_of_the_same_round():
    results = {"vita": [row(50, peak=1000), row(50, peak=2000)]}
    by_name = {figure.figure: figure for figure in figures(results, shape="256x6")}
    for label in ("utilization of vita", "utilization per processor second of vita"):
        spread = by_name[f"{label} (bfloat16), 256x6"].spread
        assert spread == {"of": "value", "low": 0.25, "high": 0.5, "rounds": 2}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_the_one_that_vita_designs_for_its_width_and_depth(name):
    shape = Shape.named(name)
    designed = shape_of_depth(
        shape.layers, vocabulary=shape.vocabulary, context=context_of(shape.width), width=shape.width
    )
    sizes = (designed.heads, designed.kv_heads, designed.head_dim, designed.feedforward, designed.context)
    expected = (shape.heads, shape.heads, shape.width // shape.heads, shape.feedforward, shape.context)
    assert sizes == expected


def test_a_failing_tool_is_skipped_with_a_message(capfd):
    good = Contender(["-c", "print('noise'); print('{\"value\": 1}')"], python=sys.executable)
    bad = Contender(["-c", "raise SystemExit('no such thing')"], python=sys.executable)
    probe = Contender(["-c", "print('{\"peak\": 2}')"], python=sys.executable)
    assert in_turns({"good": good, "bad": bad}, rounds=1, threads=1, probe=probe) == {
        "good": [{"value": 1, "probe": {"peak": 2}}]
    }
    assert "# skipped bad: exit 1: no such thing" in capfd.readouterr().err


def test_a_killed_tool_is_skipped_with_the_signal(capfd):
    killed = Contender(["-c", "import os; os.kill(os.getpid(), 9)"], python=sys.executable)
    assert in_turns({"killed": killed}, rounds=1, threads=1) == {}
    assert "# skipped killed: killed by signal 9" in capfd.readouterr().err
