"""The life file: YAML that declares the steps of a life, their settings and its gates.

    name: cat
    model: Qwen/Qwen3-0.6B@main   # optional: the model to start from; it is adopted before the first step
    settings:               # for every stage that has a setting of this name
      seed: 0
    stages:                 # in order; the key is the step's name, `stage:` names another stage
      curate: {sources: [{world: {things: 120}}]}
      tokenize: {}
      test_base: {stage: test}
    ask: ["What is a cat?"]

    gates:
      release: {model: sft, bars: [{report: test_chat, figure: world/held_out/accuracy, at_least: 0.8}]}

An input slot is filled by the latest earlier step whose output has its kind. `inputs: {model: sft}` selects another
step, `inputs: {model: "@DIGEST"}` an artifact of the store; a name of the store, an id of the Hugging Face Hub, a model
folder or a GGUF file select a model as well. `vita live NAME` runs a built-in recipe,
`vita live path/to/life.yaml` a file.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import Field

import vita.recipes
from vita.formats.hub_reference import GGUF_SUFFIX
from vita.gates.corpus_approvals import require_valid_approval_of_path
from vita.gates.policy import Policy
from vita.spine.config import Settings, build, nearest, override, read_yaml, resolve_paths, unknown_name
from vita.spine.errors import ConfigError, PlanError
from vita.spine.plain_text import with_article
from vita.spine.plan import Plan, Step
from vita.spine.renamed_stages import present_stage
from vita.spine.stage import Stage, read_stage
from vita.spine.store import Artifact
from vita.stages import own_stages
from vita.stages.kinds import Model

ADOPT = "adopt"
"""The stage that adopts a model, and the name of its step."""
_DIGEST = re.compile(r"@[0-9a-f]{64}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class LifeFile(Settings):
    """Schema of a life file."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the life; its artifacts are called `name/step`."""
    about: str = ""
    """Description for readers."""
    model: str | None = Field(default=None, min_length=1)
    """The model to start from: an id of the Hugging Face Hub (`owner/name@revision`), a folder, a GGUF file or a name
    in the store."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Values of `${name}` in the file; `--set variables.name=value` overrides one."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Defaults for every stage with a setting of this name."""
    stages: dict[str, dict[str, Any] | None]
    """The steps in order: name -> settings."""
    gates: dict[str, Policy] = Field(default_factory=dict)
    """Criteria that a step with `gate: NAME` requires; they are recorded before the first measurement."""
    ask: tuple[str, ...] = ()
    """Questions for the models at the end of the life."""


class Life:
    """A life, read from its file."""

    def __init__(self, file: LifeFile, plan: Plan) -> None:
        self.file, self.plan = file, plan

    @property
    def name(self) -> str:
        return self.file.name


def read_life(
    reference: str,
    *,
    assignments: Sequence[str] = (),
    until: str | None = None,
    find: Callable[[str], str | None] = lambda reference: None,
) -> Life:
    """Read the life in a file or recipe, with `--set` overrides (`pretrain.steps=100`, `settings.seed=1`).

    Relative paths are relative to the folder of the file; those of a built-in recipe to the working folder. `find`
    returns the digest of a name in the store, or None.
    """
    path = find_recipe(reference)
    base = Path() if path in recipes().values() else path.parent
    raw = override(read_yaml(path), [full_assignment(assignment) for assignment in assignments])
    variables = raw.get("variables") or {}
    if not isinstance(variables, dict):
        raise ConfigError(f"{path.name}.variables", expected="values as `name: value`", got=variables)
    variables = _substitute(variables, variables, where=f"{path.name}.variables")
    file = build(LifeFile, _substitute(raw, variables, where=path.name), where=path.name)
    steps: list[Step] = []
    models = _ModelReferences(steps, find, base)
    start = models.source(file.model, ADOPT, where=f"{path.name}.model") if file.model else None
    for name, settings in file.stages.items():
        if any(step.name == name for step in steps):
            raise ConfigError(f"{path.name}.stages.{name}", "is the name of the step that adopts the model already")
        steps.append(_step(name, dict(settings or {}), file, models, start, where=path.name))
    steps = _link_steps(steps)
    unused = [name for name in file.settings if not any(name in step.stage.config.model_fields for step in steps)]
    if unused:
        fields = {field for step in steps for field in step.stage.config.model_fields}
        raise unknown_name(f"{path.name}.settings", unused[0], fields)
    if until is not None:
        names = [step.name for step in steps]
        if until not in names:
            raise unknown_name("--until", until, names)
        steps = steps[: names.index(until) + 1]
    else:
        _check_gates(file, steps, where=path.name)
    return Life(file, Plan(file.name, tuple(steps)))


def find_recipe(reference: str) -> Path:
    """Return the path of a life file, or of the built-in recipe with this name."""
    path = Path(reference).expanduser()
    if path.suffix in (".yaml", ".yml") or "/" in reference:
        if not path.is_file():
            hint = "or give the name of a built-in recipe: " + ", ".join(recipes())
            raise ConfigError(reference, "there is no such file", hint=hint)
        return path
    if reference in recipes():
        return recipes()[reference]
    if path.is_file():
        return path
    raise unknown_name("recipe", reference, recipes())


def recipes() -> dict[str, Path]:
    """Return the built-in recipes: name -> path."""
    folder = Path(vita.recipes.__file__).parent
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def stage(name: str) -> Stage:
    """Return the stage with this name: a module of `vita.stages`, or an entry point of the group `vita.stages`."""
    if name in own_stages():
        module = importlib.import_module(f"vita.stages.{name}")
    else:
        point = _stages_of_other_packages().get(name)
        if point is None:
            raise unknown_name("stage", name, stages())
        module = point.load()
    return replace(read_stage(name, module), admit_path=require_valid_approval_of_path)


def stages() -> list[str]:
    """Return all stages, including those of other packages."""
    return sorted({*own_stages(), *_stages_of_other_packages()})


@cache
def _stages_of_other_packages() -> dict[str, EntryPoint]:
    """The entry points by name; read once, because that takes the metadata of all installed packages."""
    return {point.name: point for point in reversed(entry_points(group="vita.stages"))}


def configure(
    declaration: Stage, overrides: Mapping[str, Any], *, where: str, shared: Mapping[str, Any], base: Path
) -> Settings:
    """Return the settings of a stage, completed from the files that they name.

    Relative input paths are relative to `base`, the folder of the life file.
    """
    values = {name: value for name, value in shared.items() if name in declaration.config.model_fields}
    config = build(declaration.config, {**values, **overrides}, where=where)
    config = resolve_paths(config, base) if base != Path() else config
    return declaration.complete(config) if declaration.complete else config


def wire(
    declaration: Stage, earlier: Iterable[Step], chosen: Mapping[str, str], *, where: str, start: str | None = None
) -> dict[str, str]:
    """Return slot -> step: the selected step, or the latest earlier step whose output has the kind of the slot.

    A slot with `explicit_only` stays empty unless a step is selected. `start` is the model that the life starts from.
    """
    before = list(earlier)
    names = [slot.name for slot in declaration.slots]
    for slot in chosen:
        if slot not in names:
            raise unknown_name(f"{where}.inputs", slot, names)
    input_sources: dict[str, str] = {}
    for slot in declaration.slots:
        source = chosen.get(slot.name) or (None if slot.explicit_only else _latest(slot.kind, before))
        if source is None and slot.kind is Model and not slot.explicit_only:
            source = start
        if source is None:
            if slot.optional:
                continue
            producers = [name for name in own_stages() if stage(name).output_kind is slot.kind]
            hint = f"add one of the stages {', '.join(producers)} before it" if producers else None
            raise PlanError(
                where,
                f"needs {with_article(slot.kind.kind)} for `{slot.name}`, and no earlier step produces one",
                hint=hint,
            )
        if not source.startswith("@"):
            source_step = next((step for step in before if step.name == source), None)
            if source_step is None:
                raise unknown_name(f"{where}.inputs.{slot.name}", source, [step.name for step in before])
            if source_step.stage.output_kind is not slot.kind:
                got = f"`{source}`, which produces a {source_step.stage.output_kind.kind}"
                raise PlanError(
                    f"{where}.inputs.{slot.name}", expected=f"a step that produces a {slot.kind.kind}", got=got
                )
        input_sources[slot.name] = source
    return input_sources


class _ModelReferences:
    """Turns the references of a life file into sources of inputs; a model outside of the store gets a step `adopt`."""

    def __init__(self, steps: list[Step], find: Callable[[str], str | None], base: Path) -> None:
        self.steps, self.base, self._find = steps, base, find

    def source(self, reference: str, name: str, *, where: str) -> str:
        """Return the source of a model: `@digest`, or the step that adopts it, which is added under `name`."""
        if _DIGEST.fullmatch(reference):
            return reference
        path = self.base / Path(reference).expanduser()
        if not path.exists() and (digest := self._find(reference)) is not None:
            return f"@{digest}"
        declaration = stage(ADOPT)
        config = configure(declaration, {"model": reference}, where=where, shared={}, base=self.base)
        same = next((step.name for step in self.steps if step.stage.name == ADOPT and step.config == config), None)
        if same is None:
            labels = {step.name for step in self.steps}
            same = next(label for label in (name, *(f"{name}-{i}" for i in range(2, 1000))) if label not in labels)
            self.steps.append(Step(same, declaration, config))
        return same

    def sources(self, declaration: Stage, chosen: Mapping[str, str], *, where: str) -> dict[str, str]:
        """Return slot -> source for the inputs that a step selects."""
        kinds = {slot.name: slot.kind for slot in declaration.slots}
        names = {step.name for step in self.steps}
        result: dict[str, str] = {}
        for slot, reference in chosen.items():
            spot = f"{where}.inputs.{slot}"
            if reference in names or slot not in kinds or _DIGEST.fullmatch(reference):
                result[slot] = reference
            elif kinds[slot] is Model and self._is_model(reference):
                result[slot] = self.source(reference, ADOPT, where=spot)
            else:
                digest = self._find(reference)
                result[slot] = f"@{digest}" if digest else reference
        return result

    def _is_model(self, reference: str) -> bool:
        """Return True for a reference that names a model outside of the life, not a misspelt step."""
        return "/" in reference or reference.endswith(GGUF_SUFFIX) or (self.base / reference).is_dir()


def _step(
    name: str, values: dict[str, Any], file: LifeFile, models: _ModelReferences, start: str | None, *, where: str
) -> Step:
    base, earlier = models.base, models.steps
    at = f"{where}.stages.{name}"
    stage_name = values.pop("stage", name)
    chosen, gate = values.pop("inputs", None) or {}, values.pop("gate", None)
    if not isinstance(stage_name, str) or not isinstance(chosen, dict):
        raise ConfigError(at, expected="`stage: NAME` and `inputs: {slot: step}`")
    if gate is not None and (not isinstance(gate, str) or gate not in file.gates):
        raise unknown_name(f"{at}.gate", str(gate), file.gates)
    if stage_name not in stages():
        raise _unknown_stage(
            f"{where}.stages" if stage_name == name else f"{at}.stage", stage_name, is_step=stage_name == name
        )
    declaration = stage(stage_name)
    config = configure(declaration, values, where=at, shared=file.settings, base=base)
    chosen = models.sources(declaration, {slot: str(value) for slot, value in chosen.items()}, where=at)
    input_sources = wire(declaration, earlier, chosen, where=at, start=start)
    if gate is not None and (model := input_sources.get("model", file.gates[gate].model)) != file.gates[gate].model:
        raise PlanError(f"{at}.gate", f"`{gate}` is for `{file.gates[gate].model}`, and this step takes `{model}`")
    return Step(name, declaration, config, input_sources, gate=f"{file.name}/{gate}" if gate else None)


def _link_steps(steps: Sequence[Step]) -> list[Step]:
    """Complete the settings of stages that use the settings of other steps."""
    settings = [(step.stage.name, step.config) for step in steps]
    return [replace(step, config=step.stage.link(step.config, settings)) if step.stage.link else step for step in steps]


def _unknown_stage(where: str, name: str, *, is_step: bool) -> ConfigError:
    """The error for a stage that does not exist; `is_step`: the name is that of the step."""
    if not is_step or present_stage(name, stages()):
        return unknown_name(where, name, stages())
    close = nearest(name, stages())
    hint = f"did you mean `{close}`?" if close else "a step with another name declares its stage: `stage: test`"
    return ConfigError(where, f"`{name}` is not a stage", hint=hint)


def _check_gates(file: LifeFile, steps: Sequence[Step], *, where: str) -> None:
    """Check that criteria name existing steps that run before the step behind the gate."""
    names = [step.name for step in steps]
    for gate, policy in file.gates.items():
        behind = [step.name for step in steps if step.gate == f"{file.name}/{gate}"]
        before = names[: names.index(behind[0])] if behind else names
        needed = [(f"bars.{i}.report", bar.report) for i, bar in enumerate(policy.bars)]
        needed += [(f"bars.{i}.not_worse_than", bar.not_worse_than or "") for i, bar in enumerate(policy.bars)]
        for at, name in [("model", policy.model), *needed]:
            is_external = at != "model" and "/" in name  # another life's report, or a review's
            if name and not is_external and name not in before:
                raise unknown_name(f"{where}.gates.{gate}.{at}", name, before)


def _latest(kind: type[Artifact], steps: Sequence[Step]) -> str | None:
    return next((step.name for step in reversed(steps) if step.stage.output_kind is kind), None)


def full_assignment(assignment: str) -> str:
    """Return `stages.sft.steps=1` for `sft.steps=1`; assignments to top-level fields stay unchanged."""
    head = assignment.split("=")[0].split(".")[0]
    return assignment if head in LifeFile.model_fields else f"stages.{assignment}"


def _substitute(value: Any, variables: Mapping[str, Any], *, where: str) -> Any:
    """Return `value` with every `${name}` replaced; a value that is only `${name}` keeps the type."""
    if isinstance(value, str):
        alone = _VARIABLE.fullmatch(value)
        if alone:
            return _variable(alone[1], variables, where)
        return _VARIABLE.sub(lambda match: str(_variable(match[1], variables, where)), value)
    if isinstance(value, dict):
        return {name: _substitute(below, variables, where=f"{where}.{name}") for name, below in value.items()}
    if isinstance(value, list):
        return [_substitute(below, variables, where=where) for below in value]
    return value


def _variable(name: str, variables: Mapping[str, Any], where: str) -> Any:
    if name not in variables:
        raise unknown_name(f"{where}: variables", name, variables)
    return variables[name]
