"""`--set` for the data files of a command: settings of a source apply to all DATA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from vita.spine.config import Settings, override

SET_SOURCES_HELP = " A setting of sources, such as on_bad_row=drop, applies to all DATA."


def sources_of_data(
    paths: Iterable[str], assignments: Sequence[str], config: type[Settings]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the settings of a source for each path, and the assignments that concern the stage of `config`."""
    of_sources = [text for text in assignments if _is_source_setting(text, config)]
    sources = [override({"path": path}, of_sources) for path in paths]
    return sources, [text for text in assignments if text not in of_sources]


def _is_source_setting(assignment: str, config: type[Settings]) -> bool:
    """Return True if `--set` names a setting of the sources of the command that the stage itself does not have."""
    from vita.data.sources.source import ORIGINS, Source

    name = re.split(r"[.=]", assignment, maxsplit=1)[0].strip()
    return name in Source.model_fields and name not in config.model_fields and name not in ORIGINS
