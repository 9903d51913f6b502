"""The report of a stage: figures with intervals, and details, in the file `report.json`.

    figures = {"texts": {"heldout": {"bits_per_byte": Interval(0.9, 0.8, 1.0, 40)}}}
    report = ReportContent.of("test", figures, model=digest)
    write_report(report, folder)
    read_report(folder).named()["heldout/bits_per_byte"].interval      # 0.900 (0.800 to 1.000)

This module is the only code that writes or reads the file. `docs/report.schema.json` is its JSON Schema, written by
`python -m vita.reporting.figures > docs/report.schema.json`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from vita.reporting import REPORT_FILE
from vita.reporting.metrics import higher_is_better, unit
from vita.spine.config import Settings
from vita.spine.errors import DataError
from vita.spine.store import Store
from vita.stats.intervals import CONFIDENCE, Interval

SCHEMA_VERSION: Literal[1] = 1
UNKNOWN_STAGE = "unknown"
"""The stage of a report that was written before reports had a schema version."""
_COMMANDS = {"review": "review report"}
"""The command that writes a report, where it is not the name of the stage."""
_CONTENT_BEFORE_VERSIONS = {"figures", "counts", "documents", "tokenizer"}
"""Fields of which each report without a schema version has at least one."""

Groups = Mapping[str, Mapping[str, Mapping[str, Interval]]]
"""group -> name -> metric -> measured interval."""


class ReportFigure(Settings):
    """A measured number with its confidence interval."""

    model_config = ConfigDict(strict=True)

    value: float | None
    """The estimate; null where nothing was measured."""
    low: float | None
    """The lower end of the confidence interval; null where the interval has no finite lower end."""
    high: float | None
    """The upper end of the confidence interval; null where the interval has no finite upper end."""
    n: int = Field(ge=0)
    """The number of independent observations."""
    confidence: float = Field(default=CONFIDENCE, gt=0, lt=1)
    """The confidence level of the interval."""
    unit: str | None = None
    """The unit of the value; null for shares, scores and other numbers without a unit."""
    higher_is_better: bool | None = None
    """True if a higher value is better; null if neither direction is better."""

    @classmethod
    def of(cls, metric: str, interval: Interval, *, confidence: float = CONFIDENCE) -> ReportFigure:
        """Create the figure of a metric; its name decides the unit and the better direction."""
        return cls(
            **interval.as_json(), confidence=confidence, unit=unit(metric), higher_is_better=higher_is_better(metric)
        )

    @property
    def interval(self) -> Interval:
        """The value and the ends of the interval, with NaN or infinity for null."""
        return Interval.from_json({"value": self.value, "low": self.low, "high": self.high, "n": self.n})


class NamedFigure(NamedTuple):
    """A figure with its position in the report."""

    group: str
    item: str
    metric: str
    figure: ReportFigure

    @property
    def name(self) -> str:
        """The name by which gates and cards refer to the figure: `world/held_out/accuracy`."""
        return f"{self.item}/{self.metric}"


class ReportContent(Settings):
    """The content of `report.json`: what a stage measured or counted."""

    model_config = ConfigDict(strict=True)

    schema_version: Literal[1]
    """The version of this schema."""
    stage: str = Field(min_length=1)
    """The stage or command that wrote the report."""
    model: str | None = None
    """The digest of the measured model; null where the report is part of the artifact that it describes."""
    baseline: str | None = None
    """The digest of the model that the measured model is compared with."""
    figures: Mapping[str, Mapping[str, Mapping[str, ReportFigure]]] = {}
    """group -> name -> metric -> figure."""
    settings: Mapping[str, Any] = {}
    """The settings of the measurement."""
    could_not_run: Mapping[str, str] = {}
    """Measurement -> the reason why it could not run."""
    details: Mapping[str, Any] = {}
    """Counts, samples and other content that is specific to the stage."""

    @classmethod
    def of(
        cls,
        stage: str,
        figures: Groups | None = None,
        *,
        model: str | None = None,
        baseline: str | None = None,
        settings: Mapping[str, Any] | None = None,
        could_not_run: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> ReportContent:
        """Create a report from measured intervals and plain values; refuses what JSON cannot express."""
        where = f"the report of {stage}"
        return cls(
            schema_version=SCHEMA_VERSION,
            stage=stage,
            model=model,
            baseline=baseline,
            figures={
                group: {
                    item: {metric: ReportFigure.of(metric, interval) for metric, interval in metrics.items()}
                    for item, metrics in items.items()
                }
                for group, items in (figures or {}).items()
            },
            settings=_plain(settings or {}, f"{where}, settings"),
            could_not_run=dict(could_not_run or {}),
            details=_plain(details or {}, f"{where}, details"),
        )

    def rows(self) -> Iterator[NamedFigure]:
        """Yield every figure in the order of the report."""
        for group, items in self.figures.items():
            for item, metrics in items.items():
                for metric, figure in metrics.items():
                    yield NamedFigure(group, item, metric, figure)

    def named(self) -> dict[str, ReportFigure]:
        """Return the figures by the name that gates and cards use: `world/held_out/accuracy`."""
        return {row.name: row.figure for row in self.rows()}


# -- writing


def write_report(report: ReportContent, folder: Path) -> Path:
    """Write a report into a folder, which is created where it is missing; returns the path of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REPORT_FILE
    content = json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(content + "\n", encoding="utf-8")
    return path


def _plain(value: Any, where: str) -> Any:
    """Return JSON values alone: tuples become lists, keys become text; refuses other types and non-finite numbers."""
    if isinstance(value, Mapping):
        return {_text(str(name)): _plain(below, f"{where}.{name}") for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below, f"{where}.{index}") for index, below in enumerate(value)]
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    expected = "a finite number" if isinstance(value, float) else "a value that JSON can express"
    raise DataError(where, expected=expected, got=value)


def _text(text: str) -> str:
    """Return text with escapes for half surrogate pairs, which come from file names that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


# -- reading


def read_report(folder: Path) -> ReportContent:
    """Read the report in a folder; refuses another schema version, non-finite numbers and unknown fields."""
    path = folder / REPORT_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        problem = f"the report cannot be read: {error.strerror}"
        raise DataError(str(path), problem, hint="make a report with `vita test`") from None
    return parse_report(content, where=str(path))


def stored_reports(store: Store, digest: str) -> list[ReportContent]:
    """Read every report of an artifact: its own, and one that lies beside a model's weights."""
    names = sorted(store.manifest(digest).files, key=lambda name: (name.count("/"), name))
    return [
        parse_report(store.read(digest, name), where=f"{digest[:12]}, file {name}")
        for name in names
        if name.rpartition("/")[2] == REPORT_FILE
    ]


def parse_report(content: bytes, *, where: str) -> ReportContent:
    """Read a report from the bytes of its file; `where` is the name of the file in errors."""
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
        _refuse_non_finite(values, where)
    except (ValueError, RecursionError) as error:
        raise DataError(where, f"is not valid JSON: {error}", hint=_run_again({})) from None
    if not isinstance(values, dict):
        got = type(values).__name__
        raise DataError(where, expected="a report, which is a JSON object", got=got, hint=_run_again({}))
    if "schema_version" in values:
        _refuse_other_version(values, where)
    else:
        values = _with_schema_version(values, where)
    try:
        return ReportContent.model_validate(values)
    except ValidationError as error:
        raise _explained(error, values, where) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def _refuse_non_finite(value: Any, where: str) -> None:
    """Refuse numbers that overflow, such as 1e999."""
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(where, expected="a finite number", got=value, hint=_run_again({}))
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in below:
        _refuse_non_finite(entry, f"{where}, {name}" if isinstance(name, str) else where)


def _refuse_other_version(values: Mapping[str, Any], where: str) -> None:
    """Refuse a schema version that this release of Vita does not know."""
    version = values["schema_version"]
    if version == SCHEMA_VERSION and not isinstance(version, bool):
        return
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    hint = f"a newer Vita wrote it: update this one, or {_run_again(values)}" if newer else _run_again(values)
    raise DataError(f"{where}, schema_version", expected=str(SCHEMA_VERSION), got=version, hint=hint)


def _with_schema_version(values: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert a report that was written before reports had a schema version."""
    if not _CONTENT_BEFORE_VERSIONS & values.keys():
        raise DataError(
            where, expected=f"a report with schema_version {SCHEMA_VERSION}", got="none", hint=_run_again({})
        )
    details = dict(values)
    converted: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "stage": UNKNOWN_STAGE}
    converted["baseline"] = details.pop("before", None)
    for name in {"model", "settings", "could_not_run", "figures"} & details.keys():
        converted[name] = details.pop(name)
    for items in _mappings(converted.get("figures", {})):
        for metrics in _mappings(items):
            for metric, figure in metrics.items():
                if isinstance(figure, dict):
                    figure |= {"unit": unit(metric), "higher_is_better": higher_is_better(metric)}
    return converted | {"details": details}


def _mappings(values: Any) -> list[dict[str, Any]]:
    """Return the objects among the values of an object; validation names the others."""
    return [value for value in values.values() if isinstance(value, dict)] if isinstance(values, dict) else []


def _explained(error: ValidationError, values: Mapping[str, Any], where: str) -> DataError:
    """Turn the first mistake that validation found into an error with its path."""
    first = error.errors(include_url=False)[0]
    path = f"{where}, {'.'.join(str(part) for part in first['loc'])}"
    if first["type"] == "extra_forbidden":
        known = ReportFigure if first["loc"][0] == "figures" else ReportContent
        expected = f"one of the fields {', '.join(known.model_fields)}"
        return DataError(path, expected=expected, got=str(first["loc"][-1]), hint=_run_again(values))
    if first["type"] == "missing":
        return DataError(path, "the field is missing", hint=_run_again(values))
    expected = first["msg"].removeprefix("Input should be ")
    return DataError(path, expected=expected, got=first["input"], hint=_run_again(values))


def _run_again(values: Mapping[str, Any]) -> str:
    """Name the command that makes the report again, where the report tells its stage."""
    stage = values.get("stage")
    if not isinstance(stage, str) or stage in ("", UNKNOWN_STAGE):
        return "run the stage that wrote it again"
    return f"make it again with `vita {_COMMANDS.get(stage, stage)}`"


# -- the JSON Schema


def schema_text() -> str:
    """Return the JSON Schema of a report as the text of `docs/report.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **ReportContent.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
