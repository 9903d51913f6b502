"""A report is written once, as a `Page`, and shown twice: as Markdown and as one self-contained HTML page.

    page = Page("Test of a base model", "What was measured.", [Section("Held-out text", [Table(...), Figure(...)])])
    write(page, folder)     # report.md with figures/*.svg, and report.html with the figures inside

Nothing is fetched when the page is opened: style and figures are in it, and there is no script.
"""

from __future__ import annotations

import html as _html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path


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
        place = folder / "figures" / f"{figure.name}.svg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(figure.svg, encoding="utf-8")
    (folder / "report.md").write_text(markdown(page), encoding="utf-8")
    (folder / "report.html").write_text(html(page), encoding="utf-8")


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Fold):
            yield from _figures(block.blocks)


# -- Markdown


def markdown(page: Page) -> str:
    """The page as Markdown; figures are links into `figures/`."""
    parts = [f"# {page.title}", page.lead]
    for section in page.sections:
        parts.append(f"## {section.title}")
        parts.extend(_markdown_block(block) for block in section.blocks)
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return text
        case Heading(text):
            return f"### {text}"
        case Tiles(tiles):
            return "\n".join(f"- **{what}**: {much}" + (f" ({word})" if word else "") for what, much, word in tiles)
        case Fold(title, blocks):
            return "\n\n".join([f"**{title}**", *map(_markdown_block, blocks)])
        case Table(columns, rows, note):
            lines = [_markdown_row(columns), _markdown_row(["---"] * len(columns)), *map(_markdown_row, rows)]
            return "\n".join(lines) + (f"\n\n{note}" if note else "")
        case Figure(name, _, caption):
            return f"![{caption}](figures/{name}.svg)\n\n*{caption}*"
        case Sample(prompt, answers):
            quoted = [f"{label}:\n\n{_fenced(text)}" for label, text in answers]
            return "\n\n".join([f"**Prompt**\n\n{_fenced(prompt)}", *quoted])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


# -- HTML


def html(page: Page) -> str:
    """The page as one HTML document that needs nothing else."""
    body = [f"<h1>{_html.escape(page.title)}</h1>", f"<p class=lead>{_html.escape(page.lead)}</p>"]
    if len(page.sections) > 1:
        links = (f'<a href="#{_anchor(section.title)}">{_html.escape(section.title)}</a>' for section in page.sections)
        body.append(f"<nav>{' '.join(links)}</nav>")
    for section in page.sections:
        body.append(f'<section id="{_anchor(section.title)}"><h2>{_html.escape(section.title)}</h2>')
        body.extend(_html_block(block) for block in section.blocks)
        body.append("</section>")
    return _DOCUMENT.format(title=_html.escape(page.title), style=_STYLE, body="\n".join(body))


def _html_block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_html.escape(text)}</p>"
        case Heading(text):
            return f"<h3>{_html.escape(text)}</h3>"
        case Tiles(tiles):
            return f"<div class=tiles>{''.join(_html_tile(*tile) for tile in tiles)}</div>"
        case Fold(title, blocks):
            inside = "".join(_html_block(one) for one in blocks)
            return f"<details><summary>{_html.escape(title)}</summary>{inside}</details>"
        case Table(columns, rows, note):
            head = "".join(f"<th scope=col>{_html.escape(name)}</th>" for name in columns)
            lines = "".join(f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in rows)
            table = f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
            return table + (f"<p class=note>{_html.escape(note)}</p>" if note else "")
        case Figure(_, svg, caption):
            return f"<figure>{svg}<figcaption>{_html.escape(caption)}</figcaption></figure>"
        case Sample(prompt, answers):
            told = "".join(
                f"<p class=label>{_html.escape(label)}</p><pre>{_html.escape(text)}</pre>" for label, text in answers
            )
            return (
                f"<div class=sample><p class=label>prompt</p><pre class=prompt>{_html.escape(prompt)}</pre>{told}</div>"
            )


def _html_tile(what: str, much: str, word: str) -> str:
    under = f"<span class=word>{_html.escape(word)}</span>" if word else ""
    return f"<div><span class=what>{_html.escape(what)}</span><b>{_html.escape(much)}</b>{under}</div>"


def _html_cell(cell: str) -> str:
    told = " class=number" if re.match(r"^[-+]?[\d.,]+([ %(]|$)", cell) else ""
    if any(len(word) > _LONG for word in cell.split()):
        told = " class=long"
    return f"<td{told}>{_html.escape(cell)}</td>"


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
