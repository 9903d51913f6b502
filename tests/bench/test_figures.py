"""A measured figure as one JSON line."""

from __future__ import annotations

import json

from bench.figures import figure, report


def test_the_ratio_is_taken_round_by_round():
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


def test_where_less_is_better_a_ratio_above_one_is_still_ours():
    assert figure("loss", [1.5], unit="bits_per_byte", peer="other", peer_values=[3.0]).ratio == 2


def test_without_a_peer_the_spread_is_of_the_value():
    found = figure("peak", [1, 2, 4], unit="GFLOP/s")
    assert (found.value, found.ratio) == (2, None)
    assert found.spread == {"of": "value", "low": 1, "high": 4, "rounds": 3}


def test_figures_are_saved_only_when_asked(tmp_path, capsys):
    found = figure("peak", [1], unit="GFLOP/s")
    report([found])
    report([found], save=tmp_path / "results" / "peak.jsonl")
    assert capsys.readouterr().out == 2 * (found.line() + "\n")
    assert (tmp_path / "results" / "peak.jsonl").read_text() == found.line() + "\n"
