"""The course that all training stages share: trainer, loop with evaluations, checks, and the folder of the result.

    run = TrainingRun("sft", config, context, source=pretrained.files, model=model, training=training, row_length=512)
    with run.trainer(loss, tokens_per_step=tokens) as trainer:
        trained = run.train(trainer, batches, evaluate=heldout.evaluate)
    trained.health()                                       # raises TrainingError
    facts |= trained.facts(loss_evidence(trained.learnt))  # raises TrainingError
    folder = trained.save(tokens=count)

A stage brings its data, its loss and its report. PyTorch is imported inside the functions, so that the settings of a
stage are read without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.spine.errors import ConfigError
from vita.spine.events import Emit
from vita.spine.model_files import ModelFolder
from vita.spine.plan import Context
from vita.train.settings import TrainingSettings

if TYPE_CHECKING:
    from vita.nn.architecture import Architecture
    from vita.nn.transformer import Transformer
    from vita.train.loop import EvalHook, TrainResult
    from vita.train.losses import Loss
    from vita.train.trainer import StepBatch, Trainer, TrainerConfig
    from vita.train.validation import LearningEvidence, RunCheck


class TrainingRun:
    """One run of a training stage, from the model that it starts from to the trained model.

    `source` are the files of the first model. `row_length` are the tokens of a row, where all rows have the same.
    """

    def __init__(
        self,
        stage: str,
        settings: TrainingSettings,
        context: Context,
        *,
        source: ModelFolder,
        model: Transformer,
        training: TrainerConfig,
        row_length: int | None = None,
    ) -> None:
        from vita.train.validation import fingerprint

        self.stage, self.settings, self.context, self.source = stage, settings, context, source
        self.model, self.training, self.before = model, training, fingerprint(model)
        self.flops_per_token = model.architecture.flops_per_token(row_length) if row_length else 0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.training.schedule.steps

    @contextmanager
    def trainer(
        self, loss: Loss, *, tokens_per_step: int = 0, model: Transformer | None = None, alone: bool = False
    ) -> Iterator[Trainer]:
        """A trainer of `model` (the run's own by default) among all processes, or `alone` in this one."""
        from contextlib import nullcontext

        from vita.train.parallel import DataParallelGroup, joined
        from vita.train.trainer import Trainer

        machine = self.context.machine
        self.context.emit("note", text=self._description())
        with nullcontext(DataParallelGroup(device=machine.device)) if alone else joined(machine) as world:
            yield Trainer(
                model or self.model,
                loss,
                self.training,
                world=world,
                threads=machine.threads,
                flops=float(self.flops_per_token) * tokens_per_step * self.steps,
            )

    def train(
        self,
        trainer: Trainer,
        batches: Callable[[int], StepBatch],
        *,
        evaluate: Callable[[Trainer], Mapping[str, float]] | None = None,
        hooks: Sequence[EvalHook] = (),
        tokens_per_step: int = 0,
        enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
        steps_per_round: int = 1,
        emit: Emit | None = None,
        result: Callable[[Transformer], Transformer] = lambda model: model,
    ) -> TrainedModel:
        """Train to the end of the schedule, with evaluations at the interval of the settings and before the first step.

        A checkpoint is taken only at the end of a round of `steps_per_round`. `result` takes the model to keep out of
        the one that was trained.
        """
        from vita.nn import hf
        from vita.train.loop import EvalHook, train
        from vita.train.validation import RunCheck

        interval = self.settings.eval_interval(self.steps // steps_per_round) * steps_per_round
        learnt = train(
            trainer,
            batches,
            folder=self.context.scratch,
            emit=emit or self.context.emit,
            hooks=[*hooks, *([EvalHook(interval, evaluate, at_start=True)] if evaluate else [])],
            tokens_per_step=tokens_per_step,
            flops_per_token=self.flops_per_token,
            should_stop=enough,
            checkpoint_seconds=self.settings.checkpoint_seconds,
            checkpoint_steps=steps_per_round,
        )
        model = result(trainer.trained())
        hf.round_like(model, self.source)
        self.context.record |= learnt.record
        allow = self.settings.allow_no_improvement
        check = RunCheck(self.stage, learnt, model, self.before, self.context.scratch, allow)
        return TrainedModel(self, learnt, model, check)

    def _description(self) -> str:
        """The values that the settings resolve to, for the log."""
        schedule, automatic = self.training.schedule, self.settings.learning_rate == "auto"
        text = f"learning rate {self.training.optimization.matrix_rate:.4g}{' (auto)' if automatic else ''}, "
        return text + f"{schedule.name} schedule, {schedule.steps:,} steps, {schedule.warmup:,} of them warmup"


@dataclass(frozen=True)
class TrainedModel:
    """The end of a training run; it is the same in all processes, and the leading one writes it."""

    run: TrainingRun
    learnt: TrainResult
    model: Transformer
    check: RunCheck

    def health(self) -> None:
        """Raise a `TrainingError` where weights or losses are not finite, or too many steps were skipped."""
        self.check.health()

    def facts(self, evidence: LearningEvidence) -> dict[str, Any]:
        """The facts that every training stage reports; raises a `TrainingError` where the run did not improve."""
        return {
            "learning_rate": self.run.training.optimization.matrix_rate,
            "left_out": self.learnt.skipped_steps,
            **self.check.improvement(evidence),
        }

    def save(self, *, tokens: int | None = None) -> Path:
        """Write the model, as a successor of the first one, to the run's draft folder."""
        from vita.nn import hf

        folder = self.run.context.draft_folder()
        counts = {} if tokens is None else {"tokens": tokens}
        hf.save_successor(self.model, folder, source=self.run.source, steps=self.learnt.steps, **counts)
        return folder


def row_length(length: int | None, architecture: Architecture, *, where: str) -> int:
    """The tokens of a row: the setting `where`, or the model's context; refuses more than the context."""
    if length and length > architecture.context:
        raise ConfigError(where, expected=f"at most {architecture.context}, the model's context", got=length)
    return length or architecture.context
