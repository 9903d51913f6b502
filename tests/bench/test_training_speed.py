"""Figures of the training speed benchmark."""

from __future__ import annotations

import sys

from bench.rounds import Contender, in_turns
from bench.training_speed import figures


def row(speed: float, *, peak: float = 1000.0) -> dict[str, object]:
    return {
        "tokens_per_second": speed,
        "flops_per_token": 10.0,
        "seconds_to_first_step": 3.0,
        "dtype": "bfloat16",
        "probe": {"bfloat16": peak, "float32": peak / 4},
    }


def test_vita_is_compared_with_each_peer_and_the_best():
    results = {"vita": [row(60), row(80)], "plain bf16": [row(30), row(20)], "plain fp32": [row(10), row(10)]}
    figures_by_peer = {(result.figure, result.peer): result for result in figures(results)}
    assert figures_by_peer["training speed", "plain fp32"].ratio == 7
    assert figures_by_peer["training speed, best peer", "plain bf16"].ratio == 3
    assert figures_by_peer["time to the first step", None].value == 3


def test_utilization_is_relative_to_the_peak_of_the_same_round():
    figures_by_name = {result.figure: result for result in figures({"vita": [row(50, peak=1000), row(50, peak=2000)]})}
    spread = figures_by_name["utilisation of vita (bfloat16)"].spread
    assert spread == {"of": "value", "low": 0.25, "high": 0.5, "rounds": 2}


def test_variants_of_vita_are_not_peers():
    names = [result.figure for result in figures({"vita": [row(60)], "vita fp32": [row(90)]})]
    assert "training speed, best peer" not in names


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
