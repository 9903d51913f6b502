"""Rows for `vita data show`: of a file, of an artifact, or of a step of a life with the step's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from vita.cli.workspace import Workspace
from vita.spine.config import unknown_name
from vita.spine.errors import ConfigError

if TYPE_CHECKING:
    from vita.data.tokens.inspect import EncodingDefaults


def rows_of_path(
    workspace: Workspace, data: str, *, model: str | None, count: int, settings: Mapping[str, Any]
) -> Iterator[Text]:
    """Return the rows of a file or artifact, with the default settings of the stage that reads such rows."""

    from vita.data.tokens.inspect import examples

    path = Path(data) if Path(data).exists() else workspace.find(data).path
    return examples(path, tokenizer=_tokenizer(workspace, data, model), count=count, reading=_reading(settings))


def rows_of_life(
    workspace: Workspace, life: str, *, step: str, model: str | None, count: int, settings: Mapping[str, Any]
) -> Iterator[Text]:
    """Return the rows of a step's sources with the step's settings. Default model: the newest of the life."""

    from vita.data.tokens.inspect import source_rows
    from vita.data.tokens.tokenizer import Tokenizer
    from vita.life import read_life
    from vita.stages.kinds import Model

    read = read_life(life, find=workspace.find_in_store)
    steps = {step.name: step for step in read.plan.steps}
    if step not in steps:
        raise unknown_name("--step", step, steps)
    config = steps[step].config
    sources = getattr(config, "sources", ())
    if not sources or not hasattr(config, "max_length"):
        hint = "steps of sft, dpo and reward are shown"
        raise ConfigError("--step", expected="a step that learns from dialogues or preferences", got=step, hint=hint)
    reading = _reading(
        {
            "length": config.max_length,  # pyright: ignore[reportAttributeAccessIssue]
            "on_long": getattr(config, "on_long", None),
            "held_out": getattr(config, "eval_fraction", 0.0),
            "seed": getattr(config, "seed", 0),
        }
        | {name: value for name, value in settings.items() if value is not None}
    )
    digest = None if model else workspace.latest(read.name, Model)
    if not model and not digest and read.file.model:
        model = str(Path(life).parent / read.file.model) if _is_local(life, read.file.model) else read.file.model
    if not model and not digest:
        hint = "name one with --model"
        raise ConfigError("data show", f"the life `{read.name}` has no model yet whose tokenizer to use", hint=hint)
    folder = _folder(workspace, model or f"@{digest}")
    return source_rows(sources, Tokenizer.load(folder), folder=folder, count=count, reading=reading)


def _is_local(life: str, model: str) -> bool:
    return (Path(life).parent / model).exists()


def _reading(settings: Mapping[str, Any]) -> EncodingDefaults:
    from vita.data.tokens.inspect import EncodingDefaults

    if settings.get("on_long") not in (None, "truncate", "drop"):
        raise ConfigError("--on-long", expected="truncate or drop", got=settings["on_long"])
    return EncodingDefaults(**settings)


def _tokenizer(workspace: Workspace, data: str, model: str | None) -> Path | None:
    if model:
        return _folder(workspace, model)
    return None if Path(data).exists() else _folder(workspace, data)


def _folder(workspace: Workspace, reference: str) -> Path:
    if Path(reference).is_dir():
        folder = Path(reference)
    elif workspace.known_digest(reference):
        folder = workspace.find(reference).path
    else:
        folder = workspace.store.open(workspace.model(reference)).path
    return folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
