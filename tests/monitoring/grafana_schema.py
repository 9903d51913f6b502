"""The parts of Grafana's dashboard model that Vita writes, as strict models from Grafana's documentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class DataSource(_Strict):
    type: Literal["prometheus"]
    uid: str


class GridPosition(_Strict):
    h: Annotated[int, Field(ge=1)]
    w: Annotated[int, Field(ge=1, le=24)]
    x: Annotated[int, Field(ge=0, lt=24)]
    y: Annotated[int, Field(ge=0)]


class Target(_Strict):
    ref_id: Annotated[str, Field(pattern="^[A-Z]$")]
    datasource: DataSource
    expr: Annotated[str, Field(min_length=1)]
    legend_format: str
    range: Literal[True]


class CustomDefaults(_Strict):
    fill_opacity: Annotated[int, Field(ge=0, le=100)]
    show_points: Literal["auto", "never", "always"]


class FieldDefaults(_Strict):
    unit: Literal["reqps", "short", "percentunit", "s"]
    min: float | int | None
    custom: CustomDefaults


class FieldConfig(_Strict):
    defaults: FieldDefaults
    overrides: Annotated[list[None], Field(max_length=0)]


class Legend(_Strict):
    display_mode: Literal["list", "table", "hidden"]
    placement: Literal["bottom", "right"]
    show_legend: bool


class Tooltip(_Strict):
    mode: Literal["single", "multi", "none"]
    sort: Literal["none", "asc", "desc"]


class TimeSeriesOptions(_Strict):
    legend: Legend
    tooltip: Tooltip


class TimeSeries(_Strict):
    id: Annotated[int, Field(ge=1)]
    type: Literal["timeseries"]
    title: Annotated[str, Field(min_length=1)]
    description: str
    datasource: DataSource
    grid_pos: GridPosition
    field_config: FieldConfig
    options: TimeSeriesOptions
    targets: Annotated[list[Target], Field(min_length=1)]


class PanelRow(_Strict):
    id: Annotated[int, Field(ge=1)]
    type: Literal["row"]
    title: Annotated[str, Field(min_length=1)]
    collapsed: bool
    grid_pos: GridPosition
    panels: Annotated[list[None], Field(max_length=0)]


class Variable(_Strict):
    name: str
    type: Literal["datasource"]
    label: str
    query: Literal["prometheus"]
    hide: Literal[0, 1, 2]


class Templating(_Strict):
    list: list[Variable]


class Annotations(_Strict):
    list: Annotated[list[None], Field(max_length=0)]


class TimeRange(_Strict):
    start: Annotated[str, Field(alias="from")]
    to: str


class Dashboard(_Strict):
    uid: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,40}$")]
    title: Annotated[str, Field(min_length=1)]
    tags: list[str]
    timezone: Literal["browser", "utc"]
    editable: bool
    schema_version: Annotated[int, Field(ge=36)]
    version: int
    refresh: str
    time: TimeRange
    templating: Templating
    annotations: Annotations
    panels: list[Annotated[TimeSeries | PanelRow, Field(discriminator="type")]]
