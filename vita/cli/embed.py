"""Embeddings of texts and words: `vita embed`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.chat import ModelArgument, valid_text
from vita.cli.options import MODELS, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vita.infer.text_model import TextModel

SUFFIXES = (".jsonl", ".npy", ".safetensors")
EMBEDDED_AT_ONCE = 256
DOCUMENT = dict.fromkeys(
    ("pooling", "dimensions", "texts", "embeddings", "output", "word", "neighbors", "cosines"), None
)
"""The fields of the JSON document; those that do not belong to the options are null."""


@app.command(rich_help_panel=MODELS)
def embed(
    ctx: typer.Context,
    model: ModelArgument,
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts to embed.")] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(help="File of texts: one per line, or JSON lines with `text`. Can be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File to write: .jsonl, .npy or .safetensors. Default: show the similarities.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="cls, mean or last; by default that of the model, otherwise mean.")
    ] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Numbers of an embedding; by default all.")] = None,
    neighbors: Annotated[
        str | None, typer.Option(metavar="WORD", help="Show the tokens whose input embeddings are nearest to a word.")
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A second model, such as the initialization, to show beside it.")
    ] = None,
    word: Annotated[
        str | None, typer.Option(help="Compare the contextual embeddings of a word in the texts, instead of the texts.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of neighbours.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Embed texts, or show what the embeddings of a model express.

    With `--neighbors`, the nearest tokens of a word are shown, and with `--before` also those of another model. With
    `--word`, the contextual embedding of the word is compared between the texts.
    """
    workspace = open_workspace(ctx)
    _check(output, neighbors, before, word)
    inputs = [valid_text(text, where="texts") for text in texts or ()] + list(_texts_of(file or ()))
    if neighbors is not None:
        _show_neighbours(workspace, model, before, neighbors, top=top, as_json=as_json)
        return
    if not inputs:
        raise ConfigError("embed", expected="texts, `--file` or `--neighbors`", got="none")
    opened = _open(workspace, model, pooling)
    if word is not None:
        _show_word(workspace, opened, word, inputs, as_json=as_json)
        return
    if output is not None:
        _write(workspace, opened, inputs, output, dimensions=dimensions, as_json=as_json)
        return
    vectors = opened.embed(inputs, dimensions=dimensions)
    if as_json:
        shape = {"pooling": opened.embedding.pooling, "dimensions": vectors.shape[1]}
        print_json({**DOCUMENT, **shape, "texts": inputs, "embeddings": vectors.tolist()})
        return
    from torch.nn.functional import normalize

    unit = normalize(vectors, dim=-1)
    _print_cosines(workspace, inputs, (unit @ unit.T).tolist())


def _check(output: Path | None, neighbors: str | None, before: str | None, word: str | None) -> None:
    if output is not None and output.suffix not in SUFFIXES:
        raise ConfigError("--output", expected=f"a file ending in {', '.join(SUFFIXES)}", got=output.name)
    if before is not None and neighbors is None:
        raise ConfigError("--before", "requires `--neighbors`")
    if output is not None and (neighbors or word):
        raise ConfigError("--output", "stores embeddings of texts; leave out `--neighbors` and `--word`")


def _texts_of(paths: Sequence[Path]) -> Iterator[str]:
    """Yield the texts of files, without blank lines."""
    from vita.data.sources.read import documents
    from vita.data.sources.source import Source

    for path in paths:
        for document in documents(Source.model_validate({"path": str(path), "cut_at": "lines"})):
            yield document.text


def _open(workspace: Workspace, reference: str, pooling: str | None = None) -> TextModel:
    from dataclasses import replace

    from vita.infer.text_model import TextModel
    from vita.nn.pooling import POOLINGS

    chosen = next((name for name in POOLINGS if name == pooling), None)
    if pooling is not None and chosen is None:
        raise ConfigError("--pooling", expected=f"one of {', '.join(POOLINGS)}", got=pooling)
    model = TextModel.open(_folder(workspace, reference), device=workspace.machine.device)
    if chosen is not None:
        model.embedding = replace(model.embedding, pooling=chosen)
    return model


def _folder(workspace: Workspace, reference: str) -> Path:
    from vita.stages.kinds import Model

    return Path(reference) if Path(reference).is_dir() else workspace.find(reference, Model).path


def _write(
    workspace: Workspace,
    model: TextModel,
    texts: Sequence[str],
    output: Path,
    *,
    dimensions: int | None,
    as_json: bool,
) -> None:
    """Write the embeddings of texts in batches of texts."""
    import numpy as np
    import torch

    parts = [
        model.embed(texts[start : start + EMBEDDED_AT_ONCE], dimensions=dimensions)
        for start in range(0, len(texts), EMBEDDED_AT_ONCE)
    ]
    vectors = torch.cat(parts)
    temporary = output.with_name(f".{output.name}.partial{output.suffix}")
    try:
        if output.suffix == ".npy":
            np.save(temporary, vectors.numpy())
        elif output.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({"embeddings": vectors.contiguous()}, temporary)
        else:
            rows = zip(texts, vectors.tolist(), strict=True)
            text = "".join(json.dumps({"text": text, "embedding": row}) + "\n" for text, row in rows)
            temporary.write_text(text, encoding="utf-8")
        temporary.replace(output)
    except OSError as error:
        raise DataError(str(output), f"cannot be written: {(error.strerror or str(error)).lower()}") from None
    if as_json:
        shape = {"pooling": model.embedding.pooling, "dimensions": vectors.shape[1]}
        print_json({**DOCUMENT, **shape, "texts": list(texts), "output": str(output)})
    else:
        text = f": {len(texts):,} embeddings of {vectors.shape[1]} numbers, pooling {model.embedding.pooling}"
        workspace.console.print(line((str(output), "bold"), text), soft_wrap=True)


def _show_neighbours(
    workspace: Workspace, model: str, before: str | None, word: str, *, top: int, as_json: bool
) -> None:
    from vita.infer.token_embeddings import nearest_tokens

    references = {"model": model} | ({"before": before} if before is not None else {})
    opened = {name: _open(workspace, reference) for name, reference in references.items()}
    neighbors = {name: nearest_tokens(text.model, text.tokenizer, word, top=top) for name, text in opened.items()}
    if as_json:
        values = {name: [neighbour._asdict() for neighbour in neighbours] for name, neighbours in neighbors.items()}
        print_json({**DOCUMENT, "word": word, "neighbors": values})
        return
    columns = [column for name in neighbors for column in (f"{name}: token", "cosine")]
    table = Table(*columns, box=None, pad_edge=False)
    for row in zip(*neighbors.values(), strict=False):
        table.add_row(*(cell for neighbour in row for cell in (neighbour.token.strip(), f"{neighbour.cosine:.3f}")))
    print_table(workspace.console, table)


def _show_word(workspace: Workspace, model: TextModel, word: str, texts: Sequence[str], *, as_json: bool) -> None:
    from vita.infer.token_embeddings import word_cosines

    cosines = word_cosines(model, word, texts)
    if as_json:
        print_json({**DOCUMENT, "word": word, "texts": list(texts), "cosines": cosines})
        return
    _print_cosines(workspace, texts, cosines)


def _print_cosines(workspace: Workspace, texts: Sequence[str], cosines: Sequence[Sequence[float]]) -> None:
    table = Table("", "text", *(str(number) for number in range(1, len(texts) + 1)), box=None, pad_edge=False)
    for number, (text, row) in enumerate(zip(texts, cosines, strict=True), 1):
        table.add_row(str(number), text[:60], *(f"{value:.3f}" for value in row))
    print_table(workspace.console, table)
