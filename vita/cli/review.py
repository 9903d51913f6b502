"""Human review: `vita review create`, `rate`, `serve`, `judge`, `report`, `export`, `list`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vita.cli.app import app, workspace
from vita.cli.workspace import Workspace
from vita.spine.console import line, print_table
from vita.spine.errors import ConfigError, DataError
from vita.spine.plain_text import counted

if TYPE_CHECKING:
    from vita.review.desk import ReviewItem, ReviewStore, ReviewTask

review_app = typer.Typer(help="Blind human review of answers.", no_args_is_help=True)
app.add_typer(review_app, name="review")

TaskArgument = Annotated[str, typer.Argument(help="The task's name; `vita review list` lists them.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]


@review_app.command()
def create(
    ctx: typer.Context,
    more: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Versions, as with --models.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL [MODEL]...", help="The version under review, then the versions to compare it with."
        ),
    ] = None,
    prompts: Annotated[
        str,
        typer.Option(
            metavar="FILE|world", help="File with a prompt per line or row, or `world` for the embedded world."
        ),
    ] = "",
    kind: Annotated[
        str, typer.Option(help="pairwise (choose the better answer) or rubric (four criteria from 1 to 5).")
    ] = "pairwise",
    raters: Annotated[int, typer.Option(min=1, help="Raters per item.")] = 2,
    name: Annotated[str, typer.Option(help="Name of the task.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Use a random sample of this many prompts.")] = None,
    guideline: Annotated[str | None, typer.Option(metavar="FILE", help="Your own guideline for the raters.")] = None,
    temperature: Annotated[
        float, typer.Option(help="Sampling temperature; 0 always takes the most likely token.")
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Sample from the most likely tokens with this total probability.")
    ] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="Maximum length of an answer, in tokens.")] = 256,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the answers, of the sample and of the order of answers.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Create a review task. All versions answer the same prompts with the same seeds."""
    from vita.infer.engine import Engine
    from vita.infer.sampling import Sampling
    from vita.review import answers
    from vita.review.desk import ReviewedModel, ReviewStore
    from vita.review.guideline import Guideline, default
    from vita.spine.config import build, unknown_name
    from vita.stages.kinds import Model

    here = workspace(ctx)
    named = [*(models or ()), *(more or ())]
    if kind not in ("pairwise", "rubric"):
        raise unknown_name("review.kind", kind, ("pairwise", "rubric"))
    if not named or not prompts or not name:
        raise ConfigError("review", expected="--models, --prompts and --name", hint="see `vita review create --help`")
    if len(set(named)) != len(named) or (kind == "pairwise" and len(named) < 2):
        raise ConfigError("review.models", expected="different versions, for pairs at least two", got=" ".join(named))
    settings = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    sampling = build(Sampling, settings, where="review")
    words = default(kind)
    if guideline:
        words = Guideline(_text_of(guideline), words.criteria)
    asked, probability = answers.chosen(answers.read_prompts(prompts), limit, seed=seed)
    artifacts = [here.find(reference, Model) for reference in named]
    if len({artifact.digest for artifact in artifacts}) != len(artifacts):
        raise ConfigError("review.models", "two of them are the same weights", got=" ".join(named))
    said = {}
    for artifact in artifacts:
        engine = Engine.open(artifact.path, device=here.machine.device)
        said[artifact.digest] = answers.answers(engine, asked, sampling=sampling)
    task = ReviewStore(here.ledger).create(
        name,
        kind=kind,
        guideline=words,
        items=answers.items(asked, said, kind=kind, probability=probability),
        models=[ReviewedModel(artifact.digest, label) for artifact, label in zip(artifacts, named, strict=True)],
        raters=raters,
        seed=seed,
        settings={**settings, "prompts": prompts, "limit": limit},
    )
    if as_json:
        typer.echo(json.dumps(_about(ReviewStore(here.ledger), task)))
        return
    here.console.print(line((name, "bold"), f": {counted(len(asked), 'prompt')} for {counted(raters, 'rater')} each"))
    here.console.print(f"Rate: vita review serve {name}, or vita review rate {name} --rater NAME", soft_wrap=True)


@review_app.command("list")
def list_tasks(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the tasks with their progress."""
    here = workspace(ctx)
    desk = _desk(here)
    rows = [_about(desk, task) for task in desk.tasks()]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table("task", "kind", "versions", "items", "ratings", "raters", box=None, pad_edge=False)
    for row in rows:
        people = ", ".join(f"{rater} {count}" for rater, count in row["by_rater"].items())
        done = f"{row['ratings']} of {row['items'] * row['raters']}"
        table.add_row(row["name"], row["kind"], ", ".join(row["models"]), str(row["items"]), done, people)
    print_table(here.console, table)


@review_app.command()
def rate(
    ctx: typer.Context,
    task: TaskArgument,
    rater: Annotated[str, typer.Option(help="Name of the rater.")],
) -> None:
    """Rate answers in the terminal. Stop with q or Ctrl-D; the next call continues."""
    here = workspace(ctx)
    desk = _desk(here)
    one = desk.task(task)
    desk.enter(one, rater)
    here.console.print(one.guideline.text)
    while (item := desk.next(one, rater)) is not None:
        done, total = desk.progress(one, rater)
        here.console.rule(f"{done + 1} of {total}")
        _show(here, one, item, rater)
        began = time.monotonic()
        said = _asked(here, one, item, rater)
        if said is None:
            break
        desk.rate(one, item, rater, **said, milliseconds=round(1000 * (time.monotonic() - began)))
    done, total = desk.progress(one, rater)
    here.console.print(f"{done} of {total} rated; thank you")


@review_app.command()
def serve(
    ctx: typer.Context,
    task: TaskArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 selects a free port.")] = 8020,
    rater: Annotated[
        list[str] | None, typer.Option(help="Name of a rater; repeat for each rater. Default: rater-1, ...")
    ] = None,
) -> None:
    """Serve the rating page, with one link per rater."""
    import socket

    import uvicorn

    from vita.review import web

    here = workspace(ctx)
    desk = _desk(here)
    one = desk.task(task)
    people = [name for name, kind in desk.raters(one).items() if kind == "human"]
    names = list(rater or ()) or people or [f"rater-{number}" for number in range(1, one.raters + 1)]
    tokens = {name: desk.enter(one, name) for name in dict.fromkeys([*names, *people])}
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError("review.port", f"{port} cannot be used: {error.strerror}", hint="give another") from None
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for name, token in tokens.items():
            here.console.print(f"{name}  {address}/r/{token}", soft_wrap=True)
        here.console.print("Each link is for one rater only. Ctrl-C stops; nothing is lost.")
        config = uvicorn.Config(web.review_app(desk, task), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


@review_app.command()
def judge(
    ctx: typer.Context,
    task: TaskArgument,
    rule: Annotated[str | None, typer.Option(help="A rule: shorter, longer, no_loops.")] = None,
    model: Annotated[str | None, typer.Option(help="A chat model that reads both answers.")] = None,
) -> None:
    """Add the votes of a rule or a model. The report shows its agreement with the raters."""
    from vita.review.judges import JUDGES, ModelJudge, vote

    here = workspace(ctx)
    desk = _desk(here)
    if (rule is None) == (model is None):
        raise ConfigError("review judge", expected="either --rule or --model")
    if rule:
        count = vote(desk, desk.task(task), f"rule:{rule}", JUDGES[rule], kind="rule")
    else:
        from vita.infer.engine import Engine
        from vita.stages.kinds import Model

        engine = Engine.open(here.find(model or "", Model).path, device=here.machine.device)
        count = vote(desk, desk.task(task), f"judge:{model}", ModelJudge(engine), kind="judge")
    here.console.print(f"{count} votes")


@review_app.command()
def report(ctx: typer.Context, task: TaskArgument, as_json: JsonOption = False) -> None:
    """Report the results of a task as the artifact `review/TASK`, which a gate can use."""
    from vita.spine.store import Draft
    from vita.stages.kinds import Report

    here = workspace(ctx)
    found = _results(here, task)
    figures = found.figures()
    models = {f"model {number}": version.digest for number, version in enumerate(found.task.models, 1)}
    claim = here.ledger.claim(
        f"review/{task}", life="review", step=task, stage="review", version=1, config=_about(_desk(here), found.task),
        inputs=models, after=None,
    )  # fmt: skip
    if not isinstance(claim, int):
        raise DataError(f"review {task}", "its report is being written by another process")
    with here.store.temporary("review") as folder:
        artifact = here.store.commit(Draft(Report, folder, found.write(folder)))
    here.ledger.finish(claim, artifact=artifact.digest, record={})
    here.ledger.name(f"review/{task}", artifact.digest)
    here.ledger.log("reviewed", found.task.models[0].digest, task=task, report=artifact.digest)
    if as_json:
        told = {name: one.as_json() for name, one in figures.items()}
        typer.echo(json.dumps({"report": artifact.digest, "folder": str(artifact.path), "figures": told}))
        return
    table = Table("of", "figure", "n", box=None, pad_edge=False)
    for name, one in figures.items():
        table.add_row(name, str(one), str(one.n))
    print_table(here.console, table)
    here.console.print(f"review/{task}  {artifact.path}", style="dim", soft_wrap=True)


@review_app.command()
def export(
    ctx: typer.Context,
    task: TaskArgument,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Output file. Default: standard output.")
    ] = None,
) -> None:
    """Export the preferences as training rows {prompt, chosen, rejected, margin}."""
    rows = _results(workspace(ctx), task).pairs()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if output is None:
        typer.echo(lines, nl=False)
        return
    try:
        Path(output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(output, f"cannot be written: {error.strerror}") from None
    workspace(ctx).console.print(f"{counted(len(rows), 'pair')} in {output}")


# -- helpers


def _desk(here: Workspace) -> ReviewStore:
    from vita.review.desk import ReviewStore

    return ReviewStore(here.ledger)


def _results(here: Workspace, name: str) -> Any:
    from vita.review.results import ReviewResults

    desk = _desk(here)
    task = desk.task(name)
    return ReviewResults(task, desk.items(task), desk.ratings(task))


def _about(desk: ReviewStore, task: ReviewTask) -> dict[str, Any]:
    people = [rater for rater, kind in desk.raters(task).items() if kind == "human"]
    given = [rating for rating in desk.ratings(task) if rating.rater_kind == "human"]
    return {
        "name": task.name,
        "kind": task.kind,
        "models": {version.name: version.digest for version in task.models},
        "items": len(desk.items(task)),
        "raters": task.raters,
        "ratings": len(given),
        "by_rater": {rater: sum(rating.rater == rater for rating in given) for rater in people},
        "guideline": task.guideline.version,
    }


def _show(here: Workspace, task: ReviewTask, item: ReviewItem, rater: str) -> None:
    for message in item.prompt:
        here.console.print(line((message.role, "bold"), f"  {message.content}"))
    for number, place in enumerate(task.order(item, rater), 1):
        label = f"answer {number}" if task.kind == "pairwise" else "answer"
        here.console.print(line("\n", (label, "bold"), f"\n{item.answers[place].text}"))


_KEYS = {"t": "tie", "b": "both_bad", "s": "skip"}


def _asked(here: Workspace, task: ReviewTask, item: ReviewItem, rater: str) -> dict[str, Any] | None:
    """Return the rating, or None to stop; invalid input is asked again."""
    if task.kind == "pairwise":
        said = _key("1, 2, t tie, b both bad, s skip, q stop", ["1", "2", *_KEYS, "q"])
        if said in (None, "q"):
            return None
        return {"choice": _KEYS.get(said) or "ab"[task.order(item, rater)[int(said) - 1]]}
    levels: dict[str, int] = {}
    for criterion in task.guideline.criteria:
        here.console.print(line("\n", (criterion.name, "bold"), f"  {criterion.question}"))
        for level, anchor in enumerate(criterion.anchors, 1):
            here.console.print(f"  {level}  {anchor}")
        said = _key("1 to 5, s skip, q stop", [*"12345", "s", "q"])
        if said in (None, "q"):
            return None
        if said == "s":
            return {"choice": "skip"}
        levels[criterion.name] = int(said)
    return {"criteria": levels}


def _key(asked: str, allowed: list[str]) -> Any:
    while True:
        try:
            said = input(f"{asked}: ").strip().lower()
        except EOFError:
            return None
        if said in allowed:
            return said


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("review.guideline", f"{path} cannot be read ({error})") from None
