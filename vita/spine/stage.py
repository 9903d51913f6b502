"""Stages: modules with `VERSION`, `Config`, `Inputs` and `run`; the annotations declare inputs and output.

VERSION = 1
class Config(Settings): ...
@dataclass(frozen=True)
class Inputs: model: Model; corpus: Corpus | None = None
def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]: ...
def admit(config: Config, inputs: Inputs, ledger: Ledger, store: Store) -> None: ...  # optional: reject inputs
ADMITS_CACHED = True                            # optional: `admit` also checks before a cached artifact is used
ADMITS_ALL_INPUTS = True                        # optional: the rules of kinds of artifacts do not apply to its inputs
def advise(config: Config) -> list[str]: ...    # optional: warnings about settings
def complete(config: Config) -> Config: ...     # optional: settings from files that the settings name
def link(config: Config, steps: Sequence[tuple[str, Settings]]) -> Config: ...    # optional: settings of other steps
def input_problem(config: Config, slots: Collection[str]) -> str | None: ...    # optional: reject connected inputs
NEEDS = {"model": (generates_text,)}            # optional: requirements on inputs (`vita.spine.traits`)
def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None: ...        # optional: by settings
def traits(config: Config, inputs: Mapping[str, Traits | None]) -> Traits | None: ...   # optional: of the output
def record(artifact: Model, inputs: Inputs, ledger: Ledger) -> None: ...    # optional: entries in the ledger
def apply(config: Config, inputs: Inputs, ledger: Ledger, store: Store, emit: Emit) -> None: ...    # optional: outside
def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows: ...   # optional: documents of each step
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import shutil
import textwrap
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from vita.spine.config import Settings
from vita.spine.errors import PlanError
from vita.spine.events import Emit
from vita.spine.ledger import Ledger
from vita.spine.machine import Machine
from vita.spine.store import Artifact, Draft, Store, Traits


@dataclass
class Context:
    """The environment of a run, in addition to its config and inputs; it must not change the result."""

    scratch: Path
    """The folder of this run key, which survives a crash; it holds checkpoints and the draft."""
    emit: Emit
    """Report events: `emit("progress", done=3, total=10, unit="files")`, `emit("note", text=...)`."""
    machine: Machine
    lineage: Sequence[Mapping[str, Any]] = ()
    """The lineage of the inputs, for a stage that declares `LINEAGE = True`: each earlier run with its stage, version,
    config, inputs and artifact, nearest first."""
    ledger: Ledger | None = None
    store: Store | None = None
    """Ledger and store of the lineage, also only with `LINEAGE = True`; read-only."""
    record: dict[str, Any] = field(default_factory=dict)
    """Facts that vary between runs (seconds, speeds); stored in the ledger, never in the artifact."""

    def draft_folder(self) -> Path:
        """Create an empty folder for the draft in the scratch folder."""
        folder = self.scratch / "draft"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True)
class Slot:
    """An input of a stage: its name, the kind of artifact, and whether it is optional."""

    name: str
    kind: type[Artifact]
    optional: bool
    explicit_only: bool = False
    """True if the slot is never filled automatically: a life must set `inputs: {slot: step}`."""
    description: str = ""
    """The docstring of the field, for the help of the stage's command."""


def explicit_only() -> Any:
    """Declare an optional input that is never filled automatically: `parent: Report | None = explicit_only()`.

    It is for kinds with many artifacts per life, where the latest artifact may be the wrong one.
    """
    return field(default=None, metadata={"explicit_only": True})


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage, as read from its module."""

    name: str
    version: int
    summary: str
    config: type[Settings]
    inputs: Callable[..., Any]
    slots: tuple[Slot, ...]
    output_kind: type[Artifact]
    run: Callable[[Any, Any, Context], Draft[Any]]
    record: Callable[[Any, Any, Ledger], None] | None = None
    """Records facts on an artifact in the ledger, for new and cached artifacts: `record(artifact, inputs, ledger)`."""
    apply: Callable[[Any, Any, Ledger, Store, Emit], None] | None = None
    """Carries out what is outside of the store, such as a deployment: `apply(config, inputs, ledger, store, emit)`.
    Called each time the step is executed, for new and cached artifacts, so that it must be repeatable."""
    admit: Callable[[Any, Any, Ledger, Store], None] | None = None
    """Raises an error if these inputs must not be used; called before each run, in a life and for a single stage."""
    admits_cached: bool = False
    """True if `admit` is also called before a cached artifact is used, because its conditions can change afterwards."""
    admit_path: Callable[[str, str, Ledger], None] | None = None
    """Raises an error if an input path must not be read now: `admit_path(path, where, ledger)`."""
    admits_all_inputs: bool = False
    """True if the stage also uses artifacts that their kind does not admit (`Artifact.admit`)."""
    advise: Callable[[Any], list[str]] | None = None
    """Returns warnings about the settings before the run: `advise(config)`."""
    complete: Callable[[Any], Any] | None = None
    """Returns the settings, completed from the files that they name, with resolved paths: `complete(config)`."""
    link: Callable[[Any, Sequence[tuple[str, Settings]]], Any] | None = None
    """Returns the settings, completed by those of all steps of the life: `link(config, [(stage, settings), ...])`."""
    training_rows: Callable[[Any, Any, Path], Any] | None = None
    """Returns the rows of each training step with their documents (`vita.rights.row_documents.StageRows`):
    `training_rows(config, inputs, folder)`, with an empty folder for files that the rows need."""
    needs: Mapping[str, Sequence[Callable[[Traits], str | None]]] = field(default_factory=dict)
    """Requirements on the artifact of a slot: each returns the reason why it is not met, or None."""
    input_problem: Callable[[Any, Collection[str]], str | None] | None = None
    """Returns the reason why the slots that have an artifact do not suit the settings, or None."""
    unsupported: Callable[[Any, Mapping[str, Traits]], str | None] | None = None
    """Returns the reason why the settings do not suit the traits of the inputs, or None."""
    traits: Callable[[Any, Mapping[str, Traits | None]], Traits | None] | None = None
    """Returns the traits of the output before the run; by default those of the first input that has some."""
    lineage: bool = False
    """True if the stage reads the lineage of its inputs."""
    applies_erasures: bool = False
    """True if the stage leaves out erased documents itself: it has `sources`, or declares `APPLIES_ERASURES`."""
    parallel: bool = False
    """True if all ranks run the stage together (training), False if only rank 0 runs it."""


def read_stage(name: str, module: types.ModuleType) -> Stage:
    """Read the declaration of a stage from `module`; raise `PlanError` if a part is missing or malformed."""
    for part in ("VERSION", "Config", "Inputs", "run"):
        if not hasattr(module, part):
            raise PlanError(f"stage {name}", f"the module {module.__name__} has no `{part}`")
    kinds = get_args(get_type_hints(module.run).get("return"))
    if not kinds or not (isinstance(kinds[0], type) and issubclass(kinds[0], Artifact)):
        raise PlanError(f"stage {name}", expected="`run(...) -> Draft[Kind]`", got="another return annotation")
    summary = (module.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
    slots, parallel = _slots(name, module.Inputs), getattr(module, "PARALLEL", False)
    return Stage(
        name, module.VERSION, summary, module.Config, module.Inputs, slots, kinds[0], module.run,
        record=getattr(module, "record", None), apply=getattr(module, "apply", None),
        admit=getattr(module, "admit", None),
        admits_cached=getattr(module, "ADMITS_CACHED", False),
        admits_all_inputs=getattr(module, "ADMITS_ALL_INPUTS", False),
        advise=getattr(module, "advise", None), complete=getattr(module, "complete", None),
        link=getattr(module, "link", None), training_rows=getattr(module, "training_rows", None),
        needs=getattr(module, "NEEDS", {}), input_problem=getattr(module, "input_problem", None),
        unsupported=getattr(module, "unsupported", None),
        traits=getattr(module, "traits", None),
        applies_erasures="sources" in module.Config.model_fields or getattr(module, "APPLIES_ERASURES", False),
        lineage=getattr(module, "LINEAGE", False), parallel=parallel,
    )  # fmt: skip


def _slots(name: str, inputs: Any) -> tuple[Slot, ...]:
    hints, docstrings = get_type_hints(inputs), _field_docstrings(inputs)
    slots = []
    for slot_field in dataclasses.fields(inputs):
        annotation, optional = hints[slot_field.name], False
        if get_origin(annotation) in (Union, types.UnionType):
            inner = [part for part in get_args(annotation) if part is not type(None)]
            annotation, optional = inner[0], True
        if not (isinstance(annotation, type) and issubclass(annotation, Artifact)):
            raise PlanError(
                f"stage {name}", f"input `{slot_field.name}`", expected="a kind of artifact", got=str(annotation)
            )
        explicit, description = "explicit_only" in slot_field.metadata, docstrings.get(slot_field.name, "")
        slots.append(Slot(slot_field.name, annotation, optional, explicit, description))
    return tuple(slots)


@cache
def _field_docstrings(cls: Any) -> dict[str, str]:
    """Return the string literals below the fields of a class; none if its source is not available."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):
        return {}
    docstrings = {}
    for statement, following in pairwise(next(ast.iter_child_nodes(tree)).body):  # pyright: ignore[reportAttributeAccessIssue]
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = " ".join(text.split())
            case _:
                pass
    return docstrings
