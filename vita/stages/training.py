"""The parts that all training stages share: trainer, training loop, checks, report, and the folder of the model.

    run = TrainingRun("sft", config, context, source=pretrained.files, model=model, training=training, row_length=512)
    with run.trainer(loss, tokens_per_step=tokens) as trainer:
        trained = run.train(trainer, batches, evaluate=heldout.evaluate)
    trained.health()                                       # raises TrainingError
    facts |= trained.facts(loss_evidence(trained.result))  # raises TrainingError
    folder = trained.save(tokens=count)
    trained.write_report(folder, facts, title="Fine-tuning", lead="...", report=ReportContent.of("sft"))

A stage has its data and its loss. PyTorch is imported inside the functions, because the settings of a stage are read
without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vita.data.tokens.truncation import ROW_TOKENS
from vita.reporting.figures import ReportContent, write_report
from vita.reporting.page import curve_figures, report_sections, settings_table, write_page
from vita.spine.errors import ConfigError
from vita.spine.events import Emit
from vita.spine.model_files import ModelFiles, ModelFolder, base_reference
from vita.spine.plan import Context
from vita.spine.store import REQUIRES
from vita.train.run_files import METRICS, SAMPLES, read_samples
from vita.train.settings import TrainingSettings

if TYPE_CHECKING:
    from vita.infer.engine import Engine
    from vita.nn.architecture import Architecture
    from vita.nn.transformer import Transformer
    from vita.train.loop import EvalHook, TrainResult
    from vita.train.losses import Loss
    from vita.train.trainer import StepBatch, Trainer, TrainerConfig
    from vita.train.validation import LearningEvidence, RunCheck


class TrainingRun:
    """One run of a training stage, from the initial model to the trained model.

    `source` holds the files of the initial model, and `initial` is its digest. `row_length` is the number of tokens of
    a row, if all rows have the same. `logits` is the share of tokens for which the loss computes logits.
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
        initial: str | None = None,
        row_length: int | None = None,
        logits: float = 1.0,
    ) -> None:
        from vita.design.tuning_memory import weight_bytes
        from vita.train.fingerprint import fingerprint
        from vita.train.hardware import memory_in_use
        from vita.train.parallel.initialization import is_on_meta

        self.stage, self.settings, self.context = stage, settings, context
        self.source, self.initial = ModelFiles.of(source), initial
        self.model, self.training = model, training
        self.before = "" if is_on_meta(model) else fingerprint(model)
        # Interpreter, libraries, data, and models that stay loaded beside the trained one.
        self._other_memory = max(0, memory_in_use(context.machine.device) - weight_bytes(model))
        self.flops_per_token = model.architecture.flops_per_token(row_length, logits=logits) if row_length else 0

    @property
    def steps(self) -> int:
        """Number of optimizer steps of the run."""
        return self.training.schedule.steps

    @contextmanager
    def trainer(
        self, loss: Loss, *, tokens_per_step: int = 0, model: Transformer | None = None, alone: bool = False
    ) -> Iterator[Trainer]:
        """Yield a trainer of `model`, by default that of the run, on all processes, or on this process if `alone`."""
        from contextlib import nullcontext

        from vita.train.parallel.initialization import StoredWeights
        from vita.train.parallel.mesh import ProcessMesh, joined
        from vita.train.trainer import Trainer

        machine = self.context.machine
        self.context.emit(
            "note",
            text=self._description(),
            learning_rate=self.training.optimization.matrix_rate,
            automatic=self.settings.learning_rate == "auto",
        )
        with (
            nullcontext(ProcessMesh(device=machine.device))
            if alone
            else joined(machine, self.settings.parallel) as world
        ):
            trainer = Trainer(
                model or self.model,
                loss,
                self.training,
                world=world,
                threads=machine.threads,
                flops=float(self.flops_per_token) * tokens_per_step * self.steps,
                source=StoredWeights(self.source),
            )
            self.before = self.before or trainer.fingerprint()
            yield trainer

    def train(
        self,
        trainer: Trainer,
        batches: Callable[[int], StepBatch],
        *,
        evaluate: Callable[[Trainer], Mapping[str, float]] | None = None,
        hooks: Sequence[EvalHook] = (),
        tokens_per_step: int = 0,
        prefetch: bool = False,
        should_stop: Callable[[Mapping[str, Any]], bool] = lambda row: False,
        target_loss: float | None = None,
        steps_per_round: int = 1,
        emit: Emit | None = None,
        select_model: Callable[[Transformer], Transformer] = lambda model: model,
    ) -> TrainedModel:
        """Train to the end of the schedule, with evaluations before the first step and at the interval of the settings.

        Checkpoints are written at the end of a round of `steps_per_round` steps. `select_model` returns the model to
        save from the trained one. `should_stop` gets the metrics of a step and ends the training early. The training
        time until `target_loss` is recorded. `prefetch` prepares batches in a thread on a GPU; they must depend on the
        step only.
        """
        from vita.nn import hf
        from vita.nn.adapters.attach import adapter_of
        from vita.train.loop import train
        from vita.train.validation import RunCheck

        self._predict_memory(trainer, tokens_per_step)
        settings = self.settings
        interval = self.settings.eval_interval(self.steps // steps_per_round) * steps_per_round
        train_result = train(
            trainer,
            batches,
            folder=self.context.scratch,
            emit=emit or self.context.emit,
            hooks=[*hooks, *self._eval_hooks(trainer, evaluate, interval)],
            tokens_per_step=tokens_per_step,
            flops_per_token=self.flops_per_token,
            should_stop=should_stop,
            prefetch=prefetch,
            stop_rules=settings.stop_when,
            target_loss=target_loss,
            start_from=None if settings.start_from is None else Path(settings.start_from),
            checkpoint_seconds=settings.checkpoint_seconds,
            checkpoint_steps=steps_per_round,
        )
        model = select_model(trainer.trained())
        if adapter_of(model) is None and trainer.world.leads:  # an adapter is saved in float32
            hf.round_like(model, self.source)
        self.context.record |= train_result.record
        allow = self.settings.allow_no_improvement
        check = RunCheck(self.stage, train_result, model, self.before, self.context.scratch, allow)
        return TrainedModel(self, train_result, model, check)

    def _eval_hooks(
        self, trainer: Trainer, evaluate: Callable[[Trainer], Mapping[str, float]] | None, interval: int
    ) -> list[EvalHook]:
        """Return the hooks of the evaluations: statistics of gradients and activations, held-out data, and samples."""
        from vita.train.loop import EvalHook
        from vita.train.statistics import observed_activations, parameter_statistics

        def evaluate_with_statistics(trainer: Trainer) -> Mapping[str, float]:
            assert evaluate is not None
            with observed_activations(trainer) as activations:
                figures = evaluate(trainer)
            return {**figures, **activations.figures()}

        hooks: list[EvalHook] = []
        if self.settings.statistics:
            hooks.append(EvalHook(interval, parameter_statistics))
        if evaluate:
            observed = evaluate_with_statistics if self.settings.statistics else evaluate
            hooks.append(EvalHook(interval, observed, at_start=True))
        if self.settings.sample_prompts:
            hooks.append(EvalHook(interval, self._sampler(trainer), at_start=True))
        return hooks

    def _sampler(self, trainer: Trainer) -> Callable[[Trainer], Mapping[str, float]]:
        """Return an evaluation that continues the prompts of the settings and returns no figures."""
        from vita.evals.training_samples import TrainingSamples
        from vita.infer.pretrained import PretrainedText

        where = f"{self.stage}.sample_prompts"
        if self.stage in WITHOUT_TEXT or not self.model.architecture.causal:
            raise ConfigError(where, "the trained model does not generate text", hint="leave `sample_prompts` out")
        if trainer.world.processes > 1:
            raise ConfigError(where, "needs one process", hint="leave `sample_prompts` out")
        samples = TrainingSamples(
            trainer.model,
            PretrainedText.load(self.source).tokenizer,
            prompts=self.settings.sample_prompts,
            tokens=self.settings.sample_tokens,
            path=self.context.scratch / SAMPLES,
            device=self.context.machine.device,
        )

        def write(trainer: Trainer) -> Mapping[str, float]:
            samples.write(step=trainer.done)
            return {}

        return write

    def _predict_memory(self, trainer: Trainer, tokens_per_step: int) -> None:
        """Record the predicted peak of the memory; `peak_memory_bytes` is the measured one."""
        import torch

        from vita.design.tuning_memory import tuning_memory
        from vita.train.hardware import logit_bytes

        if trainer.world.processes > 1 or not tokens_per_step:
            return
        tokens = min(tokens_per_step, trainer.micro_tokens)
        number_bytes = trainer.precision.dtype.itemsize
        state = sum(tensor.numel() * tensor.element_size() for tensor in trainer.optimizer.state().values())
        memory = tuning_memory(
            trainer.model,
            tokens=tokens,
            number_bytes=number_bytes,
            optimizer=state,
            recomputes=self.training.recompute_activations,
            logit_bytes=logit_bytes(torch.device(trainer.world.device)),
        )
        total = memory["total"] + self._other_memory
        self.context.record["predicted_memory"] = {**memory, "other": self._other_memory, "total": total}

    def _description(self) -> str:
        """Return the resolved values of the settings, for the log."""
        schedule, automatic = self.training.schedule, self.settings.learning_rate == "auto"
        text = f"learning rate {self.training.optimization.matrix_rate:.4g}{' (auto)' if automatic else ''}, "
        return text + f"{schedule.name} schedule, {schedule.steps:,} steps, {schedule.warmup:,} of them warmup"


@dataclass(frozen=True)
class TrainedModel:
    """The result of a training run. The leading process has the trained model and writes it."""

    run: TrainingRun
    result: TrainResult
    model: Transformer
    check: RunCheck

    def health(self) -> None:
        """Raise a `TrainingError` if weights or losses are not finite, or too many steps were skipped.

        The leading process checks, because only it has the complete model.
        """
        if self.run.context.machine.leads:
            self.check.health()

    def facts(self, evidence: LearningEvidence) -> dict[str, Any]:
        """Return the facts that every training stage reports; raise a `TrainingError` if the run did not improve."""
        return {
            "learning_rate": self.run.training.optimization.matrix_rate,
            **self._adapter_facts(),
            "skipped_steps": self.result.skipped_steps,
            **({} if self.result.stop_reason is None else {"stopped": self.result.stop_reason}),
            **(self.check.improvement(evidence) if self.run.context.machine.leads else {}),
        }

    def save(self, *, tokens: int | None = None) -> Path:
        """Write the model, as a successor of the initial one, to the draft folder of the run.

        For a model with an adapter this is the folder of the adapter, which refers to its base by digest.
        """
        from vita.infer.adapter_folder import save_adapter_successor
        from vita.nn import hf

        folder = self.run.context.draft_folder()
        progress = {"steps": self.result.steps} | ({} if tokens is None else {"tokens": tokens})
        if self.base:
            save_adapter_successor(self.model, folder, source=self.run.source, base=self.base, **progress)
        else:
            hf.save_successor(self.model, folder, source=self.run.source, **progress)
        return folder

    @property
    def base(self) -> str | None:
        """The digest of the base model, if the trained model is an adapter of it."""
        from vita.nn.adapters.attach import adapter_of

        if adapter_of(self.model) is None:
            return None
        assert self.run.initial is not None, "a run with an adapter needs the digest of its initial model"
        return base_reference(self.run.source.folder) if self.run.source.is_adapter else self.run.initial

    def open_engine(self, folder: Path) -> Engine:
        """Open the saved model for inference; an adapter uses the weights of the base that are in memory."""
        from vita.infer.engine import Engine
        from vita.infer.pretrained import Pretrained, PretrainedText

        device = self.run.context.machine.device
        if not self.base:
            return Engine.open(folder, device=device)
        text = PretrainedText.load(ModelFiles(folder, base=self.run.source.weights))
        return Engine.of(Pretrained(text.files, self.model, text.tokenizer, text.template), device=device)

    def _adapter_facts(self) -> dict[str, Any]:
        """Return the facts of an adapter; {} for a model that was trained in full."""
        from vita.nn.adapters.attach import adapter_of, trainable

        adapter = adapter_of(self.model)
        if adapter is None:
            return {}
        count = sum(parameter.numel() for parameter in trainable(self.model).values())
        return {
            "adapter": adapter.method,
            "rank": adapter.config.rank,
            "trainable_parameters": count,
            REQUIRES: [self.base],
        }

    def write_report(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        *,
        title: str,
        lead: str,
        report: ReportContent | None = None,
        settings: Mapping[str, Any] | None = None,
        content: Mapping[str, Any] | None = None,
    ) -> None:
        """Write `report.json`, the pages with charts, the metrics in `metrics.jsonl`, and samples in `samples.jsonl`.

        The page has sections for the facts, the report and `content`. It lists the settings of the schedule and the
        optimizers, and `settings`, which take precedence.
        """
        training, folder = self.run.training, folder / "report"
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(dict(row)) + "\n" for row in self.result.curve)
        (folder / METRICS).write_text("".join(lines), encoding="utf-8")
        samples = read_samples(self.run.context.scratch) if self.run.settings.sample_prompts else []
        if samples:
            lines = (json.dumps(row) + "\n" for row in samples)
            (folder / SAMPLES).write_text("".join(lines), encoding="utf-8")
        if report:
            write_report(report, folder)
        resolved = {**training.schedule.model_dump(), **training.optimization.model_dump(), **(settings or {})}
        sections = {
            "Results": facts,
            **report_sections(report or ReportContent.of(self.run.stage), content or {}),
            "Training curves": curve_figures(self.result.curve),
            "Samples during training": [
                {"prompt": row["prompt"], "how": f"step {row['step']:,}", "text": row["text"]} for row in samples
            ],
            "Settings": settings_table(resolved),
        }
        write_page(folder, title=title, lead=lead, sections=sections)


WITHOUT_TEXT = ("reward", "classify", "contrastive")
"""Stages whose trained models do not generate text."""


def last_value(curve: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the last recorded value of a metric."""
    return next((row[name] for row in reversed(curve) if name in row), None)


def mean_of_last(curve: Sequence[Mapping[str, Any]], name: str, *, rows: int = 20) -> float | None:
    """Return the mean of the last values of a metric, which is less noisy than a single batch."""
    values = [row[name] for row in curve if name in row][-rows:]
    return round(sum(values) / len(values), 6) if values else None


def row_length(length: int | None, architecture: Architecture, *, where: str) -> int:
    """Return the tokens of a row: the setting `where`, by default the context of the model, at most `ROW_TOKENS`."""
    if length and length > architecture.context:
        raise ConfigError(where, expected=f"at most {architecture.context}, the model's context", got=length)
    return length or min(architecture.context, ROW_TOKENS)
