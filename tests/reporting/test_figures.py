"""The file of a report: written reports can be read, the JSON Schema agrees, and everything else is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vita.reporting.figures import ReportContent, parse_report, read_report, schema_text, write_report
from vita.spine.errors import DataError
from vita.stats.intervals import Interval, wilson

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "report.schema.json"
FIGURES = {
    "world": {"world": {"held_out/accuracy": wilson(3, 4), "complaint_rate/after": Interval(0.5, -math.inf, 1.0, 1)}}
}


def _content() -> dict[str, Any]:
    report = ReportContent.of("test", FIGURES, model="m" * 64, settings={"guard": None}, details={"samples": [1, "a"]})
    return report.model_dump(mode="json")


def _refusal(content: Any) -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(DataError) as error:
        parse_report(text.encode(), where="r/report.json")
    return str(error.value)


def test_a_written_report_can_be_read(tmp_path: Path) -> None:
    report = ReportContent.of("test", FIGURES, model="m" * 64, baseline="b" * 64, could_not_run={"harm": "no answer"})
    path = write_report(report, tmp_path / "report")
    assert read_report(path.parent) == report
    figures = read_report(path.parent).named()
    assert figures["world/held_out/accuracy"].interval == wilson(3, 4)
    assert figures["world/complaint_rate/after"].interval == Interval(0.5, -math.inf, 1.0, 1)
    assert [figure.higher_is_better for figure in figures.values()] == [True, False]
    assert all(figure.confidence == 0.95 for figure in figures.values())


def test_text_that_is_not_unicode_is_written_with_escapes(tmp_path: Path) -> None:
    write_report(ReportContent.of("curate", details={"files": ["b\udcff.txt"]}), tmp_path)
    assert read_report(tmp_path).details["files"] == ["b\\udcff.txt"]


def test_the_published_schema_equals_the_generated_schema() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run python -m vita.reporting.figures"
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    validator.validate(_content())
    figure = _content()["figures"]["world"]["world"]["held_out/accuracy"]
    for change in (
        {"schema_version": 2},
        {"stage": None},
        {"surprise": 1},
        {"figures": {"a": {"b": {"c": 0.5}}}},
        {"figures": {"a": {"b": {"c": {**figure, "n": -1}}}}},
        {"figures": {"a": {"b": {"c": {**figure, "value": "0.5"}}}}},
        {"figures": {"a": {"b": {"c": {**figure, "confidence": 1}}}}},
    ):
        content = {**_content(), **change}
        assert not validator.is_valid(content), change
        _refusal(content)
    for name in ("schema_version", "stage"):
        content = {key: value for key, value in _content().items() if key != name}
        assert not validator.is_valid(content)


def test_the_error_for_another_schema_version_names_the_command_that_rebuilds_the_report() -> None:
    text = _refusal({**_content(), "schema_version": 2})
    assert "r/report.json, schema_version: expected 1, got 2; a newer Vita wrote it" in text
    assert text.endswith("or make it again with `vita test`")
    assert "expected 1, got 0; make it again with `vita review report`" in _refusal(
        {**_content(), "schema_version": 0, "stage": "review"}
    )
    assert "expected 1, got True" in _refusal({**_content(), "schema_version": True})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{no json", "is not valid JSON"),
        ("[1]", "expected a report, which is a JSON object, got 'list'"),
        ("{}", "expected a report with schema_version 1, got 'none'; run the stage that wrote it again"),
        ('{"figures": {"a": {"b": {"c": {"value": NaN, "low": 0, "high": 1, "n": 1}}}}}', "NaN is not a finite number"),
        ('{"figures": {}, "seconds": 1e999}', "seconds: expected a finite number, got inf"),
        ('{"figures": []}', "figures: expected a valid"),
        ('{"figures": {"a": {"b": {"c": {"value": "text", "low": 0, "high": 1, "n": 1}}}}}', "figures.a.b.c.value"),
    ],
)
def test_invalid_report_files_are_refused(text: str, problem: str) -> None:
    assert problem in _refusal(text)


def test_an_unknown_field_is_refused_by_name() -> None:
    assert "r/report.json, surprise: expected one of the fields schema_version, stage" in _refusal(
        {**_content(), "surprise": 1}
    )


def test_a_missing_report_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report.json: the report cannot be read: No such file .*vita test"):
        read_report(tmp_path)


def test_a_report_from_before_schema_versions_is_read() -> None:
    figures = {"world": {"world": {"complaint_rate/after": {"value": 0.5, "low": 0.1, "high": None, "n": 4}}}}
    old_report = {
        "model": "m" * 64,
        "before": "b" * 64,
        "figures": figures,
        "settings": {"guard": None},
        "promoted": True,
    }
    report = parse_report(json.dumps(old_report).encode(), where="r")
    assert (report.stage, report.model, report.baseline) == ("unknown", "m" * 64, "b" * 64)
    assert report.settings == {"guard": None} and report.details == {"promoted": True}
    figure = report.named()["world/complaint_rate/after"]
    assert figure.interval == Interval(0.5, 0.1, math.inf, 4) and figure.higher_is_better is False


def test_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(DataError, match="the report of sft, details.counts.mean: expected a finite number, got nan"):
        ReportContent.of("sft", details={"counts": {"mean": math.nan}})
