"""Reports: `vita report` writes a page about a life, `vita card` a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vita.cli.app import app, open_workspace
from vita.cli.options import RESULTS, JsonOption, print_json
from vita.cli.workspace import writing


@app.command(rich_help_panel=RESULTS)
def report(
    ctx: typer.Context,
    life: Annotated[str, typer.Argument(help="The name of a life, as in `cat/sft`.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Output file.")] = Path("life.html"),
    as_json: JsonOption = False,
) -> None:
    """Write the report of a life as one HTML page."""
    from vita.cards.life_page import write_life_page
    from vita.cards.life_record import read_life_record

    workspace = open_workspace(ctx)
    name = Path(life).stem if life.endswith((".yaml", ".yml")) else life
    with writing(output):
        page = write_life_page(read_life_record(workspace.ledger, workspace.store, name), output)
    if as_json:
        print_json({"life": name, "page": str(page)})
        return
    workspace.console.print(f"the report of {name} is {page!s}")


@app.command(rich_help_panel=RESULTS)
def card(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="A model: a name (cat/sft) or the beginning of a digest.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Write README.md, card.html and card.json workspace."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the model card: the model, its data, its training and its evaluations. Missing information is listed."""
    from rich.markdown import Markdown

    from vita.cards.model_card import gather
    from vita.cards.model_card_page import card_body, write

    workspace = open_workspace(ctx)
    digest = workspace.known_digest(model) or workspace.model(model)
    model_card = gather(workspace.ledger, workspace.store, digest)
    if output is not None:
        with writing(output):
            write(model_card, output)
    if as_json:
        print_json(model_card.as_json())
    elif output is not None:
        workspace.console.print(f"the card of {model_card.name} is in {output!s}: README.md, card.html, card.json")
    else:
        workspace.console.print(Markdown(card_body(model_card), hyperlinks=False))
