"""Commands of single stages, created from the declarations of the stages.

Every setting of the stage becomes an option (a mapping or a list as YAML, `--losses '{ipo: 1}'`), and every input an
option that takes a name, a digest or a folder. The default input is the newest artifact of that kind under the same
`--life`, so that `vita design`, `vita curate DATA`, `vita tokenize`, `vita initialize` and `vita pretrain` can run one
after another.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from inspect import Parameter, Signature, get_annotations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml

from vita.cli.app import open_workspace
from vita.cli.curate_folder import (
    FOLDER_OPTIONS,
    copy_approvals,
    folder_workspace,
    run_race,
    run_task,
    set_workers,
    write_folder,
)
from vita.cli.model_reference import is_external
from vita.cli.options import TRACKER_HELP, JsonOption, print_json
from vita.cli.source_settings import SET_SOURCES_HELP, sources_of_data
from vita.cli.workspace import Workspace
from vita.spine.config import Settings, override, read_yaml, yaml_value
from vita.spine.errors import ConfigError, PlanError
from vita.spine.plain_text import with_article
from vita.spine.renamed_settings import former_names, present_name
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.spine.stage import Stage

NOTHING = "none"
"""The value that leaves an optional input empty."""
_NUMBERED_MODEL = re.compile(r"model_\d+")
_SHORT = {"parameters": ["--params"], "eval_fraction": ["--held-out"]}
"""Other spellings of some settings: `--held-out` is the option of the stage `curate`, too."""


def stage_command(stage_name: str) -> tuple[Callable[..., None], str]:
    """Return the function of a stage's command, with a signature from the declaration, and its summary."""

    from vita.formats.model_source import ModelSource
    from vita.life import stage as load_stage

    stage = load_stage(stage_name)
    options: dict[str, tuple[Any, Any]] = {}
    if "sources" in stage.config.model_fields:
        options["sources"] = (
            list[str] | None,
            typer.Argument(metavar="DATA...", help="Data files, folders or glob patterns."),
        )
    for slot in stage.slots:
        default = "none" if slot.explicit_only else f"the newest {slot.kind.kind} in --life"
        description = slot.description or f"The {slot.kind.kind} to use."
        forms = "A name, a digest, a folder, a GGUF file or an id of the Hugging Face Hub"
        forms = forms if slot.kind.kind == "model" else "A name, a digest or a folder"
        text = f"{description} {forms}. Default: {default}."
        if slot.optional and not slot.explicit_only:
            text += f" `{NOTHING}` uses none."
        if slot.name == "model" and _takes_models(stage):
            text = f"The models to use, each a name, a digest or a folder. Default: {default}."
            options["models"] = (list[str] | None, typer.Argument(metavar="MODEL...", help=text))
        elif _NUMBERED_MODEL.fullmatch(slot.name):
            continue
        elif _is_argument(stage, slot.name):
            options["slot_model"] = (str | None, typer.Argument(metavar="MODEL", help=text))
        else:
            options[f"slot_{slot.name}"] = (
                str | None,
                typer.Option(f"--{slot.name}", metavar=slot.kind.kind.upper(), help=text),
            )
    for field in _ordered_fields(stage.config):
        info = stage.config.model_fields[field]
        if info.annotation is ModelSource and field == "model":
            text = " ".join((info.description or "").split())
            options[f"set_{field}"] = (str, typer.Argument(metavar="MODEL", help=text))
        elif field not in options:
            spellings = [f"--{field.replace('_', '-')}", *_SHORT.get(field, ())]
            text = " ".join((info.description or "").split())
            default = "" if info.is_required() else _default_text(info.get_default(call_default_factory=True))
            metavar = "VALUE" if _plain(info.annotation) else "YAML"
            options[f"set_{field}"] = (str | None, typer.Option(*spellings, metavar=metavar, help=text + default))
            for former in former_names(field):
                if (
                    present_name(former, stage.config.model_fields) == field
                    and f"--{former.replace('_', '-')}" not in spellings
                ):
                    text = f"Former name of --{field.replace('_', '-')}, which is refused."
                    spelling = f"--{former.replace('_', '-')}"
                    options[f"former_{former}"] = (str | None, typer.Option(spelling, hidden=True, help=text))
    if stage_name == "curate":
        options |= FOLDER_OPTIONS
    set_help = "Override any setting, nested ones with dots: sources.0.path=..."
    if "sources" in options:
        set_help += "." + SET_SOURCES_HELP
    options["assignments"] = (list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help=set_help))
    if _trains(stage):
        options["tracker"] = (list[str] | None, typer.Option(help=TRACKER_HELP))
    options["config"] = (str | None, typer.Option("--config", metavar="FILE", help="Read settings from a YAML file."))
    has_name = "name" in stage.config.model_fields  # then `--name` is this setting, and also the default of `--life`
    default = "default: that of --name" if has_name else "default: my"
    life = typer.Option(
        "--life", metavar="LIFE", help=f"Name of the life under which the result is stored ({default})."
    )
    life_name = typer.Option("--name", metavar="LIFE", hidden=True, help="Another spelling of --life.")
    rerun = typer.Option("--rerun", help="Run the stage again, even if it is finished.")

    def run(ctx: typer.Context, **arguments: Any) -> None:
        if arguments.get("race"):
            run_race(ctx, arguments)
            return
        _run(open_workspace(ctx), stage, arguments)

    parameters = [Parameter("ctx", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, (kind, option) in options.items():
        missing = Parameter.empty if kind is str else None  # an argument without a default is required
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=missing, annotation=Annotated[kind, option]))
    parameters.append(Parameter("life", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, life]))
    if not has_name:
        alias = Parameter(
            "life_alias", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, life_name]
        )
        parameters.append(alias)
    parameters.append(Parameter("rerun", Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, rerun]))
    parameters.append(Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=JsonOption))
    run.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run, stage.summary


def _run(workspace: Workspace, stage: Stage, options: dict[str, Any]) -> None:
    from vita.life import configure
    from vita.spine.plan import Plan, Step, execute

    life = options["life"] or options.get("life_alias") or options.get("set_name") or "my"
    values = read_yaml(options["config"]) if options["config"] else {}
    if options.get("output"):
        raise ConfigError("curate: --output", "is only for --race", hint="use --out FOLDER to write the documents")
    out: Path | None = options.get("out")
    user_workspace = workspace
    if out:
        workspace = folder_workspace(out, options["shards"], erasures_of=workspace)
        values.setdefault("dropped_text", True)
    set_workers(workspace, options.get("workers"), options.get("ray"))
    assignments = list(options["assignments"] or ())
    if options.get("sources"):
        values["sources"], assignments = sources_of_data(
            options["sources"], assignments, stage.config, file=options["config"], values=values
        )
    options |= _numbered_models(stage, options.get("models") or [])
    for name, value in options.items():
        if name.startswith("set_") and value is not None:
            field = name.removeprefix("set_")
            values[field] = _value(value, stage.config.model_fields[field].annotation)
        elif name.startswith("former_") and value is not None:
            values[name.removeprefix("former_")] = value  # refused by name when the settings are built
    values = override(values, assignments)
    config = configure(stage, values, where=stage.name, shared={}, base=Path())
    input_sources = {}
    # The newest artifacts of the life, such as tokens, do not belong to a model that comes from outside of the store.
    references = [value for name, value in options.items() if name.startswith("slot_") and value]
    foreign = any(is_external(reference) and workspace.find_in_store(reference) is None for reference in references)
    for slot in stage.slots:
        reference = options.get(f"slot_{slot.name}")
        if reference == NOTHING and slot.optional:
            continue
        digest = workspace.find(reference, slot.kind).digest if reference else None
        if digest is None and not (slot.explicit_only or (slot.optional and foreign)):
            digest = workspace.latest(life, slot.kind)
            if digest is None and not slot.optional:
                spelling = "give MODEL" if _is_argument(stage, slot.name) else f"set --{slot.name}"
                hint = f"{spelling}, or create the artifact first (`vita ls` lists the artifacts)"
                raise PlanError(stage.name, f"needs {with_article(slot.kind.kind)}, and `{life}` has none", hint=hint)
        if digest:
            input_sources[slot.name] = f"@{digest}"
    if out and (getattr(config, "approval", "none") == "required" or user_workspace.has_ledger):
        copy_approvals(user_workspace, workspace)
    plan = Plan(life, (Step(stage.name, stage, config, input_sources),))
    trackers = tuple(options.get("tracker") or ())
    events = workspace.events(life, trackers=trackers, quiet=options["as_json"])
    try:
        if options.get("task"):
            run_task(workspace, plan.steps[0], options["task"], events)
            return
        artifacts = execute(plan, workspace.store, workspace.ledger, machine=workspace.machine, events=events,
                       rerun=(stage.name,) if options["rerun"] else ())  # fmt: skip
    finally:
        events.close()
    if out:
        write_folder(workspace, artifacts[stage.name], out, options["shards"])
    elif workspace.machine.leads:
        _print_artifact(workspace, artifacts[stage.name], f"{life}/{stage.name}", as_json=options["as_json"])


def _takes_models(stage: Stage) -> bool:
    """Return True if several models are arguments of the command."""
    return any(slot.name == "model_2" for slot in stage.slots)


def _is_argument(stage: Stage, slot_name: str) -> bool:
    """Return True if an input is given as an argument, without the name of an option."""
    is_model = slot_name == "model" or _NUMBERED_MODEL.fullmatch(slot_name) is not None
    return is_model and (_takes_models(stage) or "sources" not in stage.config.model_fields)


def _trains(stage: Stage) -> bool:
    """Return True if the stage has a training loop, whose metrics a tracker receives."""
    return "checkpoint_seconds" in stage.config.model_fields


def _numbered_models(stage: Stage, references: list[str]) -> dict[str, str]:
    """Return the inputs `model`, `model_2`, ... of a stage for several models of the command line."""
    slots = [slot.name for slot in stage.slots if slot.name == "model" or _NUMBERED_MODEL.fullmatch(slot.name)]
    if len(references) > len(slots):
        raise PlanError(stage.name, expected=f"at most {len(slots)} models", got=len(references))
    return {f"slot_{slot}": reference for slot, reference in zip(slots, references, strict=False)}


def _print_artifact(workspace: Workspace, artifact: Artifact, name: str, *, as_json: bool) -> None:
    from vita.cli.artifacts import artifact_as_json, print_facts

    if as_json:
        print_json(artifact_as_json(workspace, artifact))
    else:
        print_facts(workspace, artifact, name)


def _ordered_fields(config: type[Settings]) -> list[str]:
    """The settings that the stage declares itself, then those of the groups that it inherits."""
    declared = (name for cls in config.__mro__ for name in get_annotations(cls))
    return list(dict.fromkeys(name for name in declared if name in config.model_fields))


def _default_text(value: Any) -> str:
    """Return the text of a setting's default; none for an empty default or one with settings of its own."""
    if value is None or value in ("", (), {}) or isinstance(value, Settings):
        return ""
    if isinstance(value, (tuple, dict)):
        if any(isinstance(item, Settings) for item in (value.values() if isinstance(value, dict) else value)):
            return ""
        value = list(value) if isinstance(value, tuple) else value
        return f" (default: {yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()})"
    return f" (default: {str(value).lower() if isinstance(value, bool) else value})"


def _value(text: str, annotation: Any) -> Any:
    """Parse an option's value; for text settings, `1` and `no` are texts."""
    if _is_text(annotation) and text != "null":
        return text
    try:
        return yaml_value(text)
    except yaml.YAMLError:
        return text


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return all(_is_text(part) for part in get_args(annotation) if part is not types.NoneType)
    return isinstance(annotation, type) and issubclass(annotation, str)


def _plain(annotation: Any) -> bool:
    """Return True if a setting is a single value and can be an option."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(_plain(part) for part in get_args(annotation))
    if isinstance(annotation, type):
        return not issubclass(annotation, (Settings, dict, list, tuple))
    return get_origin(annotation) not in (list, tuple, dict, set, frozenset)
