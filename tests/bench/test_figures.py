"""A measured figure as one JSON line."""

from __future__ import annotations

import json

from bench.figures import figure, report


def test_the_ratio_is_the_median_over_rounds():
    line = json.loads(figure("speed", [10, 20, 30], unit="tokens/s", peer="other", peer_values=[5, 5, 10]).line())
    assert line == {
        "figure": "speed",
        "value": 20,
        "unit": "tokens/s",
        "peer": "other",
        "peer_value": 5,
        "ratio": 3,
        "spread": {"of": "ratio", "low": 2, "high": 4, "rounds": 3},
    }


def test_a_ratio_above_one_means_that_vita_is_better_for_losses():
    assert figure("loss", [1.5], unit="bits_per_byte", peer="other", peer_values=[3.0]).ratio == 2


def test_the_spread_without_a_peer_is_that_of_the_value():
    peak = figure("peak", [1, 2, 4], unit="GFLOP/s")
    assert (peak.value, peak.ratio) == (2, None)
    assert peak.spread == {"of": "value", "low": 1, "high": 4, "rounds": 3}


def test_figures_are_saved_only_on_request(tmp_path, capsys):
    peak = figure("peak", [1], unit="GFLOP/s")
    report([peak])
    report([peak], save=tmp_path / "results" / "peak.jsonl")
    assert capsys.readouterr().out == 2 * (peak.line() + "\n")
    assert (tmp_path / "results" / "peak.jsonl").read_text() == peak.line() + "\n"
