"""The summary that `vita live` prints: steps with figures and times, gates, answers, and paths of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vita.cli.options import print_json
from vita.cli.workspace import Workspace
from vita.spine.console import line
from vita.spine.errors import VitaError
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.cards.life_record import LifeRecord
    from vita.gates.decisions import GateDecision
    from vita.life import Life

_MODELS_SHOWN = 3


def print_summary(
    workspace: Workspace,
    life: Life,
    artifacts: Mapping[str, Artifact],
    decisions: Sequence[GateDecision],
    *,
    as_json: bool,
) -> None:
    """Write the report page and the card, and print the summary. A file that cannot be written gives a warning."""
    from vita.cards.life_record import read_life_record, remember

    remember(
        workspace.ledger, life.name, about=life.file.about, steps=list(life.file.stages), questions=life.file.ask,
        answers=_answers_of(workspace, life, artifacts),
    )  # fmt: skip
    record = read_life_record(workspace.ledger, workspace.store, life.name)
    paths, problems = _write_reports(workspace, record)
    if as_json:
        print_json({**_as_json(record, artifacts, decisions), "files": _file_paths(paths), "problems": problems})
        return
    for part in last_screen(record, decisions=decisions, paths=paths):
        workspace.console.print(part)
    for problem in problems:
        workspace.console.print(Text(problem, style="yellow"), soft_wrap=True)


def _as_json(
    record: LifeRecord, artifacts: Mapping[str, Artifact], decisions: Sequence[GateDecision]
) -> dict[str, Any]:
    """Return the steps of this run and the decisions of the gates."""
    seconds = {step.name: step.seconds for step in record.steps}
    steps = [
        {"step": name, "kind": artifact.kind, "artifact": artifact.digest, "seconds": seconds.get(name)}
        for name, artifact in artifacts.items()
    ]
    return {"life": record.name, "steps": steps, "gates": [decision.as_json() for decision in decisions]}


def _file_paths(paths: Mapping[str, Path]) -> dict[str, str]:
    return {title.lower(): str(path) for title, path in paths.items()}


def last_screen(
    record: LifeRecord, *, decisions: Sequence[GateDecision] = (), paths: Mapping[str, Path] | None = None
) -> list[RenderableType]:
    """Return the summary of a life."""
    parts: list[RenderableType] = [_steps(record)]
    if decisions:
        parts.append(_gates(record, decisions))
    if answers := _answers(record):
        parts.append(answers)
    parts += _where(record, paths or {})
    return parts


def _steps(record: LifeRecord) -> Table:
    from vita.cards import wording
    from vita.spine.progress import clock

    steps = record.steps
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    table.add_column(justify="right", no_wrap=True, style="dim")
    for step in steps:
        headline = wording.headline(step, record.figures.get(step.digest))
        table.add_row(step.name, headline, clock(step.seconds))
    table.add_row("", Text("total time", style="dim"), clock(sum(step.seconds for step in steps)))
    return table


def _gates(record: LifeRecord, decisions: Sequence[GateDecision]) -> Text:
    parts = []
    for decision in decisions:
        passed = sum(result.verdict == "pass" for result in decision.judged.results)
        people = f", approved by {', '.join(decision.approved_by)}" if decision.approved_by else ""
        criteria = f"{passed} of {len(decision.judged.results)} criteria"
        verdict = decision.judged.verdict.replace("_", " ")
        text = f"Gate {decision.gate}: {verdict} for {record.label(decision.model)}, {criteria}{people}"
        parts.append((text, "green" if decision.passed else "red"))
    return Text("\n").join(Text(text, style=style) for text, style in parts)


def _answers(record: LifeRecord) -> Table | None:
    models = [step for step in record.models if step.digest in record.answers]
    recent = [*models[-_MODELS_SHOWN:-1], models[-1]] if models else []
    if not recent or not record.questions:
        return None
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("question", overflow="fold", style="bold")
    for step in recent:
        table.add_column(f"{record.name}/{step.name}", overflow="fold", ratio=1)
    for question, *row in zip(record.questions, *(record.answers[step.digest] for step in recent), strict=False):
        table.add_row(question, *(" ".join(answer.split()) for answer in row))
    return table


def _where(record: LifeRecord, paths: Mapping[str, Path]) -> list[RenderableType]:
    lines = list[RenderableType]()
    if record.models:
        last = record.models[-1]
        state = record.state(last.digest)
        lines.append(line(f"{record.name}/{last.name} is ", (f"{'a ' if state == 'candidate' else ''}{state}", "bold")))
    chat_models = [step for step in record.models if step.facts.get("chat") and record.state(step.digest) != "retired"]
    if chat_models:
        lines.append(f"Chat with it: vita chat {record.name}/{chat_models[-1].name}")
    for title, path in paths.items():
        lines.append(Text.assemble((f"{title}: ", ""), (str(_relative(path)), "dim"), no_wrap=True, overflow="ignore"))
    return lines


def _answers_of(workspace: Workspace, life: Life, artifacts: Mapping[str, Artifact]) -> dict[str, list[str]]:
    """Return the answers of every model; answers to the same questions are reused."""
    from vita.cards.life_record import known_answers

    models = {artifact.digest: artifact for artifact in artifacts.values() if artifact.kind == "model"}
    if not life.file.ask or not models:
        return {}
    answers_by_model = known_answers(workspace.ledger, life.name, life.file.ask)
    if missing := [digest for digest in models if digest not in answers_by_model]:
        from vita.cli.chat import answers

        answers_by_model |= {digest: answers(models[digest], life.file.ask) for digest in missing}
    return {digest: answers_by_model[digest] for digest in models}


def _write_reports(workspace: Workspace, record: LifeRecord) -> tuple[dict[str, Path], list[str]]:
    """Return the paths of the page and the last model's card, and the problems of writing them."""
    from vita.cards import model_card, model_card_page
    from vita.cards.life_page import write_life_page

    folder, paths, problems = workspace.store.root / "lives" / record.name, dict[str, Path](), list[str]()
    try:
        paths["Report"] = write_life_page(record, folder / "life.html")
        if record.models:
            last = record.models[-1].digest
            model_card_page.write(
                model_card.gather(workspace.ledger, workspace.store, last, record=record), folder / "card"
            )
            paths["Model card"] = folder / "card" / "README.md"
    except (VitaError, OSError) as error:
        problems.append(f"All steps are done, but the report or the model card could not be written: {error}")
    paths["Log"] = workspace.log_path(record.name)
    return paths, problems


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
