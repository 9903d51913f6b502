"""Quality filters: functions that return None to keep a page, or a `DropReason` to drop it.

A new filter is one decorated function.

The settings of a filter are its keyword arguments. They are validated like all other settings:

    filters: [length, {gopher_quality: {min_stop_words: 0}}, repetition]

`gopher_filters` contains the rules of Gopher, and `web_filters` those of C4 and FineWeb.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import numpy as np
from pydantic import TypeAdapter, create_model, model_validator

from vita.data.curation import classifier_filter as _classifier_filter  # noqa: F401 (adds filters to the table)
from vita.data.curation import gopher_filters as _gopher_filters  # noqa: F401
from vita.data.curation import list_filters as _list_filters  # noqa: F401
from vita.data.curation import web_filters as _web_filters  # noqa: F401
from vita.data.curation.filter_screens import SCREENS
from vita.data.curation.filter_table import FILTERS as FILTERS
from vita.data.curation.filter_table import DropReason as DropReason
from vita.data.curation.filter_table import Filter
from vita.data.curation.page_batch import PageBatch
from vita.data.curation.page_features import PageFeatures
from vita.spine.config import Settings, build
from vita.spine.errors import ConfigError


class FilterUse(Settings):
    """A filter name with its settings: `length`, or `{length: {min_words: 20}}`."""

    name: str
    """Name of the filter in the filter table."""
    settings: dict[str, Any] = {}
    """Settings of the filter; missing settings have their defaults."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            (name, settings), *_ = value.items()
            return {"name": name, "settings": settings or {}}
        return value

    @model_validator(mode="after")
    def _complete(self) -> FilterUse:
        # All settings are stored, so that a changed default changes the identity of a run.
        complete = build(filter_settings(self.name), self.settings, where=f"filter {self.name}")
        values = {name: getattr(complete, name) for name in type(complete).model_fields}
        _check_order(self.name, values)
        object.__setattr__(self, "settings", values)
        return self


def filter_settings(name: str) -> type[Settings]:
    """Return the settings class of a filter, derived from its signature."""
    function = FILTERS[name]
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        parameter.name: (hints[parameter.name], ... if parameter.default is parameter.empty else parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    return create_model(name, __base__=Settings, **fields)


def upper_limit(name: str, setting: str) -> float:
    """Return the largest value that a numeric setting of a filter can have; infinity for one without a limit."""
    schema = TypeAdapter(filter_settings(name).model_fields[setting].rebuild_annotation()).json_schema()
    parts = (schema, schema.get("items", {}), *schema.get("anyOf", ()))
    return min((part["maximum"] for part in parts if "maximum" in part), default=math.inf)


def _check_order(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a minimum above the maximum of the same quantity; a maximum of 0 words is none."""
    for setting, minimum in settings.items():
        other = setting.replace("min_", "max_", 1)
        if other == setting or (maximum := settings.get(other)) is None or (other == "max_words" and not maximum):
            continue
        if minimum > maximum:
            raise ConfigError(f"filter {name}.{setting}", expected=f"at most {other} ({maximum})", got=minimum)


_ConfiguredFilter = tuple[str, Filter, dict[str, Any]]
"""The name of a filter, its function and its settings."""


class FilterChain:
    """A chain of filters in order; the first filter with a reason drops the page."""

    def __init__(self, uses: Iterable[FilterUse]) -> None:
        self._filters = [(use.name, FILTERS[use.name], use.settings) for use in uses]

    def __call__(self, page: PageFeatures) -> tuple[str, str] | None:
        """Return None to keep `page`, or (`filter.rule`, detail)."""
        return self._apply(page, self._filters)

    def verdicts(self, batch: PageBatch) -> list[tuple[str, str] | None]:
        """Return the result for each document of a batch; a filter is applied where its screen does not decide."""
        verdicts: list[tuple[str, str] | None] = [None] * len(batch.documents)
        undecided = np.ones((len(self._filters), len(batch.documents)), bool)
        for row, (name, _, settings) in enumerate(self._filters):
            if name in SCREENS:
                undecided[row] = ~SCREENS[name](batch, **settings)
        for index in np.flatnonzero(undecided.any(axis=0)).tolist():
            verdicts[index] = self._apply(batch.page(index), itertools.compress(self._filters, undecided[:, index]))
        return verdicts

    def _apply(self, page: PageFeatures, filters: Iterable[_ConfiguredFilter]) -> tuple[str, str] | None:
        for name, check, settings in filters:
            reason = check(page, **settings)
            if reason is not None:
                return f"{name}.{reason.rule}", reason.detail
        return None


DEFAULT_FILTERS = ("length", "gopher_quality", "repetition", "boilerplate")
