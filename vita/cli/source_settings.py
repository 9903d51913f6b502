"""`--set` for the data files of a command: settings of a source apply to all DATA."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vita.spine.config import Settings, override
from vita.spine.errors import ConfigError

SET_SOURCES_HELP = " A setting of sources, such as on_bad_row=drop, applies to all DATA."
_HINT = "give all files as DATA, or only by settings"


def sources_of_data(
    paths: Iterable[str],
    assignments: Sequence[str],
    config: type[Settings],
    *,
    file: str | None,
    values: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the settings of a source for each path, and the assignments that concern the stage of `config`.

    `values` are the settings of the `file` of --config, if there is one. Sources in it, and an assignment that replaces
    the path of DATA, are refused with a `ConfigError`.
    """
    paths = list(paths)
    if "sources" in values:
        problem = f"cannot be used with DATA: {_names(paths)} would replace them"
        raise ConfigError(f"--config {file}: sources", problem, hint=_HINT)
    for text in assignments:
        _refuse_replacement(text, paths)
    of_sources = [text for text in assignments if _is_source_setting(text, config)]
    sources = [override({"path": path}, of_sources) for path in paths]
    return sources, [text for text in assignments if text not in of_sources]


def _refuse_replacement(assignment: str, paths: Sequence[str]) -> None:
    from vita.data.sources.source import ORIGINS

    name = assignment.partition("=")[0].strip()
    parts = name.split(".")
    if parts[0] != "sources" or (len(parts) > 2 and parts[2] not in ORIGINS):
        return
    if len(parts) == 1 or (parts[1].isdecimal() and int(parts[1]) < len(paths)):
        ignored = paths[int(parts[1])] if len(parts) > 1 else _names(paths)
        raise ConfigError(f"--set {name}", f"cannot be used with DATA: it would replace {ignored}", hint=_HINT)


def _names(paths: Sequence[str]) -> str:
    """Return the first three paths for a message, and the number of the others."""
    others = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return ", ".join(paths[:3]) + others


def _is_source_setting(assignment: str, config: type[Settings]) -> bool:
    """Return True if `--set` names a setting of the sources of the command that the stage itself does not have."""
    from vita.data.sources.source import ORIGINS, Source

    name = re.split(r"[.=]", assignment, maxsplit=1)[0].strip()
    return name in Source.model_fields and name not in config.model_fields and name not in ORIGINS
