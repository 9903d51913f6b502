"""Rendering of jinja2 templates as HTML and as Markdown.

    render("page.md.jinja", title="Test report", lead="...", sections=sections)
    render("life.html.jinja", folder=Path(__file__).parent / "templates", record=record)

Each value that a template prints is escaped for its format, unless it is markup (`Markup`); an unknown variable is an
error. Templates of other packages lie in a folder `templates` of their own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from vita.spine.plain_text import html_text, markdown_text, printable

if TYPE_CHECKING:
    import jinja2

SHARED = Path(__file__).parent / "templates"
_VERDICTS = ("pass", "fail", "unsure", "waived", "could not run")
_LONG_WORD = 24
"""Number of letters from which a word in a table cell may be broken, so that the table stays on the page."""


class ServedPage(NamedTuple):
    """An HTML page with its Content-Security-Policy, which allows its own style and script and nothing else."""

    html: str
    policy: str


def served_page(template: str, *, folder: Path, forms: bool = False, **values: Any) -> ServedPage:
    """Render a page for a server; with `forms`, it may send its forms to its own server."""
    html = render(template, folder=folder, **values)
    style, script = (
        " ".join(_csp_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL)) or "'none'"
        for tag in ("style", "script")
    )
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:"
    action = "'self'" if forms else "'none'"
    return ServedPage(html, f"{policy}; base-uri 'none'; form-action {action}; frame-ancestors 'none'")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(template: str, *, folder: Path = SHARED, **values: Any) -> str:
    """Render a template of `folder` or of the shared folder; a name that ends in `.md.jinja` is Markdown."""
    return _environment(template.endswith(".md.jinja"), folder).get_template(template).render(values)


@cache
def _environment(is_markdown: bool, folder: Path) -> jinja2.Environment:
    import jinja2

    escape = markdown_text if is_markdown else html_text
    loader = jinja2.FileSystemLoader([folder, SHARED])
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if hasattr(value, "__html__") else Markup(escape(str(value))),
    )
    environment.filters.update(
        anchor=_anchor, cell_class=_cell_class, figure_path=figure_path, fenced=_fenced, svg=Markup,
        alternative=lambda caption: Markup(markdown_text(caption).replace("]", "\\]")),
    )  # fmt: skip
    environment.globals["file_text"] = lambda name: Markup(loader.get_source(environment, name)[0])
    return environment


def figure_path(name: str) -> str:
    """Return the path of a figure beside its report."""
    return f"figures/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).lstrip('.') or 'figure'}.svg"


def _anchor(title: str) -> str:
    """Return the id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _cell_class(cell: str) -> str:
    """Return the style of a table cell: a verdict, `long` with a word that may be broken, or `number`."""
    if cell in _VERDICTS:
        return cell.replace(" ", "_")
    if any(len(word) > _LONG_WORD for word in cell.split()):
        return "long"
    return "number" if re.fullmatch(r"[-+]?[\d.,]+%?( \([^)]{,24}\))?", cell) else ""


def _fenced(text: str) -> Markup:
    """Return text as a fenced block of Markdown."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}text\n{printable(text)}\n{fence}")
