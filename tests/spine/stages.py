"""Small stages for the tests of plans. They write numbers to files."""

from __future__ import annotations

import time
import types
from dataclasses import dataclass
from typing import ClassVar

from vita.spine.config import InputPath, Settings, neutral
from vita.spine.stage import Context, Draft, Stage, read_stage
from vita.spine.store import Artifact


class Number(Artifact):
    kind: ClassVar[str] = "number"


class _BeginConfig(Settings):
    value: int = 1
    """The number."""
    source: InputPath | None = None
    """A file that matters by its content."""
    later: int = neutral(0)
    """A setting added later."""


@dataclass(frozen=True)
class _NoInputs:
    pass


def _begin(config: _BeginConfig, inputs: _NoInputs, context: Context) -> Draft[Number]:
    folder = context.draft_folder()
    (folder / "number.txt").write_text(str(config.value))
    return Draft(Number, folder, {"value": config.value})


class _AddConfig(Settings):
    amount: int = 1
    """Amount to add."""
    seconds: float = 0.0
    """Duration of the stage."""


@dataclass(frozen=True)
class _OneInput:
    number: Number


def _add(config: _AddConfig, inputs: _OneInput, context: Context) -> Draft[Number]:
    done = context.scratch / "steps.txt"
    for position in range(len(done.read_text()) if done.exists() else 0, 10):
        time.sleep(config.seconds / 10)
        with done.open("a") as file:
            file.write("x")
        context.emit("progress", done=position + 1, total=10)
    value = int((inputs.number.path / "number.txt").read_text()) + config.amount
    folder = context.draft_folder()
    (folder / "number.txt").write_text(str(value))
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "steps.txt").write_text(done.read_text())
    context.record["speed"] = 12.5
    return Draft(Number, folder, {"value": value})


def stage(name: str, *, version: int = 1) -> Stage:
    """Return the stage `begin` or `add` at a version."""
    module = types.ModuleType(f"tests_{name}")
    module.__doc__ = "A stage of the tests.\n\nMore of it."
    parts = {"begin": (_BeginConfig, _NoInputs, _begin), "add": (_AddConfig, _OneInput, _add)}[name]
    for part, value in zip(("VERSION", "Config", "Inputs", "run"), (version, *parts), strict=True):
        setattr(module, part, value)
    return read_stage(name, module)
