"""Validation of every report in a folder against the published JSON Schema and the reader."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema

from vita.reporting import REPORT_FILE
from vita.reporting.figures import ReportContent, read_report, schema_text


def valid_reports(folder: Path) -> list[ReportContent]:
    """Read every report below a folder; raises if one does not conform to the JSON Schema."""
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    paths = sorted(folder.rglob(REPORT_FILE))
    for path in paths:
        validator.validate(json.loads(path.read_bytes()))
    return [read_report(path.parent) for path in paths]
