"""Train a model on pairs of related texts, so that its embeddings of related texts are similar.

Each anchor must find its matching text among all texts of the batch (InfoNCE, multiple negatives ranking). The result
is an embedding model in the format of sentence-transformers. Retrieval on held-out pairs is measured before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat

from vita.data.sources.columns import PairColumns
from vita.data.sources.read import Source
from vita.data.tokens.pair_examples import PairExamples, read_pair_examples
from vita.data.tokens.permutation import step_items
from vita.data.tokens.row_counts import counts_in
from vita.data.tokens.text_encoding import EncodedText, TextEncoder, with_end_token
from vita.data.tokens.tokenizer import Tokenizer
from vita.design import scaling_rules
from vita.nn.requirements import has_no_classifier
from vita.reporting.figures import ReportContent
from vita.rights.example_rows import ExampleRows
from vita.rights.row_documents import StageRows
from vita.spine.errors import ConfigError, DataError
from vita.spine.events import Emit, Events
from vita.spine.model_files import ModelFiles
from vita.spine.plan import Context, Draft
from vita.stages.kinds import Model
from vita.stages.training import TrainedModel, TrainingRun, mean_of_last, row_length
from vita.stages.tuning import open_for_tuning, with_adapter_rates
from vita.stats.intervals import Interval
from vita.train.settings import Count, Fraction, TuningSettings, Uncompiled

if TYPE_CHECKING:
    import numpy as np

    from vita.infer.embedding_format import EmbeddingConfig
    from vita.infer.pretrained import Pretrained
    from vita.nn.transformer import Transformer
    from vita.train.trainer import Trainer

VERSION = 1
NEEDS = {"model": (has_no_classifier,)}


class Config(TuningSettings):
    """The pairs, their columns, and the loss."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of pairs: JSON lines, JSON, Parquet, CSV or TSV files, data sets of the Hub, or the built-in world (a
    question and its answer)."""
    heldout_sources: tuple[Source, ...] = ()
    """Sources of held-out pairs; by default the share `eval_fraction` of the anchors is held out."""
    anchor_column: str | None = None
    """Column of the anchor, such as a query. By default `query`, `question`, `anchor`, `sentence1` and other usual
    names are detected in the first row of a file."""
    positive_column: str | None = None
    """Column of the matching text; detected together with the anchor."""
    negative_column: str | None = None
    """Column of hard negatives: a text, or a list of texts; by default `negative` or `negatives`, if present."""
    score_column: str | None = None
    """Column of the similarity of the pair; by default `score`, `similarity` or `label`, if it is a number."""
    min_score: float | None = None
    """Similarity from which a pair is learned. Default: 0.5 for similarities up to 1, otherwise 0.8 of the largest."""
    hard_negatives: int = Field(1, ge=0)
    """Maximum number of hard negatives of a pair."""
    pooling: Literal["auto", "cls", "mean", "last"] = "auto"
    """Output that is the embedding: of the first token, the mean of all tokens, or of the last token. auto continues
    the pooling of an embedding model; otherwise it is mean for an encoder and last for a decoder."""
    normalize: bool = True
    """Scale embeddings to length 1."""
    temperature: PositiveFloat = 0.05
    """Divisor of the cosine similarities in the loss; a smaller one weighs the most similar negatives more."""
    symmetric: bool = False
    """Also find the anchor of each matching text among the anchors of the batch."""
    dimensions: tuple[int, ...] = ()
    """Lengths to which embeddings can be cut (matryoshka): the loss is the mean over these prefixes and the whole."""
    max_length: int | None = Field(None, ge=2)
    """Maximum tokens of a text; longer ones are cut. Default: the context of the model, at most 2,048."""
    batch_size: Count = 64  # pyright: ignore[reportIncompatibleVariableOverride]
    warmup_fraction: Fraction = 0.1  # pyright: ignore[reportIncompatibleVariableOverride]
    eval_fraction: Fraction = 0.1
    compile: Uncompiled = "auto"  # pyright: ignore[reportIncompatibleVariableOverride]

    def columns(self) -> PairColumns:
        """Return the columns that are set."""
        return PairColumns(self.anchor_column, self.positive_column, self.negative_column, self.score_column)


@dataclass(frozen=True)
class Inputs:
    model: Model


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Model]:
    from vita.train.contrastive import ContrastiveBatches, ContrastiveLoss
    from vita.train.trainer_config import preference_training
    from vita.train.validation import loss_evidence

    pretrained = open_for_tuning(inputs.model.path, config, context, where="contrastive")
    shape = pretrained.model.architecture
    _check(config, shape.width)
    _freeze_output_head(pretrained.model)
    length = row_length(config.max_length, shape, where="contrastive.max_length")
    embedding = _embedding_config(config, pretrained.files, length, causal=shape.causal)
    encoder = _encoder(embedding, pretrained.tokenizer, length)
    tokenizer = encoder.tokenizer
    pairs = _read(config, embedding, encoder, context.emit)
    auto = scaling_rules.classification_rate(shape.parameters())
    training = preference_training(config, pairs=len(pairs.train), auto=auto)
    # The negatives of a pair are the other texts of its batch, so a batch cannot be computed in parts.
    training = training.model_copy(update={"micro_batch_tokens": 2**40})
    training = with_adapter_rates(
        training, pretrained.model, config.learning_rate, auto=scaling_rules.adapter_rate(auto)
    )
    run = TrainingRun(
        "contrastive",
        config,
        context,
        source=pretrained.files,
        model=pretrained.model,
        training=training,
        initial=inputs.model.digest,
        row_length=length,
        logits=0.0,
    )
    loss = ContrastiveLoss(embedding.pooling, config.temperature, config.dimensions, config.symmetric)
    negatives = max((len(pair.negatives) for pair in (*pairs.train, *pairs.heldout)), default=0)
    form: dict[str, Any] = {"pad": tokenizer.pad, "context": shape.context}

    with run.trainer(loss) as trainer:
        sides = (pairs.train, pairs.heldout)
        train, heldout = (
            ContrastiveBatches(side, size=config.batch_size, seed=config.seed, negatives=negatives, **form)
            for side in sides
        )
        evaluation = _Evaluation(pairs, {"pooling": embedding.pooling, **form}, config.seed)
        before = evaluation.initial(trainer, context)
        trained = run.train(
            trainer,
            train,
            evaluate=heldout.evaluate if len(pairs.heldout) > 1 else None,
            tokens_per_step=round(config.batch_size * train.mean_tokens()),
        )
        trained.health()
        figures = evaluation.figures(before, evaluation.embeddings(trainer))
    shared_facts = trained.facts(loss_evidence(trained.result))
    folder = _save(trained, config, embedding, pretrained, tokenizer)
    facts = _facts(trained, pairs, embedding, figures) | shared_facts
    _emit_summary(figures, context)
    _write(config, inputs, trained, facts, figures, folder)
    return Draft(Model, folder, facts)


# -- settings and pairs


def _check(config: Config, width: int) -> None:
    if beyond := [size for size in config.dimensions if not 0 < size < width]:
        expected = f"numbers from 1 to {width - 1}, less than the width of the model"
        raise ConfigError("contrastive.dimensions", expected=expected, got=beyond[0])
    if "micro_batch_tokens" in config.model_fields_set:
        hint = "lower `batch_size` or `max_length`, or set `recompute_activations: true`"
        problem = "has no effect: the negatives of a pair are the other texts of its batch"
        raise ConfigError("contrastive.micro_batch_tokens", problem, hint=hint)


def _freeze_output_head(model: Transformer) -> None:
    """Exclude the output head and the masked-language head from training, because embeddings do not depend on them."""
    for name, parameter in model.named_parameters():
        if not name.startswith("model."):
            parameter.requires_grad_(False)


def training_rows(config: Config, inputs: Inputs, folder: Path) -> StageRows:
    """Return the pairs of each step, read and ordered as in training."""
    from vita.infer.pretrained import PretrainedText

    text = PretrainedText.load(inputs.model.path)
    length = row_length(config.max_length, text.architecture, where="contrastive.max_length")
    embedding = _embedding_config(config, text.files, length, causal=text.architecture.causal)
    pairs = _read(config, embedding, _encoder(embedding, text.tokenizer, length), Events().emit).train
    order = partial(step_items, rows=config.batch_size, size=len(pairs), seed=config.seed)
    rows = ExampleRows([pair.documents() for pair in pairs], order, config.batch_size)
    return StageRows((rows,), {"pairs": len(pairs)})


def _encoder(embedding: EmbeddingConfig, tokenizer: Tokenizer, length: int) -> TextEncoder:
    """Return the encoder of texts, with an end token if the embedding is that of the last token."""
    return TextEncoder(with_end_token(tokenizer) if embedding.pooling == "last" else tokenizer, length=length)


def _embedding_config(config: Config, files: ModelFiles, length: int, *, causal: bool) -> EmbeddingConfig:
    from dataclasses import replace

    from vita.infer.embedding_format import EmbeddingConfig, read_embedding_config

    previous = read_embedding_config(files)
    default = EmbeddingConfig("last" if causal else "mean")
    settings = replace(previous or default, normalize=config.normalize, length=length)
    return settings if config.pooling == "auto" else replace(settings, pooling=config.pooling)


def _read(config: Config, embedding: EmbeddingConfig, encoder: TextEncoder, emit: Emit) -> PairExamples:
    """Read and encode all pairs, and emit their counts."""
    pairs = read_pair_examples(
        config.sources,
        config.columns(),
        encoder,
        heldout_sources=config.heldout_sources,
        held_out=config.eval_fraction,
        seed=config.seed,
        negatives=config.hard_negatives,
        min_score=config.min_score,
        prompt=embedding.prompt,
        on_progress=lambda count: emit("progress", done=count, total=None, unit="pairs"),
    )
    pairs.counts.report(emit, where="contrastive")
    if len({pair.pair.positive for pair in pairs.train}) < 2:
        raise DataError("contrastive", expected="two different matching texts or more, as negatives", got="one")
    return pairs


# -- evaluation


class _Evaluation:
    """Retrieval and similarity on the held-out pairs, before and after training."""

    def __init__(self, pairs: PairExamples, form: Mapping[str, Any], seed: int) -> None:
        self.pairs, self.form, self.seed = pairs, form, seed
        texts: dict[str, EncodedText] = {}
        for pair in pairs.heldout:
            texts[pair.pair.positive] = pair.positive
            texts |= zip(pair.pair.negatives, pair.negatives, strict=False)
        self.candidates = texts

    def embeddings(self, trainer: Trainer) -> dict[str, np.ndarray]:
        """Return the embeddings of anchors, candidates, and both texts of the scored pairs."""
        from vita.train.contrastive import embed_texts

        groups = {
            "anchors": [pair.anchor for pair in self.pairs.heldout],
            "candidates": list(self.candidates.values()),
            "first": [pair.anchor for pair in self.pairs.scored],
            "second": [pair.positive for pair in self.pairs.scored],
        }
        return {name: embed_texts(trainer, texts, **self.form).numpy() for name, texts in groups.items()}

    def initial(self, trainer: Trainer, context: Context) -> dict[str, np.ndarray]:
        """Return the embeddings before training; after an interruption those that were stored."""
        import numpy as np

        path = context.scratch / "embeddings_before.npz"
        if path.exists():
            with np.load(path) as stored:
                return dict(stored)
        embeddings = self.embeddings(trainer)
        temporary = context.scratch / ".embeddings_before.partial.npz"
        np.savez(temporary, allow_pickle=False, **embeddings)
        temporary.replace(path)
        return embeddings

    def figures(
        self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
    ) -> dict[str, dict[str, Interval]]:
        """Return the figures before and after, and the paired changes."""
        from vita.evals.retrieval import retrieval_change, retrieval_figures, similarity_figures

        figures: dict[str, dict[str, Interval]] = {}
        if self.pairs.heldout:
            ranks = [self._ranks(embeddings) for embeddings in (before, after)]
            figures["retrieval"] = {
                **{f"{name}/before": value for name, value in retrieval_figures(ranks[0]).items()},
                **retrieval_figures(ranks[1]),
                **retrieval_change(ranks[0], ranks[1]),
            }
        if len(self.pairs.scored) > 1:
            scores = [pair.pair.score or 0.0 for pair in self.pairs.scored]
            measured = [
                similarity_figures(embeddings["first"], embeddings["second"], scores, seed=self.seed)["spearman"]
                for embeddings in (before, after)
            ]
            figures["similarity"] = {"spearman/before": measured[0], "spearman": measured[1]}
        return figures

    def _ranks(self, embeddings: Mapping[str, np.ndarray]) -> Any:
        import numpy as np

        from vita.evals.retrieval import match_ranks

        matching: dict[str, set[str]] = {}
        for pair in self.pairs.heldout:
            matching.setdefault(pair.pair.anchor, set()).add(pair.pair.positive)
        texts = list(self.candidates)
        matches = np.array([[text in matching[pair.pair.anchor] for text in texts] for pair in self.pairs.heldout])
        return match_ranks(embeddings["anchors"], embeddings["candidates"], matches)


# -- report


def _save(
    trained: TrainedModel,
    config: Config,
    embedding: EmbeddingConfig,
    pretrained: Pretrained[Transformer],
    tokenizer: Tokenizer,
) -> Path:
    from vita.infer.embedding_format import write_embedding_config

    folder = trained.save()
    if tokenizer is not pretrained.tokenizer:
        tokenizer.save(folder)
    write_embedding_config(embedding, folder, architecture=trained.model.architecture, dimensions=config.dimensions)
    return folder


def _facts(
    trained: TrainedModel,
    pairs: PairExamples,
    embedding: EmbeddingConfig,
    figures: Mapping[str, Mapping[str, Interval]],
) -> dict[str, Any]:
    measured = {name: interval for group in figures.values() for name, interval in group.items()}
    values = {
        "steps": trained.result.steps,
        "pooling": embedding.pooling,
        **pairs.facts(),
        "loss": mean_of_last(trained.result.curve, "loss"),
        **{name: round(interval.value, 6) for name, interval in measured.items()},
    }
    return {name: value for name, value in values.items() if value is not None}


def _emit_summary(figures: Mapping[str, Mapping[str, Interval]], context: Context) -> None:
    retrieval, similarity = figures.get("retrieval"), figures.get("similarity")
    if retrieval is None and similarity is None:
        context.emit("note", text="no pairs are held out, so the embeddings are not evaluated", level="warning")
    if retrieval:
        text = f"held out: recall@1 {retrieval['recall@1']}, before {retrieval['recall@1/before']}"
        context.emit("note", text=text)
    if similarity:
        text = f"held out: Spearman correlation {similarity['spearman']}, before {similarity['spearman/before']}"
        context.emit("note", text=text)


def _write(
    config: Config,
    inputs: Inputs,
    trained: TrainedModel,
    facts: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Interval]],
    folder: Path,
) -> None:
    names: Sequence[str] = ("temperature", "symmetric", "dimensions", "hard_negatives", "max_length", "normalize")
    trained.write_report(
        folder,
        facts,
        title="Embeddings",
        lead=f"{facts['pairs']:,} pairs, {facts['steps']:,} steps of {config.batch_size}.",
        report=ReportContent.of(
            "contrastive",
            {"embedding": figures} if figures else {},
            baseline=inputs.model.digest,
            details={"counts": counts_in(facts)},
        ),
        settings={name: getattr(config, name) for name in names},
    )
