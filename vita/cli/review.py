"""Human review: `vita review create`, `rate`, `serve`, `judge`, `report`, `export`, `list`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, open_workspace
from vita.cli.options import RIGHTS, JsonOption, print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, DataError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.review.desk import ReviewItem, ReviewStore, ReviewTask

review_app = typer.Typer(help="Let people rate answers without knowing which model wrote them.", no_args_is_help=True)
app.add_typer(review_app, name="review", rich_help_panel=RIGHTS)

TaskArgument = Annotated[str, typer.Argument(help="Name of the task; `vita review list` lists the tasks.")]


@review_app.command()
def create(
    ctx: typer.Context,
    more_models: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="More models, as in --models.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL [MODEL]...", help="The model under review, then the models to compare it with."),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE|world", help="File with one prompt per line or row, or `world` for the built-in world."
        ),
    ] = "",
    kind: Annotated[
        str, typer.Option(help="pairwise (choose the better answer) or rubric (four criteria from 1 to 5).")
    ] = "pairwise",
    raters: Annotated[int, typer.Option(min=1, help="Raters per item.")] = 2,
    name: Annotated[str, typer.Option(help="Name of the task.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use a random sample of this many prompts.")] = None,
    guideline: Annotated[
        str | None, typer.Option(metavar="FILE", help="Guideline for the raters. Default: the built-in guideline.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Sample from the most likely tokens with this total probability.")
    ] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 256,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed for the answers, the sample of prompts and the order of answers.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create a review task. All models answer the same prompts with the same seeds."""
    from vita.infer.engine import Engine
    from vita.infer.sampling import Sampling
    from vita.review import answers
    from vita.review.desk import ReviewedModel, ReviewStore
    from vita.review.guideline import Guideline, default
    from vita.spine.config import build, unknown_name
    from vita.stages.kinds import Model

    workspace = open_workspace(ctx)
    references = [*(models or ()), *(more_models or ())]
    if kind not in ("pairwise", "rubric"):
        raise unknown_name("review.kind", kind, ("pairwise", "rubric"))
    if not references or not prompts or not name:
        raise ConfigError("review", expected="--models, --prompts and --name", hint="see `vita review create --help`")
    if len(set(references)) != len(references) or (kind == "pairwise" and len(references) < 2):
        raise ConfigError(
            "review.models", expected="different versions, for pairs at least two", got=" ".join(references)
        )
    settings = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    sampling = build(Sampling, settings, where="review")
    words = default(kind)
    if guideline:
        words = Guideline(_text_of(guideline), words.criteria)
    prompt_list, probability = answers.sample_prompts(answers.read_prompts(prompts), limit, seed=seed)
    artifacts = [workspace.find(reference, Model) for reference in references]
    if len({artifact.digest for artifact in artifacts}) != len(artifacts):
        raise ConfigError("review.models", "two of them are the same weights", got=" ".join(references))
    answers_by_model = {}
    for artifact in artifacts:
        engine = Engine.open(artifact.path, device=workspace.machine.device)
        answers_by_model[artifact.digest] = answers.answers(engine, prompt_list, sampling=sampling)
    task = ReviewStore(workspace.ledger).create(
        name,
        kind=kind,
        guideline=words,
        items=answers.items(prompt_list, answers_by_model, kind=kind, probability=probability),
        models=[ReviewedModel(artifact.digest, label) for artifact, label in zip(artifacts, references, strict=True)],
        raters=raters,
        seed=seed,
        settings={**settings, "prompts": prompts, "limit": limit},
    )
    if as_json:
        print_json(_about(ReviewStore(workspace.ledger), task))
        return
    workspace.console.print(
        line((name, "bold"), f": {counted(len(prompt_list), 'prompt')} for {counted(raters, 'rater')} each")
    )
    workspace.console.print(f"Rate: vita review serve {name}, or vita review rate {name} --rater NAME", soft_wrap=True)


@review_app.command("list")
def list_tasks(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the review tasks and their progress."""
    workspace = open_workspace(ctx)
    desk = _desk(workspace)
    rows = [_about(desk, task) for task in desk.tasks()]
    if as_json:
        print_json(rows)
        return
    table = Table("task", "kind", "versions", "items", "ratings", "raters", box=None, pad_edge=False)
    for row in rows:
        people = ", ".join(f"{rater} {count}" for rater, count in row["by_rater"].items())
        done = f"{row['ratings']} of {row['items'] * row['raters']}"
        table.add_row(row["name"], row["kind"], ", ".join(row["models"]), str(row["items"]), done, people)
    print_table(workspace.console, table)


@review_app.command()
def rate(
    ctx: typer.Context,
    task: TaskArgument,
    rater: Annotated[str, typer.Option(help="Name of the rater.")],
) -> None:
    """Rate answers in the terminal. Press `q` or Ctrl-D to stop; run the command again to continue."""
    workspace = open_workspace(ctx)
    desk = _desk(workspace)
    review_task = desk.task(task)
    desk.enter(review_task, rater)
    workspace.console.print(review_task.guideline.text)
    while (item := desk.next(review_task, rater)) is not None:
        done, total = desk.progress(review_task, rater)
        workspace.console.rule(f"{done + 1} of {total}")
        _show(workspace, review_task, item, rater)
        began = time.monotonic()
        rating = _read_rating(workspace, review_task, item, rater)
        if rating is None:
            break
        desk.rate(review_task, item, rater, **rating, milliseconds=round(1000 * (time.monotonic() - began)))
    done, total = desk.progress(review_task, rater)
    workspace.console.print(f"{done} of {total} rated; thank you")


@review_app.command()
def serve(
    ctx: typer.Context,
    task: TaskArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on. 0 selects a free port.")] = 8020,
    rater: Annotated[
        list[str] | None, typer.Option(help="Name of a rater. Repeat the option for each rater. Default: rater-1, ...")
    ] = None,
) -> None:
    """Serve the rating page. Each rater gets a personal link."""
    from vita.reporting.web import local_socket, serve_application
    from vita.review import web

    workspace = open_workspace(ctx)
    desk = _desk(workspace)
    review_task = desk.task(task)
    people = [name for name, kind in desk.raters(review_task).items() if kind == "human"]
    names = list(rater or ()) or people or [f"rater-{number}" for number in range(1, review_task.raters + 1)]
    tokens = {name: desk.enter(review_task, name) for name in dict.fromkeys([*names, *people])}
    with local_socket(port, where="review.port") as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name, token in tokens.items():
            workspace.console.print(f"{name}  {address}/r/{token}", soft_wrap=True)
        workspace.console.print("Each link is for one rater only. Ctrl-C stops the server; all ratings are stored.")
        serve_application(web.review_app(desk, task), listener)


@review_app.command()
def judge(
    ctx: typer.Context,
    task: TaskArgument,
    rule: Annotated[str | None, typer.Option(help="A rule: shorter, longer or no_loops.")] = None,
    model: Annotated[str | None, typer.Option(help="A chat model that compares the answers.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add the votes of an automatic judge (a rule or a model). The report shows its agreement with the raters."""
    from vita.review.judges import JUDGES, ModelJudge, vote

    workspace = open_workspace(ctx)
    desk = _desk(workspace)
    if (rule is None) == (model is None):
        raise ConfigError("review judge", expected="either --rule or --model")
    if rule:
        count = vote(desk, desk.task(task), f"rule:{rule}", JUDGES[rule], kind="rule")
    else:
        from vita.infer.engine import Engine
        from vita.stages.kinds import Model

        engine = Engine.open(workspace.find(model or "", Model).path, device=workspace.machine.device)
        count = vote(desk, desk.task(task), f"judge:{model}", ModelJudge(engine), kind="judge")
    if as_json:
        print_json({"task": task, "judge": f"rule:{rule}" if rule else f"judge:{model}", "votes": count})
        return
    workspace.console.print(counted(count, "vote"))


@review_app.command()
def report(ctx: typer.Context, task: TaskArgument, as_json: JsonOption = False) -> None:
    """Store the results of a task as the report `review/TASK`. Gates can use this report."""
    from vita.spine.store import Draft
    from vita.stages.kinds import Report

    workspace = open_workspace(ctx)
    results = _results(workspace, task)
    figures = results.figures()
    models = {f"model {number}": version.digest for number, version in enumerate(results.task.models, 1)}
    claim = workspace.ledger.claim(
        f"review/{task}",
        life="review",
        step=task,
        stage="review",
        version=1,
        config=_about(_desk(workspace), results.task),
        inputs=models,
        after=None,
    )
    if not isinstance(claim, int):
        raise DataError(f"review {task}", "its report is being written by another process")
    with workspace.store.temporary("review") as folder:
        artifact = workspace.store.commit(Draft(Report, folder, results.write(folder)))
    workspace.ledger.finish(claim, artifact=artifact.digest, record={})
    workspace.ledger.name(f"review/{task}", artifact.digest)
    workspace.ledger.log("reviewed", results.task.models[0].digest, task=task, report=artifact.digest)
    if as_json:
        values = {name: figure.as_json() for name, figure in figures.items()}
        print_json({"report": artifact.digest, "folder": str(artifact.path), "figures": values})
        return
    table = Table("of", "figure", "n", box=None, pad_edge=False)
    for name, figure in figures.items():
        table.add_row(name, str(figure), str(figure.n))
    print_table(workspace.console, table)
    workspace.console.print(f"review/{task}  {artifact.path}", style="dim", soft_wrap=True)


@review_app.command()
def export(
    ctx: typer.Context,
    task: TaskArgument,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output file. Default: standard output.")
    ] = None,
) -> None:
    """Export the preferences as JSON Lines for training: {prompt, chosen, rejected, margin}."""
    rows = _results(open_workspace(ctx), task).pairs()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        typer.echo(lines, nl=False)
        return
    try:
        Path(output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(output, f"cannot be written: {error.strerror}") from None
    open_workspace(ctx).console.print(f"{counted(len(rows), 'pair')} in {output}")


# -- helpers


def _desk(workspace: Workspace) -> ReviewStore:
    from vita.review.desk import ReviewStore

    return ReviewStore(workspace.ledger)


def _results(workspace: Workspace, name: str) -> Any:
    from vita.review.results import ReviewResults

    desk = _desk(workspace)
    task = desk.task(name)
    return ReviewResults(task, desk.items(task), desk.ratings(task))


def _about(desk: ReviewStore, task: ReviewTask) -> dict[str, Any]:
    people = [rater for rater, kind in desk.raters(task).items() if kind == "human"]
    ratings = [rating for rating in desk.ratings(task) if rating.rater_kind == "human"]
    return {
        "name": task.name,
        "kind": task.kind,
        "models": {version.name: version.digest for version in task.models},
        "items": len(desk.items(task)),
        "raters": task.raters,
        "ratings": len(ratings),
        "by_rater": {rater: sum(rating.rater == rater for rating in ratings) for rater in people},
        "guideline": task.guideline.version,
    }


def _show(workspace: Workspace, task: ReviewTask, item: ReviewItem, rater: str) -> None:
    for message in item.prompt:
        workspace.console.print(line((message.role, "bold"), f"  {message.content}"))
    for number, position in enumerate(task.order(item, rater), 1):
        label = f"answer {number}" if task.kind == "pairwise" else "answer"
        workspace.console.print(line("\n", (label, "bold"), f"\n{item.answers[position].text}"))


_KEYS = {"t": "tie", "b": "both_bad", "s": "skip"}


def _read_rating(workspace: Workspace, task: ReviewTask, item: ReviewItem, rater: str) -> dict[str, Any] | None:
    """Return the rating, or None to stop; the question is repeated after invalid input."""
    if task.kind == "pairwise":
        key = _read_key("1, 2, t tie, b both bad, s skip, q stop", ["1", "2", *_KEYS, "q"])
        if key in (None, "q"):
            return None
        return {"choice": _KEYS.get(key) or "ab"[task.order(item, rater)[int(key) - 1]]}
    levels: dict[str, int] = {}
    for criterion in task.guideline.criteria:
        workspace.console.print(line("\n", (criterion.name, "bold"), f"  {criterion.question}"))
        for level, anchor in enumerate(criterion.anchors, 1):
            workspace.console.print(f"  {level}  {anchor}")
        key = _read_key("1 to 5, s skip, q stop", [*"12345", "s", "q"])
        if key in (None, "q"):
            return None
        if key == "s":
            return {"choice": "skip"}
        levels[criterion.name] = int(key)
    return {"criteria": levels}


def _read_key(question: str, allowed: list[str]) -> Any:
    while True:
        try:
            key = input(f"{question}: ").strip().lower()
        except EOFError:
            return None
        if key in allowed:
            return key


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("review.guideline", f"{path} cannot be read ({error})") from None
