"""What a stage is: a module with `VERSION`, `Config`, `Inputs` and `run`; its annotations are the declaration.

VERSION = 1
class Config(Settings): ...
@dataclass(frozen=True)
class Inputs: model: Model; corpus: Corpus | None = None
def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]: ...
def admit(config: Config, inputs: Inputs, ledger: Ledger, store: Store) -> None: ...  # if not everything may be run
def advise(config: Config) -> list[str]: ...    # if settings may be doubtful before anything runs
def record(artifact: Model, inputs: Inputs, ledger: Ledger) -> None: ...    # if the ledger is to know more of it
"""

from __future__ import annotations

import dataclasses
import shutil
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from vita.spine.config import Settings
from vita.spine.errors import PlanError
from vita.spine.events import Emit
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.store import Artifact, Draft, Store


@dataclass
class Context:
    """What a run is given beside its config and inputs; none of it may change the answer."""

    scratch: Path
    """A folder of this run key's own that survives a crash: checkpoints go here, and the draft."""
    emit: Emit
    """Tell what happens: `emit("progress", done=3, total=10, unit="files")`, `emit("note", text=...)`."""
    machine: Machine
    lineage: Sequence[Mapping[str, Any]] = ()
    """What made the inputs, for a stage that declares `LINEAGE = True`: each earlier run with its stage, version,
    config, inputs and artifact, the nearest first."""
    ledger: Ledger | None = None
    store: Store | None = None
    """Likewise, where else something is known of the inputs: to be read, never written."""
    record: dict[str, Any] = field(default_factory=dict)
    """Facts that vary between runs (seconds, speeds); kept in the ledger, never in the artifact."""

    def draft_folder(self) -> Path:
        """An empty folder in the scratch space for the draft."""
        folder = self.scratch / "draft"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True)
class Slot:
    """An input of a stage: its name, the kind of artifact, and whether the stage can do without."""

    name: str
    kind: type[Artifact]
    optional: bool
    only_when_chosen: bool = False
    """Whether nothing fills it by itself: a life must say `inputs: {slot: step}`."""


def only_when_chosen() -> Any:
    """An optional input that is never filled by itself: `parent: Report | None = only_when_chosen()`.

    For a kind of which a life has many, of which the latest need not be the one that is meant.
    """
    return field(default=None, metadata={"only_when_chosen": True})


@dataclass(frozen=True)
class Stage:
    """A stage as its module declares it."""

    name: str
    version: int
    summary: str
    config: type[Settings]
    inputs: Callable[..., Any]
    slots: tuple[Slot, ...]
    gives: type[Artifact]
    run: Callable[[Any, Any, Context], Draft[Any]]
    record: Callable[[Any, Any, Ledger], None] | None = None
    """Tells the ledger of an answer, as often as it is met: `record(artifact, inputs, ledger)`."""
    admit: Callable[[Any, Any, Ledger, Store], None] | None = None
    """Raises where these inputs may not be taken so: asked before each run, in a life and alone."""
    advise: Callable[[Any], list[str]] | None = None
    """What can be told of the settings before anything runs: `advise(config)`."""
    lineage: bool = False
    """Whether it asks for what made its inputs."""
    parallel: bool = False
    """Whether every rank carries it out together (training), or the leading one alone."""


def read_stage(name: str, module: types.ModuleType) -> Stage:
    """The declaration in `module`; says what is missing or not of the form."""
    for part in ("VERSION", "Config", "Inputs", "run"):
        if not hasattr(module, part):
            raise PlanError(f"stage {name}", f"the module {module.__name__} has no `{part}`")
    gives = get_args(get_type_hints(module.run).get("return"))
    if not gives or not (isinstance(gives[0], type) and issubclass(gives[0], Artifact)):
        raise PlanError(f"stage {name}", expected="`run(...) -> Draft[Kind]`", got="another return annotation")
    summary = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    slots, parallel = _slots(name, module.Inputs), getattr(module, "PARALLEL", False)
    return Stage(
        name, module.VERSION, summary, module.Config, module.Inputs, slots, gives[0], module.run,
        record=getattr(module, "record", None), admit=getattr(module, "admit", None),
        advise=getattr(module, "advise", None),
        lineage=getattr(module, "LINEAGE", False), parallel=parallel,
    )  # fmt: skip


def _slots(name: str, inputs: Any) -> tuple[Slot, ...]:
    hints = get_type_hints(inputs)
    slots = []
    for one in dataclasses.fields(inputs):
        annotation, optional = hints[one.name], False
        if get_origin(annotation) in (Union, types.UnionType):
            inner = [part for part in get_args(annotation) if part is not type(None)]
            annotation, optional = inner[0], True
        if not (isinstance(annotation, type) and issubclass(annotation, Artifact)):
            raise PlanError(f"stage {name}", f"input `{one.name}`", expected="a kind of artifact", got=str(annotation))
        slots.append(Slot(one.name, annotation, optional, bool(one.metadata.get("only_when_chosen"))))
    return tuple(slots)
