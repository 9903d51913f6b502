"""Continue pretraining on text from one domain, such as law, with replay of the pretraining text.

The learning rate rises to a share of that of pretraining, and `replay` is the share of each batch that is pretraining
text. Held-out text of the domain and of pretraining is scored before and after training: the gain in the domain, and
the loss in general. `longer_context` and `rope_scaling` extend the context; the report then has the loss by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from vita.data.sources.read import Source
from vita.data.tokens.domain_corpus import Domain, sample_documents
from vita.data.tokens.loader import Loader
from vita.data.tokens.masking import TokenMasker
from vita.data.tokens.replay import pretraining, replayed_rows
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.evals.perplexity import DocumentScore, bits_per_byte, by_source, score_documents
from vita.evals.position_loss import bits_by_position, long_documents, position_chart, score_positions
from vita.nn.requirements import fixed_context, other_objective, predicts_tokens
from vita.reporting.catalogue import GROUPS
from vita.reporting.figures import ReportContent
from vita.rights.row_documents import StageRows
from vita.rights.text_rows import TextRows
from vita.spine.errors import ConfigError
from vita.spine.events import Emit, Events
from vita.spine.plan import Context, Draft
from vita.spine.store import Traits
from vita.stages.kinds import Model, Tokens
from vita.stages.training import TrainedModel, TrainingRun, mean_of_last, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.stats.intervals import Interval, bootstrap_ratio
from vita.train.longer_context import LongerContextSettings, extended_architecture
from vita.train.masked_settings import MaskingSettings, check_objective
from vita.train.settings import Fraction, MatrixOptimizerSettings, TextSettings, TuningSettings

if TYPE_CHECKING:
    from vita.infer.engine import Engine
    from vita.infer.pretrained import Pretrained
    from vita.nn.architecture import Architecture
    from vita.nn.transformer import Transformer
    from vita.train.masked import MaskedBatches, TextEvaluation
    from vita.train.parallel.mesh import ProcessMesh
    from vita.train.trainer import StepBatch, Trainer, TrainerConfig

VERSION = 5
PARALLEL = True
"""All processes run this stage together."""

AUTO_SHARE = 0.2
"""The learning rate `auto`, as a share of those that pretraining uses."""


class Config(TuningSettings, TextSettings, MatrixOptimizerSettings, LongerContextSettings, MaskingSettings):
    """The domain's text, and the share of replayed pretraining text."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of the domain's documents."""
    replay: float = Field(0.25, ge=0, lt=1)
    """Share of each batch that is pretraining text, which limits forgetting."""
    sequence_length: int | None = Field(None, ge=2)
    """Tokens of a row; by default the longer context if one is set, otherwise the model's, at most 2,048."""
    schedule: str = "cosine"
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = Field(0.05, gt=0)
    eval_documents: int = Field(500, ge=1)
    """Maximum number of held-out documents of each kind (domain, general) that are scored before and after training."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    tokens: Tokens | None = None
    """The pretraining text, for `replay` and for the general evaluation."""


NEEDS = {"model": (predicts_tokens,)}


def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None:
    """Refuse an objective that is not that of the model, and a longer context for a model that cannot have one."""
    if "model" not in traits:
        return None
    if reason := other_objective(config.objective, traits["model"]):
        return reason
    reason = fixed_context(traits["model"]) if config.changes_positions else None
    return f"its context cannot become longer: {reason}" if reason else None


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.train.losses import language_modelling
    from vita.train.masked import masked_language_modelling, read_heldout
    from vita.train.text import is_masked
    from vita.train.validation import loss_evidence

    pretrained = open_for_tuning(inputs.model.path, config, context, where="adapt")
    encoder = check_objective(config, pretrained.model.architecture, where="adapt")
    original = pretrained.copy() if context.machine.leads else None  # the initial weights, for the comparison
    shape = _extend(config, pretrained.model)
    length = _row_length(config, shape)
    tokenizer = pretrained.tokenizer
    general_text = _general_text(config, inputs, tokenizer)
    # Each process writes its own copy of the domain.
    domain = _read(config, tokenizer, context.scratch / f"domain-{context.machine.rank}", context.emit)
    loaders = _loaders(config, domain.train, general_text, length=length)
    rows = sum(loader.rows for loader in loaders)
    training = _training(
        config, domain.train.tokens, rows=rows, domain_rows=loaders[0].rows, length=length, width=shape.width
    )
    training = with_adapter_rates(training, pretrained.model, config.learning_rate)
    steps = training.schedule.steps
    run = TrainingRun(
        "adapt",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
        logits=config.mean_mask_rate if encoder else 1.0,
    )
    loss = masked_language_modelling if encoder else language_modelling

    with run.trainer(loss, tokens_per_step=rows * length) as trainer:
        world = trainer.world
        masked = is_masked(config.document_mask, world.device, encoder=encoder)
        batch = _Batches(loaders, separator=domain.train.document_token if masked else None, world=world)
        batches = batch.masked_batches(config, tokenizer, steps=steps, world=world) if encoder else batch
        texts = {"domain": domain.heldout, "general": _general(inputs)}
        heldout = {
            name: read_heldout(config, shards, tokenizer, encoder=encoder, length=length, masked=masked, world=world)
            for name, shards in texts.items()
            if shards
        }
        trained = run.train(
            trainer,
            batches,
            evaluate=lambda trainer: _evaluate(heldout, trainer),
            tokens_per_step=rows * length,
            prefetch=True,
        )
    if original is None:
        return Draft(Model, context.scratch, {})

    trained.health()
    result = trained.result
    evidence = loss_evidence(result, heldout=("domain_loss", "domain_bits_per_byte"), control=config.shuffle_targets)
    shared_facts = trained.facts(evidence)
    folder = trained.save(tokens=steps * rows * length)
    positions: dict[str, dict[str, Interval]] = {}
    if encoder:
        figures = _mask_before_and_after(config, inputs, original, domain, trained, context)
    else:
        tuned = trained.open_engine(folder)
        figures = _score_before_and_after(config, inputs, original, domain, tuned, context)
        positions = _score_positions(config, original, domain, tuned, context) if config.changes_positions else {}
    values = {
        "steps": steps,
        "tokens": steps * rows * length,
        "replayed": round((rows - loaders[0].rows) / rows, 4),
        "documents": domain.train.documents,
        "heldout_documents": domain.heldout.documents,
        **{f"dropped_{reason}": count for reason, count in sorted(domain.dropped.items())},
        "epochs": round(steps / loaders[0].steps_per_epoch, 3),
        "loss": mean_of_last(result.curve, "loss"),
        **{
            f"{name}/{metric}": round(interval.value, 6)
            for name, metrics in figures.items()
            for metric, interval in metrics.items()
        },
        **shared_facts,
    }
    facts = {name: value for name, value in values.items() if value is not None}
    _emit_summary(figures, context)
    _write(inputs, trained, facts, figures, positions, folder)
    return Draft(Model, folder, facts)


def _extend(config: Config, model: Transformer) -> Architecture:
    """Give the model the longer context of the settings, and return its architecture."""
    from vita.nn.adapters.attach import adapter_of
    from vita.nn.longer_context import set_positions

    if not config.changes_positions:
        return model.architecture
    if adapter_of(model) is not None:
        hint = (
            "set `adapter: none` to train all weights; an adapter can be trained on the model with the longer context"
        )
        raise ConfigError("adapt.adapter", "an adapter keeps the context of its base model", hint=hint)
    shape = extended_architecture(config, model.architecture, where="adapt")
    set_positions(model, shape)
    return shape


def _row_length(config: Config, shape: Architecture) -> int:
    """Return the tokens of a row: by default those of a longer context, so that all of its positions are trained."""
    length = config.sequence_length or (shape.context if config.changes_positions else None)
    return row_length(length, shape, where="adapt.sequence_length")


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the text of each step, read and ordered as in training; the tokens of the domain are in `folder`."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    length = _row_length(config, extended_architecture(config, text.architecture, where="adapt"))
    general_text = _general_text(config, inputs, text.tokenizer)
    domain = _read(config, text.tokenizer, folder, Events().emit)
    loaders = _loaders(config, domain.train, general_text, length=length)
    return StageRows(
        tuple(TextRows(loader.shards, loader) for loader in loaders), {"documents": domain.train.documents}
    )


def _general_text(config: Config, inputs: Inputs, tokenizer: Tokenizer) -> Shards | None:
    """Return the pretraining text for the replay; refuse tokens of another tokenizer."""
    return pretraining(inputs.tokens and inputs.tokens.path, tokenizer, where="adapt", needed=bool(config.replay))


def _loaders(config: Config, domain: Shards, general_text: Shards | None, *, length: int) -> tuple[Loader, ...]:
    """Return the loader of the domain, and that of the replayed pretraining text if there is replay."""
    rows = config.batch_size or _rows(config, domain.tokens, length)
    replayed = replayed_rows(config.replay, rows=rows, where="adapt")
    loader = Loader(domain, context=length, rows=rows - replayed, seed=config.seed)
    if not replayed or not general_text:
        return (loader,)
    return (loader, Loader(general_text, context=length, rows=replayed, seed=config.seed))


def _read(config: Config, tokenizer: Tokenizer, folder: Path, emit: Emit) -> Domain:
    """Encode the domain into a folder, and emit its counts."""
    domain = Domain.read(
        config.sources,
        tokenizer,
        folder,
        held_out=config.eval_fraction,
        sample=config.eval_documents,
        seed=config.seed,
        on_progress=lambda count: emit("progress", done=count, total=None, unit="documents"),
    )
    train, heldout = domain.train, domain.heldout
    summary = f"{train.documents:,} documents, {train.tokens:,} tokens; {heldout.documents:,} held out"
    emit("note", text=summary + "".join(f", {n:,} dropped: {why}" for why, n in sorted(domain.dropped.items())))
    return domain


# -- training


def _rows(config: Config, tokens: int, length: int) -> int:
    """Return a batch size that suits the run, with at least one row of each kind."""
    total_tokens = round(tokens * config.epochs / (1 - config.replay))
    minimum = math.ceil(1 / min(config.replay, 1 - config.replay)) if config.replay else 1
    return max(scaling_rules.batch_tokens(max(1, total_tokens), context=length) // length, minimum)


def _training(config: Config, tokens: int, *, rows: int, domain_rows: int, length: int, width: int) -> TrainerConfig:
    from vita.train.optim import OptimizerConfig
    from vita.train.trainer_config import scale_rates, schedule_of, steps_of, trainer_config

    steps = steps_of(steps=config.steps, epochs=config.epochs, examples=tokens, batch_size=domain_rows * length)
    batch = rows * length
    rule = OptimizerConfig(
        matrices=config.optimizer,
        matrix_rate=scaling_rules.matrix_rate(batch),
        embedding_rate=scaling_rules.embedding_rate(width, batch),
        head_rate=scaling_rules.head_rate(width, batch),
        scalar_rate=scaling_rules.other_rate(width, batch),
    )
    optimization = scale_rates(rule, config.learning_rate, auto_share=AUTO_SHARE)
    return trainer_config(config, schedule=schedule_of(config, steps), optimization=optimization)


class _Batches:
    """Batches with rows of the domain and replayed rows of pretraining text."""

    def __init__(self, loaders: tuple[Loader, ...], *, separator: int | None, world: ProcessMesh) -> None:
        self.loaders, self.separator = loaders, separator
        self.process = {"rank": world.rank, "world_size": world.size}

    def __call__(self, step: int) -> StepBatch:
        from vita.train.text import text_tensors
        from vita.train.trainer import StepBatch

        ids = np.concatenate([loader.batch(step, **self.process).ids for loader in self.loaders])
        targets = sum(loader.rows * loader.context for loader in self.loaders)
        return StepBatch(text_tensors(ids, document=self.separator), targets=targets)

    def masked_batches(self, config: Config, tokenizer: Tokenizer, *, steps: int, world: ProcessMesh) -> MaskedBatches:
        """Return the batches of the same rows for the masked objective."""
        from vita.train.masked import MaskedBatches

        masker = TokenMasker(tokenizer, config.masking)
        return MaskedBatches(self.loaders, masker, config, steps, config.seed, self.separator, world)


def _general(inputs: Inputs) -> Shards | None:
    return Shards.open(inputs.tokens.path / "heldout") if inputs.tokens else None


def _evaluate(heldout: Mapping[str, TextEvaluation | None], trainer: Trainer) -> dict[str, float]:
    evaluations = (text.evaluate(trainer, name=kind) for kind, text in heldout.items() if text)
    return {name: value for evaluation in evaluations for name, value in evaluation.items()}


# -- before and after


def _score_before_and_after(
    config: Config,
    inputs: Inputs,
    original: Pretrained[Transformer],
    domain: Domain,
    tuned: Engine,
    context: Context,
) -> dict[str, dict[str, Interval]]:
    """Return bits per byte of whole held-out documents under both models, and the paired difference."""
    from vita.infer.engine import Engine

    general_shards, tokenizer, device = _general(inputs), original.tokenizer, context.machine.device
    general = (
        sample_documents(general_shards, tokenizer, size=config.eval_documents, seed=config.seed)
        if general_shards
        else []
    )
    texts = {"domain": domain.samples, "general": general}
    scores: dict[str, list[list[DocumentScore]]] = {name: [] for name, documents in texts.items() if documents}
    for engine in (Engine.of(original, device=device), tuned):
        for name in scores:
            context.emit("note", text=f"scores {len(texts[name]):,} held-out documents ({name})")
            document_scores = score_documents(
                engine,
                texts[name],
                encode=tokenizer.encode,
                prefix=tokenizer.document,
                context=engine.model.architecture.context,
            )
            scores[name].append(list(document_scores))
    intervals: dict[str, dict[str, Interval]] = {}
    for name, (before, after) in scores.items():
        intervals[name] = _compare(before, after, seed=config.seed)
        groups = by_source(before), by_source(after)
        if len(groups[0]) > 1:
            for source, documents in groups[0].items():
                intervals[f"{name}/{source}"] = _compare(documents, groups[1][source], seed=config.seed)
    return intervals


def _score_positions(
    config: Config, original: Pretrained[Transformer], domain: Domain, tuned: Engine, context: Context
) -> dict[str, dict[str, Interval]]:
    """Return the loss by position of both models on long held-out documents; the initial one is read unscaled."""
    from vita.infer.engine import Engine
    from vita.nn.longer_context import extended, set_positions

    length = tuned.model.architecture.context
    texts = long_documents(domain.samples, encode=original.tokenizer.encode, length=length, limit=config.eval_documents)
    if not texts:
        text = f"the loss by position is not measured: no held-out document has {length:,} tokens"
        context.emit("note", text=text, level="warning")
        return {}
    set_positions(original.model, extended(original.model.architecture, context=length, rule=None))
    intervals = {}
    for name, engine in (("before", Engine.of(original, device=context.machine.device)), ("after", tuned)):
        scores = score_positions(engine, texts, prefix=original.tokenizer.document)
        intervals[name] = bits_by_position(scores, seed=config.seed)
    text = f"loss by position on {len(texts):,} held-out documents of at least {length:,} tokens"
    context.emit("note", text=text)
    return intervals


def _mask_before_and_after(
    config: Config,
    inputs: Inputs,
    original: Pretrained[Transformer],
    domain: Domain,
    trained: TrainedModel,
    context: Context,
) -> dict[str, dict[str, Interval]]:
    """Return accuracy and loss of masked tokens of held-out documents under both models of an encoder."""
    from vita.evals.masked import MaskedScorer, score_masked
    from vita.evals.masked_scores import masked_figures

    shards, device = _general(inputs), context.machine.device
    general = (
        sample_documents(shards, original.tokenizer, size=config.eval_documents, seed=config.seed) if shards else []
    )
    intervals: dict[str, dict[str, Interval]] = {}
    for label, model in (("before", original.model), ("after", trained.model)):
        scorer = MaskedScorer(model, original.tokenizer, device=device)
        for name, documents in {"domain": domain.samples, "general": general}.items():
            scores = list(score_masked(scorer, documents, rate=config.eval_mask_rate))
            if scores:
                figures = masked_figures(scores, seed=config.seed)
                intervals.setdefault(name, {}).update({f"{metric}/{label}": value for metric, value in figures.items()})
    return intervals


def _compare(before: Sequence[DocumentScore], after: Sequence[DocumentScore], *, seed: int) -> dict[str, Interval]:
    changes = [later.bits - earlier.bits for earlier, later in zip(before, after, strict=True)]
    return {
        "bits_per_byte/before": bits_per_byte(before, seed=seed),
        "bits_per_byte/after": bits_per_byte(after, seed=seed),
        "bits_per_byte/change": bootstrap_ratio(changes, [score.bytes for score in before], seed=seed),
    }


# -- report


def _emit_summary(figures: Mapping[str, Mapping[str, Interval]], context: Context) -> None:
    for name in ("domain", "general"):
        if metrics := figures.get(name):
            metric, unit = ("bits_per_byte", "bits per byte")
            if f"{metric}/before" not in metrics:
                metric, unit = "masked_accuracy", "masked accuracy"
            before, after = metrics[f"{metric}/before"], metrics[f"{metric}/after"]
            context.emit("note", text=f"{name}, held out: {before} {unit} before, {after} after")
    if "general" not in figures:
        context.emit("note", text="forgetting is not measured: the input `tokens` is missing", level="warning")


def _write(
    inputs: Inputs,
    trained: TrainedModel,
    facts: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Interval]],
    positions: Mapping[str, Mapping[str, Interval]],
    folder: Path,
) -> None:
    groups = {"text": figures, **({"positions": positions} if positions else {})}
    trained.write_report(
        folder,
        facts,
        title="Domain tuning",
        lead=f"{facts['documents']:,} documents, {facts['tokens']:,} tokens, {facts['replayed']:.0%} of them replayed.",
        report=ReportContent.of("adapt", groups, baseline=inputs.model.digest),
        content={GROUPS["positions"]: [position_chart(positions)]} if positions else None,
    )
