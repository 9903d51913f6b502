"""Fine-tune a model into a classifier of texts or pairs of texts, or into a regression.

The head of the language model is replaced by one output per class. Decoders read the last token; encoders read the
first token or the mean of all tokens. The held-out accuracy is compared with that of a baseline which ignores the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from vita.data.sources.columns import LabelColumns
from vita.data.sources.read import Source
from vita.data.tokens.label_scheme import LabelScheme
from vita.data.tokens.labelled_examples import ExampleSet, read_examples
from vita.data.tokens.permutation import step_items
from vita.data.tokens.row_counts import counts_in
from vita.data.tokens.text_encoding import TextEncoder, with_end_token
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.nn.adapters.settings import AdapterSettings
from vita.nn.requirements import CLASSIFIER
from vita.reporting.figures import ReportContent
from vita.rights.example_rows import ExampleRows
from vita.rights.row_documents import StageRows
from vita.spine.config import neutral
from vita.spine.errors import ConfigError
from vita.spine.events import Emit, Events
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.spine.store import Traits
from vita.stages.kinds import Model
from vita.stages.training import TrainedModel, TrainingRun, mean_of_last, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.train.settings import Count, Fraction, TuningSettings, Uncompiled

if TYPE_CHECKING:
    from vita.evals.classification import ClassifierResults
    from vita.infer.pretrained import Pretrained
    from vita.nn.classifier import ClassifierSpec, SequenceClassifier
    from vita.nn.transformer import Transformer

VERSION = 1
PARALLEL = True
"""All processes run this stage together."""


class Config(TuningSettings):
    """The labelled texts, their columns, and the head."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of labelled texts: JSON lines, JSON, Parquet, CSV or TSV files, data sets of the Hub, or the built-in
    world."""
    heldout_sources: tuple[Source, ...] = ()
    """Sources of held-out texts; by default the share `eval_fraction` of `sources` is held out."""
    text_column: str | None = None
    """Column of the text, or of the first text of a pair. By default `sentence`, `text`, `sentence1`, `premise` and
    other usual names are detected in the first row of a file."""
    pair_column: str | None = None
    """Column of the second text of a pair; detected together with the first."""
    label_column: str | None = None
    """Column of the label. By default `label`, `class`, `score` and other usual names are detected."""
    problem: Literal["auto", "single", "multi", "regression"] = "auto"
    """Kind of labels: one class (single), several classes per text (multi), or a number (regression). auto decides by
    the labels: lists are multi, numbers with a fraction are a regression."""
    labels: tuple[str, ...] = ()
    """Names of the classes in the order of their numbers; by default the labels of the rows, sorted."""
    pooling: Literal["auto", "cls", "mean", "last"] = "auto"
    """Output that the head reads: of the first token, the mean of all tokens, or of the last token. auto is the pooling
    of the family in transformers; only ModernBERT offers a choice, cls or mean."""
    trained_parameters: Literal["all", "head"] = neutral("all")
    """Parameters that are trained: all (with `adapter`, those of the adapter and the head), or only the output layer
    (head), a linear classifier on the fixed outputs of the model. With few labels, head overfits less."""
    head_init: Literal["small", "zero"] = "small"
    """Initialization of the head: small, N(0, 1/(width + 1)), or zero."""
    max_length: int | None = Field(None, ge=2)
    """Maximum tokens of a text or pair; longer ones are cut. Default: the context of the model, at most 2,048."""
    epochs: float = Field(3.0, gt=0)
    batch_size: Count = 32  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = 0.1
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]
    shuffle_labels: bool = neutral(False)
    """Give each training text the label of another one: a control run, which must not beat the baseline."""

    @model_validator(mode="after")
    def _head_without_adapter(self) -> Self:
        if self.trained_parameters == "head" and isinstance(self.adapter, AdapterSettings):
            raise ValueError(
                "`trained_parameters: head` trains only the output layer; leave out `adapter`, or train all"
            )
        return self

    def columns(self) -> LabelColumns:
        """Return the columns that are set."""
        return LabelColumns(text=self.text_column, pair=self.pair_column, label=self.label_column)


@dataclass(frozen=True)
class Inputs:
    model: Model


def traits(config: Config, inputs: Mapping[str, Traits | None]) -> Traits | None:
    """Return the traits of the classifier."""
    model = inputs.get("model")
    return None if model is None else {**model, "predicts_tokens": False, CLASSIFIER: True}


def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None:
    """Refuse a pooling that the classifier of the family does not have."""
    causal = traits["model"]["causal"] if "model" in traits else None
    if causal is True and config.pooling in ("cls", "mean"):
        return f"it is a decoder, whose classifier reads the last token, and `pooling` is {config.pooling}"
    if causal is False and config.pooling == "last":
        return "it is an encoder, whose classifier reads the first token or the mean, and `pooling` is last"
    return None


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.evals.classification import evaluate_logits
    from vita.nn.classifier import ClassifierSpec
    from vita.train.classification import ClassificationLoss, LabelledBatches
    from vita.train.trainer_config import preference_training
    from vita.train.validation import loss_evidence

    pretrained = _open(config, inputs, context)
    shape = pretrained.model.architecture
    length = row_length(config.max_length, shape, where="classify.max_length")
    tokenizer = with_end_token(pretrained.tokenizer)
    examples = _read(config, TextEncoder(tokenizer, length=length), context.emit)
    scheme = examples.scheme
    spec = ClassifierSpec(scheme.names, scheme.problem, _pooling(config, pretrained))
    model = _classifier(pretrained, spec, config, context)
    spec = replace(spec, transform=model.transform)
    if config.trained_parameters == "head":
        _freeze_all_but_output_layer(model)
        auto = scaling_rules.OUTPUT_LAYER_RATE
    else:
        auto = scaling_rules.classification_rate(shape.parameters())
    training = preference_training(config, pairs=len(examples.train), auto=auto)
    training = with_adapter_rates(training, model, config.learning_rate, auto=scaling_rules.adapter_rate(auto))
    run = TrainingRun(
        "classify",
        config,
        context,
        source=pretrained.files,
        model=model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
        logits=0.0,
    )

    with run.trainer(ClassificationLoss(scheme.problem)) as trainer:
        form: dict[str, Any] = {"pad": tokenizer.pad, "context": shape.context, "with_types": model.reads_types}
        form |= {"seed": config.seed, "world": trainer.world}
        train = LabelledBatches(examples.train, scheme, size=config.batch_size, **form)
        heldout = LabelledBatches(examples.heldout, scheme, size=trainer.world.size, **form)
        trained = run.train(
            trainer,
            train,
            evaluate=heldout.evaluate if len(examples.heldout) >= trainer.world.size else None,
            tokens_per_step=round(config.batch_size * train.mean_tokens()),
        )
        trained.health()
        logits = heldout.logits(trainer)
    if not context.machine.leads:
        return Draft(Model, context.scratch, {})

    results = None
    if examples.heldout:
        targets, trained_targets = ([item.target for item in side] for side in (examples.heldout, examples.train))
        results = evaluate_logits(logits.numpy(), targets, scheme, train_targets=trained_targets, seed=config.seed)
    shared_facts = trained.facts(loss_evidence(trained.result, control=config.shuffle_labels))
    folder = _save(trained, spec, pretrained, tokenizer, context)
    facts = _facts(trained, examples, spec, results) | shared_facts
    _emit_summary(results, context)
    _write(config, inputs, trained, facts, examples, results, folder)
    return Draft(Model, folder, facts)


# -- examples


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the texts of each step, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    length = row_length(config.max_length, text.architecture, where="classify.max_length")
    examples = _read(config, TextEncoder(with_end_token(text.tokenizer), length=length), Events().emit).train
    order = partial(step_items, rows=config.batch_size, size=len(examples), seed=config.seed)
    rows = ExampleRows([example.documents() for example in examples], order, config.batch_size)
    return StageRows((rows,), {"texts": len(examples)})


def _read(config: Config, encoder: TextEncoder, emit: Emit) -> ExampleSet:
    """Read and encode all texts, and emit their counts and the first text."""
    examples = read_examples(
        config.sources,
        config.columns(),
        encoder,
        heldout_sources=config.heldout_sources,
        held_out=config.eval_fraction,
        seed=config.seed,
        problem=config.problem,
        names=config.labels,
        on_progress=lambda count: emit("progress", done=count, total=None, unit="texts"),
    )
    examples.counts.report(emit, where="classify")
    scheme = examples.scheme
    if scheme.problem != "regression":
        emit("note", text=f"{len(scheme.names)} classes: {', '.join(scheme.names)[:200]}")
    first = examples.train[0]
    ids = encoder.tokenizer.decode(first.encoded.ids, special=True)
    emit("note", text=f"the first text reads: {ids} (label {first.target})", level="detail")
    if config.shuffle_labels:
        examples.train = _with_shuffled_labels(examples, config.seed)
    return examples


def _with_shuffled_labels(examples: ExampleSet, seed: int) -> list[Any]:
    from random import Random

    targets = [example.target for example in examples.train]
    Random(f"{seed}/labels").shuffle(targets)
    return [replace(example, target=target) for example, target in zip(examples.train, targets, strict=True)]


# -- model


def _open(config: Config, inputs: Inputs, context: Context) -> Pretrained[Transformer]:
    """Open the initial model; to train only the output layer, without an adapter."""
    path = inputs.model.path
    if config.trained_parameters == "head":
        if ModelFiles.of(path).is_adapter and config.adapter != "none":
            hint = "set `adapter: none` to merge it, or `trained_parameters: all` to continue it"
            raise ConfigError("classify.trained_parameters", "head cannot train a model with an adapter", hint=hint)
        config = config.model_copy(update={"adapter": "none"})
    return open_for_tuning(path, config, context, where="classify", classifier=True)


def _freeze_all_but_output_layer(model: SequenceClassifier) -> None:
    """Exclude everything but the output layer from training."""
    model.requires_grad_(False)
    model.score.requires_grad_(True)


def _pooling(config: Config, pretrained: Pretrained[Transformer]) -> Any:
    """Return the pooling of the head; refuse one that the classifier of the family does not have."""
    from vita.nn.classifier import default_pooling, poolings

    architecture = pretrained.model.architecture
    if config.pooling == "auto":
        return default_pooling(pretrained.files, architecture)
    possible = poolings(architecture)
    if config.pooling not in possible:
        expected = f"{' or '.join(possible)}, as the classifier of {architecture.family} in transformers"
        raise ConfigError("classify.pooling", expected=expected, got=config.pooling)
    return config.pooling


def _classifier(
    pretrained: Pretrained[Any], spec: ClassifierSpec, config: Config, context: Context
) -> SequenceClassifier:
    """Return the classifier to train: with a new head, or the one of the initial classifier if its labels are equal."""
    from vita.nn.classifier import SequenceClassifier, read_spec

    model = pretrained.model
    if isinstance(model, SequenceClassifier):
        previous = read_spec(pretrained.files)
        if previous.labels == spec.labels and previous.pooling == spec.pooling:
            context.emit("note", text="the head of the initial classifier continues, because its labels are equal")
            return model
        context.emit("note", text="the initial classifier has other labels; it gets a new head")
    outputs = len(spec.labels)
    return SequenceClassifier.of(model, outputs=outputs, pooling=spec.pooling, start=config.head_init, seed=config.seed)


def _save(
    trained: TrainedModel,
    spec: ClassifierSpec,
    pretrained: Pretrained[Any],
    tokenizer: Tokenizer,
    context: Context,
) -> Path:
    """Write the classifier to the draft folder, with the tokenizer that marks the end of a text."""
    from vita.infer.adapter_folder import save_adapter_successor
    from vita.nn import classifier, hf
    from vita.spine.model_files import description, write_description

    folder, source = context.draft_folder(), pretrained.files
    progress = {"steps": trained.result.steps}
    model = trained.model
    assert isinstance(model, classifier.SequenceClassifier)
    if trained.base:
        save_adapter_successor(model, folder, source=source, base=trained.base, **progress)
        write_description(folder, {**description(folder), classifier.CLASSIFIER_ENTRY: spec.as_json()})
    else:
        classifier.save(model, folder, spec, padding=tokenizer.pad, source=source)
        hf.copy_tokenizer_files(source, folder)
        hf.describe(model.architecture, folder, **progress)
    if tokenizer is not pretrained.tokenizer:
        tokenizer.save(folder)
    return folder


# -- report


def _facts(
    trained: TrainedModel, examples: ExampleSet, spec: ClassifierSpec, results: ClassifierResults | None
) -> dict[str, Any]:
    figures = results.figures if results else {}
    values = {
        "steps": trained.result.steps,
        "problem": spec.problem,
        "classes": len(spec.labels) if spec.problem != "regression" else None,
        "pooling": spec.pooling,
        **examples.facts(),
        "loss": mean_of_last(trained.result.curve, "loss"),
        **{name: round(interval.value, 6) for name, interval in figures.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def _emit_summary(results: ClassifierResults | None, context: Context) -> None:
    if results is None:
        context.emit("note", text="no texts are held out, so the classifier is not evaluated", level="warning")
        return
    figures = results.figures
    if "accuracy" in figures:
        text = f"held out: accuracy {figures['accuracy']}, of the most frequent class {figures['majority_accuracy']}"
        context.emit("note", text=text)
        if figures["accuracy_gain"].low <= 0:
            text = "the classifier is not significantly better than always predicting the most frequent class"
            context.emit("note", text=text, level="warning")
    else:
        context.emit("note", text=f"held out: Pearson {figures['pearson']}, Spearman {figures['spearman']}")


def _write(
    config: Config,
    inputs: Inputs,
    trained: TrainedModel,
    facts: Mapping[str, Any],
    examples: ExampleSet,
    results: ClassifierResults | None,
    folder: Path,
) -> None:
    content: dict[str, Any] = {}
    scheme: LabelScheme = examples.scheme
    if results and results.matrix is not None:
        content["Confusion matrix"] = results.table(scheme.names)
    if results and results.versus_baseline:
        content["Comparison with the baseline"] = [
            "The baseline predicts the most frequent class of the training texts. "
            f"Exact McNemar test: p = {results.versus_baseline.p_value:.3g}."
        ]
    names: tuple[str, ...] = ("trained_parameters", "head_init", "shuffle_labels", "max_length")
    details = {"counts": counts_in(facts), "labels": list(scheme.names)}
    trained.write_report(
        folder,
        facts,
        title="Classifier",
        lead=f"{facts['texts']:,} texts, {facts['steps']:,} steps of {config.batch_size}.",
        report=ReportContent.of(
            "classify",
            {"classification": {"heldout": results.figures}} if results else {},
            baseline=inputs.model.digest,
            details=details,
        ),
        settings={name: getattr(config, name) for name in names},
        content=content,
    )
