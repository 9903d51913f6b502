"""A report is written once, as a `Page`, and shown twice: as Markdown and as one self-contained HTML page.

    page = Page("Test of a base model", "What was measured.", [Section("Held-out text", [Table(...), Figure(...)])])
    write(page, folder)     # report.md with figures/*.svg, and report.html with the figures inside

Nothing is fetched when the page is opened: style and figures are in it, and there is no script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vita.spine.plain_text import html_text, markdown_text, printable


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A smaller heading within a section."""

    text: str


@dataclass(frozen=True)
class Tiles:
    """The few numbers that matter most: (what, how much, a word on it)."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under headings; cells that begin with a number are not broken over lines in HTML."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """An SVG picture with what it shows in words, which is also its alternative text."""

    name: str
    svg: str
    caption: str


@dataclass(frozen=True)
class Sample:
    """A prompt and what the model made of it, each answer with a label."""

    prompt: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Fold:
    """Details that wait behind their title until they are asked for."""

    title: str
    blocks: Sequence[Block]


Block = Paragraph | Heading | Tiles | Table | Figure | Sample | Fold


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: str
    sections: Sequence[Section] = field(default_factory=tuple)


def write(page: Page, folder: Path) -> None:
    """`report.md`, `report.html`, and the figures beside the former."""
    for figure in (one for section in page.sections for one in _figures(section.blocks)):
        path = folder / _figure_path(figure.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(figure.svg, encoding="utf-8")
    (folder / "report.md").write_text(markdown(page), encoding="utf-8")
    (folder / "report.html").write_text(html(page), encoding="utf-8")


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Fold):
            yield from _figures(block.blocks)


def _figure_path(name: str) -> str:
    """The path of a figure's file beside the report, whatever its name holds."""
    return f"figures/{re.sub(r'[^A-Za-z0-9._-]+', '-', name).lstrip('.') or 'figure'}.svg"


# -- Markdown


def markdown(page: Page) -> str:
    """The page as Markdown, with all text escaped; figures are links into `figures/`."""
    parts = [f"# {markdown_text(page.title)}", markdown_text(page.lead)]
    for section in page.sections:
        parts.append(f"## {markdown_text(section.title)}")
        parts.extend(_markdown_block(block) for block in section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return markdown_text(text)
        case Heading(text):
            return f"### {markdown_text(text)}"
        case Tiles(tiles):
            return "\n".join(_markdown_tile(*tile) for tile in tiles)
        case Fold(title, blocks):
            return "\n\n".join([f"**{markdown_text(title)}**", *map(_markdown_block, blocks)])
        case Table(columns, rows, note):
            lines = [_markdown_row(columns), _markdown_rule(columns), *map(_markdown_row, rows)]
            return "\n".join(lines) + (f"\n\n{markdown_text(note)}" if note else "")
        case Figure(name, _, caption):
            shown = markdown_text(caption).replace("]", "\\]")
            return f"![{shown}]({_figure_path(name)})\n\n*{shown}*"
        case Sample(prompt, answers):
            quoted = [f"{markdown_text(label)}:\n\n{_fenced(text)}" for label, text in answers]
            return "\n\n".join([f"**Prompt**\n\n{_fenced(prompt)}", *quoted])


def _markdown_tile(what: str, much: str, word: str) -> str:
    return f"- **{markdown_text(what)}**: {markdown_text(much)}" + (f" ({markdown_text(word)})" if word else "")


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def _markdown_rule(columns: Sequence[str]) -> str:
    return "| " + " | ".join("---" for _ in columns) + " |"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


# -- HTML


def html(page: Page) -> str:
    """The page as one HTML document that needs nothing else."""
    body = [f"<h1>{html_text(page.title)}</h1>", f"<p class=lead>{html_text(page.lead)}</p>"]
    if len(page.sections) > 1:
        links = (f'<a href="#{_anchor(section.title)}">{html_text(section.title)}</a>' for section in page.sections)
        body.append(f"<nav>{' '.join(links)}</nav>")
    for section in page.sections:
        body.append(f'<section id="{_anchor(section.title)}"><h2>{html_text(section.title)}</h2>')
        body.extend(_html_block(block) for block in section.blocks)
        body.append("</section>")
    return _DOCUMENT.format(title=html_text(page.title), style=_STYLE, body="\n".join(body))


def _html_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{html_text(text)}</p>"
        case Heading(text):
            return f"<h3>{html_text(text)}</h3>"
        case Tiles(tiles):
            return f"<div class=tiles>{''.join(_html_tile(*tile) for tile in tiles)}</div>"
        case Fold(title, blocks):
            inside = "".join(_html_block(one) for one in blocks)
            return f"<details><summary>{html_text(title)}</summary>{inside}</details>"
        case Table(columns, rows, note):
            head = "".join(f"<th scope=col>{html_text(name)}</th>" for name in columns)
            lines = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
            table = f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
            return table + (f"<p class=note>{html_text(note)}</p>" if note else "")
        case Figure(_, svg, caption):
            return f"<figure>{svg}<figcaption>{html_text(caption)}</figcaption></figure>"
        case Sample(prompt, answers):
            told = "".join(
                f"<p class=label>{html_text(label)}</p><pre>{html_text(text)}</pre>" for label, text in answers
            )
            return f"<div class=sample><p class=label>prompt</p><pre class=prompt>{html_text(prompt)}</pre>{told}</div>"


def _html_tile(what: str, much: str, word: str) -> str:
    under = f"<span class=word>{html_text(word)}</span>" if word else ""
    return f"<div><span class=what>{html_text(what)}</span><b>{html_text(much)}</b>{under}</div>"


def _html_cell(cell: str) -> str:
    told = " class=number" if re.match(r"^[-+]?[\d.,]+([ %(]|$)", cell) else ""
    if any(len(word) > _LONG for word in cell.split()):
        told = " class=long"
    return f"<td{told}>{html_text(cell)}</td>"


_LONG = 30
"""Letters of a word that may be broken, so that a table stays on the page."""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


_DOCUMENT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><main>
{body}
</main></body></html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5b6570; --line: #d9dee3; --ground: #fff; --panel: #f5f7f9;
  --mark: #1f6feb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #9aa5b1; --line: #343b43; --ground: #14181c;
  --panel: #1c2227; --mark: #6ea8fe; } }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
.lead, .note, figcaption, .label { color: var(--soft); } .note, figcaption, .label { font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0; } a { color: var(--mark); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; font-size: .875rem; color: var(--soft); } .number { white-space: nowrap; }
.long { overflow-wrap: anywhere; }
figure { margin: 1.25rem 0; } svg { max-width: 100%; height: auto; }
pre { background: var(--panel); padding: .6rem .8rem; margin: .2rem 0 .6rem; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: .25rem; font-size: .875rem; } .label { margin: 0; }
h3 { font-size: 1.05rem; margin: 2rem 0 .4rem; } h3 + p { margin-top: 0; }
details { margin: .5rem 0 1rem; } summary { cursor: pointer; color: var(--mark); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tiles div { background: var(--panel); border-radius: .4rem; padding: .6rem .8rem; display: flex;
  flex-direction: column; }
.tiles b { font-size: 1.25rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.what, .word { color: var(--soft); font-size: .8rem; }
pre.prompt { border-left: 3px solid var(--mark); } .sample { margin: 0 0 1.75rem; }
"""
