"""Rendering of jinja2 templates as HTML and as Markdown.

    render_document("report.jinja", "markdown", title="Test report", lead="...", sections=sections)
    render("life.html.jinja", "html", folder=Path(__file__).parent / "templates", record=record)

Each value that a template prints is escaped for its format, unless it is markup (`Markup`); an unknown variable is an
error. The macros of `html.jinja` and `markdown.jinja` have the same names and are available as `ui`, so that one
template can serve both formats. Templates of other packages lie in a folder `templates` of their own.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from markupsafe import Markup

from vita.spine.plain_text import html_text, markdown_text, printable

if TYPE_CHECKING:
    import jinja2

Format = Literal["html", "markdown"]
SHARED = Path(__file__).parent / "templates"
_LONG_WORD = 24
"""Number of letters from which a word in a table cell may be broken, so that the table stays on the page."""


def render_document(body: str, form: Format, *, title: str, lead: str, folder: Path = SHARED, **values: Any) -> str:
    """Render a document with a title and a lead paragraph; `body` is a template for both formats."""
    layout = f"document.{'html' if form == 'html' else 'md'}.jinja"
    return render(layout, form, folder=folder, body=body, title=title, lead=lead, **values)


class ServedPage(NamedTuple):
    """An HTML page with its Content-Security-Policy, which allows its own style and script and nothing else."""

    html: str
    policy: str


def served_page(template: str, *, folder: Path) -> ServedPage:
    """Render an interactive page for a server."""
    html = render(template, "html", folder=folder)
    style, script = (
        " ".join(_csp_hash(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.DOTALL))
        for tag in ("style", "script")
    )
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:"
    return ServedPage(html, f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def _csp_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def render(template: str, form: Format, *, folder: Path = SHARED, **values: Any) -> str:
    """Render a template of `folder` or of the shared folder."""
    return _environment(form, folder).get_template(template).render(values)


@cache
def _environment(form: Format, folder: Path) -> jinja2.Environment:
    import jinja2

    escape = html_text if form == "html" else markdown_text
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
        anchor=_anchor, cell_class=_cell_class, figure_path=figure_path, fenced=_fenced, code=_code, svg=Markup,
        number=_number, megabytes=lambda size: _number(size / 1e6, ",.2f"), alternative=_alternative,
    )  # fmt: skip
    environment.globals["file_text"] = lambda name: Markup(loader.get_source(environment, name)[0])
    environment.globals["ui"] = environment.get_template(f"{form}.jinja").module
    return environment


def figure_path(name: str) -> str:
    """Return the path of a figure beside its report."""
    return f"figures/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).lstrip('.') or 'figure'}.svg"


def _anchor(title: str) -> str:
    """Return the id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _cell_class(cell: str) -> str:
    """Return the style of a table cell: `long` with a word that may be broken, `number` for a number."""
    if any(len(word) > _LONG_WORD for word in cell.split()):
        return "long"
    return "number" if re.match(r"^[-+]?[\d.,]+([ %(]|$)", cell) and len(cell) < 32 else ""


def _number(value: float | None, form: str = ",") -> str:
    """Format a number; None, which was not measured, is empty."""
    return "" if value is None else format(value, form)


def _code(text: str) -> Markup:
    """Return text as a code span of Markdown that also fits into a table cell."""
    return Markup(f"`{printable(text.replace('`', chr(39)).replace(chr(10), '⏎').replace('|', '¦'))}`")


def _alternative(caption: str) -> Markup:
    """Return the alternative text of an image in Markdown."""
    return Markup(markdown_text(caption).replace("]", "\\]"))


def _fenced(text: str) -> Markup:
    """Return text as a fenced block of Markdown."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}text\n{printable(text)}\n{fence}")
