"""Turns `<!-- settings: sft -->` in a page into the table of that stage's settings, from their own docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

from vita.life import stage
from vita.spine.config import Settings

_MARK = re.compile(r"<!-- settings: (\w+) -->")


def on_page_markdown(markdown: str, **_page: Any) -> str:
    """MkDocs calls this with the text of every page."""
    return _MARK.sub(lambda found: settings_table(stage(found[1]).config), markdown)


def settings_table(settings: type[Settings]) -> str:
    """A Markdown table: the setting's path, its default, and what turning it does."""
    rows = "\n".join(f"| `{name}` | {default} | {text} |" for name, default, text in _rows(settings, ""))
    return f"| setting | default | what it does |\n|---|---|---|\n{rows}"


def _rows(settings: type[Settings], above: str) -> Iterator[tuple[str, str, str]]:
    for name, field in settings.model_fields.items():
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        below = _group(field.annotation)
        if field.is_required():
            default = "required"
        elif below:
            default = "" if field.get_default(call_default_factory=True) is not None else "none"
        else:
            default = _shown(field.get_default(call_default_factory=True))
        yield f"{above}{name}", default, text
        if below:
            yield from _rows(below, f"{above}{name}{'[].' if 'list' in str(field.annotation) else '.'}")


def _group(annotation: Any) -> type[Settings] | None:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next((found for part in get_args(annotation) if (found := _group(part))), None)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Settings):
        return "as below"
    text = str(value) if isinstance(value, str) else repr(value)
    return f"`{text if text else ' '}`".replace("|", "\\|")
