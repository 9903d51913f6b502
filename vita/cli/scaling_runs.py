"""The training runs of `vita scaling`: steps of a life, each in a process of its own, which measures its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
import yaml

from vita.cli.app import errors_console
from vita.cli.workspace import Workspace, writing
from vita.spine.errors import StoreError
from vita.spine.interrupts import termination_interrupts
from vita.spine.store import Artifact

if TYPE_CHECKING:
    from vita.design.ladder import Rung
    from vita.design.recommendation import LadderRun, LadderText

_INTERRUPTED = 130


class LadderRuns:
    """The runs of a ladder as steps of a life."""

    def __init__(
        self, workspace: Workspace, life: str, sources: Sequence[str], vocabulary: int, seed: int,
        training: dict[str, Any], *, quiet: bool,
    ) -> None:  # fmt: skip
        self._workspace, self._life = workspace, life
        self._sources = [source if "://" in source else str(Path(source).expanduser().absolute()) for source in sources]
        self._vocabulary, self._seed, self._training, self._quiet = vocabulary, seed, training, quiet
        self._rungs: list[Rung] = []

    def prepare(self, context: int) -> LadderText:
        """Curate and tokenize the text, and return its properties."""
        from vita.design.ladder import DATA_STEPS
        from vita.design.recommendation import LadderText

        self._run(DATA_STEPS[-1], "curation and tokenizer")
        facts = self._artifact(DATA_STEPS[-1]).facts
        return LadderText(facts["vocabulary"], context, facts["train_tokens"], facts["bytes_per_token"])

    def train(self, rungs: Sequence[Rung]) -> Sequence[Rung]:
        """Train the models of these runs that are not finished."""
        from vita.design.ladder import pretrain_step

        start = len(self._rungs)
        self._rungs += rungs
        for position, rung in enumerate(rungs, start + 1):
            self._run(pretrain_step(rung), f"run {position} of {len(self._rungs)}, {rung.name}")
            if not self._quiet:
                result = self.result(rung)
                text = f"run {position} of {len(self._rungs)}  {rung.name}  {result.bits_per_byte:.4f} bits per byte"
                self._workspace.console.print(f"{text}  {result.training_seconds:.0f} s")
        return rungs

    def result(self, rung: Rung) -> LadderRun:
        """Return the results of a finished run."""
        from vita.design.ladder import pretrain_step
        from vita.design.recommendation import LadderRun

        artifact = self._artifact(pretrain_step(rung))
        if "heldout_bits_per_byte" not in artifact.facts:
            hint = "set `eval_tokens`, or use more text"
            raise StoreError(artifact.digest[:12], "has no held-out loss, which a scaling law needs", hint=hint)
        runs = [run for run in self._workspace.ledger.find(artifact=artifact.digest) if run.state == "done"]
        record = (runs[-1].record if runs else None) or {}
        if "seconds_per_step" not in record:
            raise StoreError(artifact.digest[:12], "has no recorded times", hint="run the ladder in another store")
        return LadderRun(
            rung, artifact.facts["heldout_bits_per_byte"], record["seconds_per_step"], record["training_seconds"],
            record.get("cpu_seconds"), record.get("peak_memory_bytes"),
        )  # fmt: skip

    def _artifact(self, step: str) -> Artifact:
        return self._workspace.store.open(self._workspace.digest(f"{self._life}/{step}"), Artifact)

    def _run(self, step: str, title: str) -> None:
        """Run the life of the ladder until a step, unless the step has a result."""
        from vita.life import read_life
        from vita.spine.plan import forecast

        path = self._write_life()
        plan = read_life(str(path), until=step).plan
        predictions = forecast(plan, self._workspace.store, self._workspace.ledger)
        if not any(prediction.runs for prediction in predictions):
            for prediction in predictions:
                assert prediction.artifact is not None
                self._workspace.ledger.name(f"{self._life}/{prediction.step.name}", prediction.artifact)
            return
        console = self._workspace.console
        shows_status = console.is_terminal and not self._quiet
        with console.status(title) if shows_status else nullcontext():
            _run_vita("live", str(path), "--until", step, "--json", environment=self._workspace.child_environment())

    def _write_life(self) -> Path:
        """Write the life file of the runs so far to the folder of the life."""
        from vita.design.ladder import ladder_life

        content = ladder_life(
            self._life, self._rungs, sources=self._sources, vocabulary=self._vocabulary,
            settings={"seed": self._seed}, training=self._training,
        )  # fmt: skip
        path = self._workspace.store.root / "lives" / self._life / "ladder.yaml"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path


def _run_vita(*words: str, environment: Mapping[str, str]) -> None:
    """Run another `vita` process; an interrupt of this process lets the other one write its checkpoint.

    Raises `typer.Exit` with the exit code of a process that failed, whose error message is printed.
    """
    command = [sys.executable, "-m", "vita", *words]
    # A new session, so that Ctrl-C reaches only this process, which forwards one signal.
    process = subprocess.Popen(
        command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        with termination_interrupts():
            _, errors = process.communicate()
    except KeyboardInterrupt:
        process.terminate()
        process.communicate()
        raise
    if process.returncode == _INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        errors_console().print(errors.strip(), soft_wrap=True)
        raise typer.Exit(process.returncode if process.returncode > 0 else 1)
