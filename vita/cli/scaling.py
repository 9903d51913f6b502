"""Scaling studies: `vita scaling` trains small models and predicts the loss, time and memory of larger ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as ScreenTable

from vita.cli.app import app, open_workspace
from vita.cli.options import LIVES, JsonOption, print_json
from vita.cli.scaling_runs import LadderRuns
from vita.cli.workspace import Workspace, writing
from vita.spine.config import override
from vita.spine.console import print_table
from vita.spine.errors import ConfigError

if TYPE_CHECKING:
    from vita.design.ladder import Rung
    from vita.design.recommendation import LadderRun, Recommendation, ScalingStudy, Target

TRAINING = {"num_evals": 1, "eval_tokens": 65_536, "compile": "no"}
"""Settings of pretraining in a ladder: an evaluation at the end, and no compilation, which short runs do not repay."""


@app.command(rich_help_panel=LIVES)
def scaling(
    ctx: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="DATA...", help="Data files, folders or glob patterns.")],
    budget: Annotated[
        str, typer.Option(metavar="BUDGET", help='Budget of the final run: FLOPs (1e15), or time here ("2 h").')
    ],
    ladder: Annotated[
        str | None,
        typer.Option(
            metavar="FLOPS,...", help="Compute budgets of the small runs. Default: 1/100, 1/40 and 1/16 of --budget."
        ),
    ] = None,
    sizes: Annotated[int, typer.Option(min=2, max=12, help="Model sizes per budget of the ladder.")] = 4,
    vocabulary: Annotated[int, typer.Option(min=259, help="Size of the vocabulary.")] = 4096,
    context: Annotated[int, typer.Option(min=8, help="Context length in tokens.")] = 512,
    seed: Annotated[int, typer.Option(help="Seed of the training runs and of the bootstrap samples.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of every training run.")
    ] = None,
    life: Annotated[str, typer.Option(metavar="LIFE", help="Name of the life of the ladder.")] = "scaling",
    check: Annotated[
        bool, typer.Option("--check", help="Train a size that was not fitted at --budget, and compare.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a scaling law to small runs on your text, and recommend a model for a budget.

    Each run is an artifact: finished runs are not repeated, and an interrupted run continues from its checkpoint.
    """
    from vita.design.ladder import LADDER_FRACTIONS
    from vita.design.ladder import ladder as ladder_rungs
    from vita.design.recommendation import ScalingStudy, recommend

    workspace = open_workspace(ctx)
    target = _target(budget)
    flops = target.flops or _flops_of(target, workspace)
    budgets = _budgets(ladder) if ladder else [flops * fraction for fraction in LADDER_FRACTIONS]
    study_runs = LadderRuns(workspace, life, sources, vocabulary, seed, override(TRAINING, set_ or ()), quiet=as_json)
    if dry_run:
        _print_runs(
            workspace, ladder_rungs(budgets, sizes=sizes, vocabulary=vocabulary, context=context), as_json=as_json
        )
        return
    text = study_runs.prepare(context)
    rungs = ladder_rungs(budgets, sizes=sizes, vocabulary=text.vocabulary, context=context)
    study = ScalingStudy.of([study_runs.result(rung) for rung in study_runs.train(rungs)], text, seed=seed)
    recommendation = recommend(target, study)
    checked = None
    if check:
        fitted = {run.rung.shape.matrix_parameters() for run in study.runs}
        recommendation = recommend(target, study, without=fitted)
        checked = study_runs.result(study_runs.train([recommendation.rung])[0])
    _report(workspace, life, study, recommendation, checked, as_json=as_json)


def _target(budget: str) -> Target:
    from vita.design.recommendation import Target
    from vita.stages.design import seconds

    try:
        number = float(budget)
    except ValueError:
        parsed = seconds(budget)
        if isinstance(parsed, str) or parsed <= 0:
            raise ConfigError("--budget", expected='FLOPs such as 1e15, or a time such as "2 h"', got=budget) from None
        return Target(seconds=parsed)
    if not 1e9 <= number <= 1e30:
        raise ConfigError("--budget", expected="FLOPs between 1e9 and 1e30, or a time with its unit", got=budget)
    return Target(flops=number)


def _flops_of(target: Target, workspace: Workspace) -> float:
    """Return the approximate FLOPs of a time on this machine, before a run was timed."""
    from vita.stages.design import usual_speed

    assert target.seconds is not None
    return target.seconds * usual_speed(workspace.machine.device)


def _budgets(text: str) -> list[float]:
    try:
        budgets = [float(part) for part in text.split(",")]
    except ValueError:
        budgets = []
    if len(budgets) < 2 or min(budgets) < 1e9:
        raise ConfigError("--ladder", expected="two or more budgets in FLOPs, such as 3e12,6e12,1.2e13", got=text)
    return budgets


def _print_runs(workspace: Workspace, rungs: Sequence[Rung], *, as_json: bool) -> None:
    """Print the runs of a ladder, which were not started."""
    from vita.design.ladder import compact

    rows = [
        {"run": rung.name, "depth": rung.shape.layers, "width": rung.shape.width, "parameters": rung.shape.parameters(),
         "tokens": rung.plan.tokens, "steps": rung.plan.steps, "flops": rung.flops}
        for rung in rungs
    ]  # fmt: skip
    if as_json:
        print_json({"runs": rows, "flops": sum(rung.flops for rung in rungs)})
        return
    table = ScreenTable("run", "parameters", "tokens", "steps", box=None, pad_edge=False)
    for row in rows:
        table.add_row(row["run"], f"{row['parameters']:,}", f"{row['tokens']:,}", f"{row['steps']:,}")
    print_table(workspace.console, table)
    workspace.console.print(f"{len(rows)} runs, {compact(sum(rung.flops for rung in rungs))} FLOPs")


def _report(
    workspace: Workspace, life: str, study: ScalingStudy, recommendation: Recommendation, check: LadderRun | None,
    *, as_json: bool,
) -> None:  # fmt: skip
    """Write the report and `law.json`, and print the recommendation."""
    from vita.design import scaling_page

    folder = workspace.store.root / "lives" / life
    document = study_json(study, recommendation, check)
    with writing(folder):
        scaling_page.write_scaling_page(folder / "scaling", study, recommendation, check)
        (folder / "law.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    files = {"law": str(folder / "law.json"), "report": str(folder / "scaling" / "report.html")}
    if as_json:
        law = {name: value for name, value in document["law"].items() if name not in ("draws", "residuals")}
        print_json({**document, "law": law, "files": files})
        return
    tables = {"recommendation": scaling_page.recommendation_rows(recommendation)}
    if check is not None:
        tables["prediction and actual run"] = scaling_page.check_rows(recommendation, check)
    if any(study.errors.values()):
        tables["errors for sizes that were left out of the fit"] = scaling_page.error_rows(study)
    for title, rows in tables.items():
        print_table(workspace.console, _screen_table(title, rows))
    console = workspace.console
    console.print(scaling_page.law_sentence(study), soft_wrap=True)
    for warning in recommendation.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    plan, shape = recommendation.rung.plan, recommendation.rung.shape
    console.print(
        f"plan it: vita design --depth {shape.layers} --width {shape.width} --steps {plan.steps} "
        f"--context {plan.context} --tokens-per-step {plan.tokens_per_step} --law {files['law']}",
        soft_wrap=True,
    )
    console.print(f"report: {files['report']}", soft_wrap=True)


def study_json(study: ScalingStudy, recommendation: Recommendation, check: LadderRun | None) -> dict[str, Any]:
    """Return the study as plain values: the law, the costs, the runs, the recommendation and its check."""
    from vita.design.law_fit import optima
    from vita.design.recommendation import measured_loss
    from vita.design.scaling_page import check_errors

    checked = None
    if check is not None:
        errors = {name: round(error, 5) for name, (_, _, error) in check_errors(recommendation, check).items()}
        checked = {**_run_json(check), "errors": errors}
    return {
        "law": study.law.as_json(),
        "costs": study.costs.as_json(),
        "vocabulary": study.text.vocabulary,
        "context": study.text.context,
        "bytes_per_token": study.text.bytes_per_token,
        "tokens_available": study.text.tokens,
        "runs": [_run_json(run) for run in study.runs],
        "optima": [vars(optimum) for optimum in optima([measured_loss(run, study.text) for run in study.runs])],
        "errors": study.errors,
        "recommendation": recommendation.as_json(),
        "check": checked,
    }


def _run_json(run: LadderRun) -> dict[str, Any]:
    shape, plan = run.rung.shape, run.rung.plan
    return {
        "run": run.rung.name, "flops": run.rung.flops, "depth": shape.layers, "width": shape.width,
        "matrix_parameters": shape.matrix_parameters(), "tokens": plan.tokens, "steps": plan.steps,
        "bits_per_byte": run.bits_per_byte, "seconds_per_step": run.seconds_per_step,
        "training_seconds": run.training_seconds, "cpu_seconds": run.cpu_seconds, "memory_bytes": run.memory_bytes,
    }  # fmt: skip


def _screen_table(title: str, rows: Sequence[Mapping[str, str]]) -> ScreenTable:
    screen = ScreenTable(*rows[0], box=None, pad_edge=False, title=title, title_justify="left")
    for row in rows:
        screen.add_row(*row.values())
    return screen
