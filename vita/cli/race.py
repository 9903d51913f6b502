"""`vita race`: short training runs of several data settings over several seeds, and the best written into the life."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from pydantic import Field, model_validator
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import LIVES, JsonOption, print_json
from vita.cli.workspace import Workspace, writing
from vita.spine.config import Settings, build, override, read_yaml, unknown_name
from vita.spine.console import line, print_table
from vita.spine.disk import write_atomically
from vita.spine.errors import ConfigError, DataError, StoreError

if TYPE_CHECKING:
    from vita.design.race import RaceResult
    from vita.life import Life
    from vita.reporting.figures import ReportFigure
    from vita.spine.plan import Step


class RaceFile(Settings):
    """The candidates of a race, and the figure by which they are compared."""

    life: str
    """The life file, relative to the folder of this file."""
    report: str
    """The step of the life whose report has the figure; the race runs the life until this step."""
    figure: str
    """The name of the figure, such as `validation/bits_per_byte`."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=2)
    """Seeds of the initialization and of the training stages."""
    proxy: dict[str, Any] = {}
    """Settings of all runs of the race that are not written into the life: `{pretrain.steps: 200}`."""
    candidates: dict[str, dict[str, Any]] = Field(min_length=2)
    """Name -> settings: `{pretrain.mixture: unimax}`; `{}` is the life as it is."""

    @model_validator(mode="after")
    def _distinct_seeds(self) -> RaceFile:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("the seeds must differ")
        return self


@app.command(rich_help_panel=LIVES)
def race(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="RACE.yaml", help="The life, the candidates and the figure.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Life file to write with the settings of the winner.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare data settings of a life by short training runs with equal numbers of tokens and several seeds.

    The best candidate wins if the 95% interval of its difference from every other one does not contain 0. Otherwise no
    life is written. Finished runs are not repeated.
    """
    from vita.design.race import decide

    workspace = open_workspace(ctx)
    settings = build(RaceFile, read_yaml(file), where=file.name)
    life_path = file.parent / settings.life
    if output is not None:
        _check_output(output, life_path)
    runs = [
        (name, seed, _read_run(workspace, settings, life_path, name, seed))
        for name in settings.candidates
        for seed in settings.seeds
    ]
    figures: dict[str, list[ReportFigure]] = {name: [] for name in settings.candidates}
    tokens: dict[str, int] = {}
    items: dict[str, int] = {}
    for number, (name, seed, life) in enumerate(runs, 1):
        tokens[f"{name}, seed {seed}"], figure = _run(workspace, life, settings, quiet=as_json)
        figures[name].append(figure)
        _check_equal(tokens, "training tokens", "set `pretrain.steps` and `pretrain.batch_size` in `proxy`")
        items[f"{name}, seed {seed}"] = figure.n
        _check_equal(items, "measured items", "measure on a text of `texts` of the test, not on the corpus of each run")
        if not as_json:
            workspace.console.print(f"run {number} of {len(runs)}  {name}, seed {seed}  {figure.value:.4f}")
    values = {name: [float(figure.value or 0.0) for figure in rows] for name, rows in figures.items()}
    result = decide(values, lower_is_better=not next(iter(figures.values()))[0].higher_is_better)
    record = _record(settings, result, values, tokens=next(iter(tokens.values())))
    workspace.ledger.log("race", str(settings.life), **record)
    if output is not None and result.winner:
        with writing(output):
            _write_life(output, life_path, settings.candidates[result.winner], _sentence(settings, result))
    record["file"] = str(output) if output is not None and result.winner else None
    if as_json:
        print_json(record)
        return
    _print_result(workspace, settings, result, output)


def _check_output(output: Path, life: Path) -> None:
    if output.exists():
        raise StoreError(str(output), "exists", hint="choose another file, or remove it")
    if output.parent.resolve() != life.parent.resolve():
        raise ConfigError("race: --output", expected=f"a file in {life.parent.resolve()}, the folder of the life",
                          got=str(output), hint="relative paths of a life belong to its folder")  # fmt: skip


def _read_run(workspace: Workspace, settings: RaceFile, path: Path, candidate: str, seed: int) -> Life:
    """Read the life with the settings of a candidate and a seed."""
    from vita.life import read_life

    assignments = [*_assignments(settings.proxy), *_assignments(settings.candidates[candidate])]
    life = read_life(str(path), assignments=assignments, until=settings.report, find=workspace.find_in_store)
    seeded = [step.name for step in life.plan.steps if _has_training_seed(step)]
    if not seeded:
        raise ConfigError(f"{path.name}", f"no step before `{settings.report}` trains a model")
    name = f"{life.name}-race-{candidate}-{seed}"
    assignments += [f"{step}.seed={seed}" for step in seeded] + [f"name={name}"]
    return read_life(str(path), assignments=assignments, until=settings.report, find=workspace.find_in_store)


def _has_training_seed(step: Step) -> bool:
    fields = step.stage.config.model_fields
    return "seed" in fields and (step.stage.name == "initialize" or "checkpoint_seconds" in fields)


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _run(workspace: Workspace, life: Life, settings: RaceFile, *, quiet: bool) -> tuple[int, ReportFigure]:
    """Run a life until its report; return the tokens of its last training and the figure."""
    from vita.reporting.figures import read_report
    from vita.spine.plan import execute

    events = workspace.events(life.name, quiet=True, notes=False)
    try:
        artifacts = execute(life.plan, workspace.store, workspace.ledger, machine=workspace.machine, events=events)
    finally:
        events.close()
    named = read_report(artifacts[settings.report].path).named()
    if settings.figure not in named:
        raise unknown_name(f"the report of {settings.report}", settings.figure, named)
    figure = named[settings.figure]
    if figure.value is None or figure.higher_is_better is None:
        raise DataError(f"{settings.report}: {settings.figure}", expected="a measured figure with a better direction")
    trained = [artifacts[step.name].facts.get("tokens") for step in life.plan.steps if _has_training_seed(step)]
    return next((int(tokens) for tokens in reversed(trained) if tokens), 0), figure


def _check_equal(values: Mapping[str, int], what: str, hint: str) -> None:
    if len(set(values.values())) > 1:
        text = ", ".join(f"{name}: {value:,}" for name, value in values.items())
        raise DataError("race", f"the candidates differ in their {what} ({text})", hint=hint)


def _record(
    settings: RaceFile, result: RaceResult, values: Mapping[str, Sequence[float]], *, tokens: int
) -> dict[str, Any]:
    return {
        "figure": f"{settings.report}: {settings.figure}",
        "seeds": list(settings.seeds),
        "tokens": tokens,
        "best": result.best,
        "winner": result.winner,
        "candidates": {
            name: {"values": list(values[name]), "mean": result.means[name].as_json(), "settings": candidate}
            for name, candidate in settings.candidates.items()
        },
        "differences": {name: interval.as_json() for name, interval in result.differences.items()},
    }


def _sentence(settings: RaceFile, result: RaceResult) -> Iterator[str]:
    """Yield the result in sentences."""
    yield (
        f"{settings.figure} over {len(settings.seeds)} seeds: "
        + "; ".join(f"{name} {interval}" for name, interval in result.means.items())
        + "."
    )
    for name, interval in result.differences.items():
        yield f"{result.best} minus {name}: {interval}."


def _write_life(output: Path, path: Path, settings: Mapping[str, Any], sentences: Iterator[str]) -> None:
    from vita.life import full_assignment

    content = override(read_yaml(path), [full_assignment(text) for text in _assignments(settings)])
    head = "".join(f"# {sentence}\n" for sentence in ("Settings of the winner of a race.", *sentences))
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
    write_atomically(output, (head + text).encode())


def _print_result(workspace: Workspace, settings: RaceFile, result: RaceResult, output: Path | None) -> None:
    table = Table("candidate", settings.figure, f"{result.best} minus it", box=None, pad_edge=False)
    for name, interval in result.means.items():
        table.add_row(name, str(interval), str(result.differences.get(name, "")))
    print_table(workspace.console, table)
    if result.winner is None:
        workspace.console.print("no difference: the interval of the best candidate's difference contains 0")
    else:
        workspace.console.print(line((result.winner, "bold"), " wins"))
    if output is not None:
        text = f"written to {output}" if result.winner else "no life was written"
        workspace.console.print(text, soft_wrap=True, markup=False)
