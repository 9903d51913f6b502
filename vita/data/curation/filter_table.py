"""The table of quality filters: functions that return None to keep a page, or a `DropReason` to drop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from vita.spine.registry import Registry


class DropReason(NamedTuple):
    """The reason for a drop: the violated rule, by which drops are counted, and the value for this page."""

    rule: str
    detail: str


Filter = Callable[..., DropReason | None]
FILTERS: Registry[Filter] = Registry("filter")

Count = Annotated[int, Field(ge=0)]
"""A setting that is a number of words, lines or characters."""
Quantity = Annotated[float, Field(ge=0)]
"""A setting that is a length, or a frequency that can be above 1."""
Ratio = Annotated[float, Field(ge=0, le=1)]
"""A setting that is a share or a probability."""
