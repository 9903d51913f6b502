"""The documents of a training step, and the steps that read a document: `vita data documents`, `vita data steps`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import data_app, open_workspace
from vita.cli.options import JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import print_table
from vita.spine.errors import ConfigError, DataError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.data.tokens.row_documents import RowDocument
    from vita.rights.training_steps import TrainingRows

ModelArgument = Annotated[str, typer.Argument(help="A trained model, or a reward model: a name or a digest.")]


@data_app.command("documents")
def documents(
    ctx: typer.Context,
    model: ModelArgument,
    step: Annotated[int, typer.Option(min=1, help="The training step; the first is 1.")],
    as_json: JsonOption = False,
) -> None:
    """List the documents that a training step read, row by row, each with its licence, opt-out and consent."""
    from vita.spine.erasures import NOT_STATED

    workspace = open_workspace(ctx)
    with _training_rows(workspace, model) as training:
        if step > training.steps:
            raise ConfigError("data documents: --step", expected=f"at most {training.steps:,}, the last step", got=step)
        if step <= training.first:
            expected = f"at least {training.first + 1:,}, the first step after the checkpoint in `start_from`"
            raise ConfigError("data documents: --step", expected=expected, got=step)
        rows = training.documents_by_row(step - 1)
    if as_json:
        print_json([{"row": number, **_as_json(part)} for number, parts in enumerate(rows, 1) for part in parts])
        return
    table = Table("row", "document", "source", "licence", "opt-out", "consent", "tokens", box=None, pad_edge=False)
    for number, parts in enumerate(rows, 1):
        for part in parts:
            rights = part.rights
            opt_out = {None: NOT_STATED, True: "yes", False: "no"}[rights.opt_out]
            table.add_row(str(number), part.id, part.source, rights.licence or NOT_STATED, opt_out,
                          rights.consent or NOT_STATED, f"{part.tokens:,}")  # fmt: skip
    print_table(workspace.console, table)


@data_app.command("steps")
def steps(
    ctx: typer.Context,
    model: ModelArgument,
    document: Annotated[str, typer.Argument(help="The id of a document.")],
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only the document of this source.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the training steps and rows that read a document, with the number of its tokens."""
    workspace = open_workspace(ctx)
    with _training_rows(workspace, model) as training:
        sources = sorted(name for name in training.sources_of(document) if source in (None, name))
        if not sources:
            hint = "`vita trace-document` shows whether it was dropped, held out, or never read"
            raise DataError(f"data steps {document}", "the training data of this model does not contain it", hint=hint)
        if len(sources) > 1:
            problem = f"documents of {len(sources)} sources have this id: {', '.join(sources)}"
            raise DataError(f"data steps {document}", problem, hint="say which one with --source NAME")
        uses = training.uses(document, source=sources[0])
    if as_json:
        print_json([{"step": use.step + 1, "row": use.row + 1, "tokens": use.tokens} for use in uses])
        return
    if not uses:
        text = f"none of the {training.steps:,} steps has read `{document}`"
        workspace.console.print(text, soft_wrap=True)
        return
    table = Table("step", "row", "tokens", box=None, pad_edge=False)
    for use in uses:
        table.add_row(f"{use.step + 1:,}", str(use.row + 1), f"{use.tokens:,}")
    print_table(workspace.console, table)
    number = len({use.step for use in uses})
    workspace.console.print(
        f"{counted(number, 'step')} of {training.steps:,} read `{document}` of {sources[0]}",
        soft_wrap=True,
    )


@contextmanager
def _training_rows(workspace: Workspace, model: str) -> Iterator[TrainingRows]:
    """Yield the rows on which a stage trained a model; tokens that are computed again are deleted at the end."""
    from vita.life import stage
    from vita.rights.training_steps import training_rows

    digest = workspace.model(model)
    with workspace.store.temporary("rows") as folder:
        yield training_rows(digest, workspace.store, workspace.ledger, find_stage=stage, folder=folder)


def _as_json(part: RowDocument) -> dict[str, Any]:
    rights = part.rights
    return {"document": part.id, "source": part.source, "licence": rights.licence, "robots": rights.robots,
            "opt_out": rights.opt_out, "consent": rights.consent, "tokens": part.tokens}  # fmt: skip
