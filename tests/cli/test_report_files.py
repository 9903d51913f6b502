"""Every report of a life conforms to the published JSON Schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import LIFE, Vita, vita
from tests.reporting.schema import valid_reports

__all__ = ["vita"]

MEASURED = LIFE.replace("filters: []", "filters: [], held_out: 8").replace(
    "ask:", "  check: {stage: test, documents: 8, prompts: [hello]}\nask:"
)


@pytest.mark.slow
def test_every_report_of_a_life_conforms_to_the_published_schema(vita: Vita, tmp_path: Path) -> None:
    (tmp_path / "life.yaml").write_text(MEASURED)
    code, _, err = vita("live", "life.yaml")
    assert code == 0, err
    reports, digests = {}, {}
    for artifact in json.loads(vita("ls", "--json")[1]):
        for name in artifact["names"]:
            digests[name] = artifact["digest"]
            if artifact_reports := valid_reports(Path(artifact["folder"])):
                (reports[name],) = artifact_reports
    stages = {name: report.stage for name, report in reports.items()}
    expected = {f"tiny/{stage}": stage for stage in ("curate", "tokenize", "initialize", "sft")} | {
        "tiny/check": "test"
    }
    assert stages == expected
    assert reports["tiny/sft"].baseline == digests["tiny/pretrain"]
    check = reports["tiny/check"]
    assert check.model == digests["tiny/sft"] and "heldout/bits_per_byte" in check.named()
