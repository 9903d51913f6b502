"""`vita train-filter`, and a curation with the trained filter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import Vita, vita  # noqa: F401


@pytest.mark.slow
def test_a_filter_is_trained_from_labels_and_used_by_curate(vita: Vita, tmp_path: Path) -> None:  # noqa: F811
    good = [f"The theorem number {number} is proved with care." for number in range(20)]
    bad = [f"Buy cheap pills number {number} now!" for number in range(20)]
    rows = [{"text": text, "label": 1} for text in good] + [{"text": text, "label": 0} for text in bad]
    labels, model = tmp_path / "labels.jsonl", tmp_path / "quality.safetensors"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = json.loads(vita("train-filter", str(labels), "--output", str(model), "--json")[1])
    assert result["documents"] == {"good": 20, "other": 20} and result["auc"]["value"] == 1
    assert "AUC 1.000" in vita("train-filter", str(labels), "--output", str(model))[1]
    settings = ["--filters", json.dumps([{"classifier": {"model": str(model)}}]), "--held-out", "0"]
    code, _, errors = vita("curate", str(labels), "--out", str(tmp_path / "out"), "--deduplicate", "exact", *settings)
    assert code == 0, errors
    report = json.loads((tmp_path / "out" / "report.json").read_text())["details"]
    assert report["documents"]["train"] == 20
    assert report["dropped"]["classifier.score"]["documents"] == 20

    assert vita("forget", "labels.jsonl:1", "--by", "Ada")[0] == 0
    result = json.loads(vita("train-filter", str(labels), "--output", str(model), "--json")[1])
    assert result["documents"] == {"good": 19, "other": 20} and result["excluded"] == {"erased": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--raw", "x", "--output", "a.safetensors"], "either LABELS"),
        (["x", "--output", "a.bin"], "ends with .safetensors"),
        (["--reference", "x", "--raw", "y", "--threshold", "1", "--output", "a.safetensors"], "LABELS only"),
    ],
)
def test_unusable_options_are_refused(vita: Vita, options: list[str], message: str) -> None:  # noqa: F811
    code, _, errors = vita("train-filter", *options)
    assert code == 2 and message in errors
