"""The table of quality filters: functions that return None to keep a page, or a `DropReason` to drop it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vita.spine.registry import Registry


class DropReason(NamedTuple):
    """The reason for a drop: the violated rule, by which drops are counted, and the value for this page."""

    rule: str
    detail: str


Filter = Callable[..., DropReason | None]
FILTERS: Registry[Filter] = Registry("filter")
