"""Evaluate a model: held-out text, tasks, the built-in world, instruction following, edge cases, and samples.

Every figure has a confidence interval, and every item is stored in `items.jsonl.zst`, so that models can be compared
item by item: `inputs: {parent: test_base}` compares with the report of an earlier version. The result depends only on
the model, the texts, the settings and that report.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from vita.data.records import Document
from vita.data.sources.read import Source, documents
from vita.data.tokens.shards import Shards
from vita.data.tokens.tokenizer import Tokenizer
from vita.data.world import World, WorldSettings
from vita.evals import (
    edge_cases,
    ifeval,
    multiple_choice,
    needle,
    perplexity,
    position_loss,
    samples,
    token_rows,
    tool_calls,
    world_knowledge,
)
from vita.evals.contamination import contamination_of, contamination_page
from vita.evals.eval_files import InstructionFile, LabelledFile, PairFile, PositionFile, TaskFile, ToolCallFile
from vita.evals.masked_scores import MaskedDocument
from vita.evals.needle import NeedleSettings
from vita.evals.results import EvalResults, write_items
from vita.evals.results_page import page_content
from vita.evals.scorer import Scorer
from vita.evals.tasks import TASKS, items
from vita.infer.sampling import Sampling
from vita.nn.requirements import CLASSIFIER, generates_text, predicts_tokens
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.spine.config import Settings, neutral
from vita.spine.errors import ConfigError, DataError
from vita.spine.stage import Context, Draft, explicit_only
from vita.spine.store import Traits
from vita.stages.kinds import Corpus, Model, Report, Tokens
from vita.stats.paired import versus

if TYPE_CHECKING:
    from vita.infer.engine import Engine

VERSION = 5
LINEAGE = True
"""The report states the contamination of the files by the curations in the lineage of the model."""

T = TypeVar("T")

ITEMS_AT_ONCE = 256
"""Number of items per batch of a task."""


_SAMPLING = {"temperature": 0.8, "top_p": 0.95, "max_tokens": 64}


class Config(Settings):
    """The evaluations to run; those without settings are skipped."""

    texts: tuple[Source, ...] = ()
    """Further held-out texts: paths, or sources with their settings. The held-out documents of the corpus are
    included."""
    documents: int | None = Field(1000, ge=1)
    """Maximum number of documents per text, sampled by the seed; null for all."""
    tasks: dict[str, TaskFile] = Field(default_factory=dict)
    """Multiple-choice and completion tasks by name: a path, or `{path, task, limit}`."""
    limit: int | None = Field(1000, ge=1)
    """Maximum number of items per task, sampled by the seed; null for all."""
    world: WorldSettings | None = None
    """Settings of the built-in world in the corpus, for questions about its things."""
    instructions: InstructionFile | None = neutral(None)
    """Verifiable instructions (IFEval): a path, or `{path, limit, max_tokens}`."""
    tool_calls: ToolCallFile | None = neutral(None)
    """Dialogues with tools, to measure the calls of the model. A path, or `{path, world, limit, max_tokens}`."""
    positions: PositionFile | None = neutral(None)
    """Loss by position on long documents: a path, or `{texts, length, documents}`."""
    needle: NeedleSettings | None = neutral(None)
    """Needle in a haystack: `{lengths, depths, samples, haystack, world, max_tokens}`, or `{}` for the defaults."""
    labelled: dict[str, LabelledFile] = neutral({})
    """Labelled texts by name, for a classifier: a path, or `{path, text_column, pair_column, label_column, limit}`."""
    pairs: dict[str, PairFile] = neutral({})
    """Pairs of related texts by name, for retrieval with embeddings: a path, or `{path, anchor_column, ..., limit}`."""
    words: tuple[str, ...] = neutral(())
    """Words whose nearest tokens, by the input embedding, are shown; beside those of the input `initial`."""
    contexts: dict[str, tuple[str, ...]] = neutral({})
    """Sentences by word, between which the contextual embedding of the word is compared."""
    edge_cases: bool = neutral(False)
    """Send edge cases to a chat model: empty, vague, contradictory or overlong messages, odd or special tokens."""
    as_chat: bool = False
    """Send prompts and questions as user messages in the chat template."""
    prompts: tuple[str, ...] = samples.PROMPTS
    """Prompts of the sample completions in the report."""
    sampling: Sampling = Field(default_factory=lambda: Sampling.model_validate(_SAMPLING))
    """Sampling of these completions; each prompt has a greedy completion, too."""
    num_samples: int = Field(2, ge=0)
    """Number of sampled completions per prompt."""
    context: int | None = Field(None, ge=2)
    """Window in tokens for scoring text; by default the model's context."""
    stride: int | None = Field(None, ge=1)
    """New tokens per window of a long document; by default `context`, as in lm-evaluation-harness. A smaller stride
    gives each token more context, and takes longer."""
    mask_rate: float = neutral(0.15, gt=0, lt=1)
    """Share of the tokens that are masked for the masked accuracy of an encoder; the masks are fixed."""
    pseudo_documents: int = neutral(100, ge=1)
    """Maximum number of documents per text for the pseudo-perplexity of an encoder, which takes one sequence per
    token."""
    seed: int = Field(0, ge=0)
    """Seed of the sampled documents and items, of the completions, and of bootstrap resampling."""


@dataclass(frozen=True)
class Inputs:
    model: Model
    corpus: Corpus | None = None
    tokens: Tokens | None = explicit_only()
    """Tokens whose held-out part is scored in rows of the context, for the figure `validation/loss` in nats per
    token."""
    parent: Report | None = explicit_only()
    """The report of an earlier version on the same tests, for a paired comparison."""
    initial: Model | None = explicit_only()
    """The model before training, whose nearest tokens are shown beside those of the model."""


_LEAD = "Brackets show 95% confidence intervals. Every item is in items.jsonl.zst."


def unsupported(config: Config, traits: Mapping[str, Traits]) -> str | None:
    """Refuse evaluations that do not suit the model: labels need a classifier, and answers a decoder."""
    model = traits.get("model")
    if model is not None and bool(model.get(CLASSIFIER)) != bool(config.labelled):
        if config.labelled:
            return "`labelled` needs a classifier, and it is a model without a classifier's head"
        return "it is a classifier, which needs `labelled`, texts with labels"
    if model is not None and not config.labelled and not config.pairs and (reason := predicts_tokens(model)):
        return reason
    needs_generation = ("as_chat", "edge_cases", "tool_calls", "instructions", "needle")
    names = [name for name in needs_generation if getattr(config, name)]
    reason = generates_text(traits["model"]) if names and "model" in traits else None
    if reason:
        return f"`{names[0]}` needs generated answers, and {reason}"
    if config.positions and "model" in traits and not traits["model"]["causal"]:
        return "`positions` needs a model that predicts the next token"
    return None


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Report]:
    """Run the evaluations, and write `report.html`, `report.md`, `report.json` and `items.jsonl.zst`."""
    from vita.infer.pretrained import architecture_of

    _check(config)
    task = _task(config, inputs)
    if task in ("classification", "embedding"):
        return _test_text_model(config, inputs, context)
    decoder = architecture_of(inputs.model.path).causal
    results = _evaluate(config, inputs, context) if decoder else _evaluate_encoder(config, inputs, context)
    if inputs.parent:
        results = replace(results, versus=versus(inputs.parent.path, results.rows(), seed=config.seed))
    folder = context.draft_folder()
    settings = config.model_dump(mode="json", exclude={"texts", "tasks", "prompts", "instructions", "tool_calls"})
    parent = inputs.parent.digest if inputs.parent else None
    contamination = contamination_of(config, inputs.model.digest, context)
    details = {"contamination": [asdict(row) for row in contamination]} if contamination else {}
    report = results.report(model=inputs.model.digest, settings=settings, parent=parent, details=details)
    results.write_items(folder / "items.jsonl.zst")
    content = page_content(results, method=_method(config) if decoder else _encoder_method(config))
    content = {**content, **_inspect(config, inputs), **contamination_page(contamination)}
    write_report_pages(report, folder, title="Test report", lead=_LEAD, content=content)
    return Draft(Report, folder, results.facts())


# -- classifiers and embedding models


def _task(config: Config, inputs: Inputs) -> str | None:
    """Return the task of the model; refuse evaluations that do not suit it, and a model without any evaluation."""
    from vita.infer.text_model import model_task

    task = model_task(inputs.model.path)
    if config.labelled and task != "classification":
        hint = "train one with the stage `classify`"
        raise ConfigError("test.labelled", expected="a classifier", got="a model without its head", hint=hint)
    if config.pairs and task == "classification":
        raise ConfigError("test.pairs", expected="a model with embeddings", got="a classifier")
    return "embedding" if config.pairs else task


def _test_text_model(config: Config, inputs: Inputs, context: Context) -> Draft[Report]:
    """Measure a classifier on labelled texts, or an embedding model on pairs."""
    from vita.data.sources.columns import LabelColumns, PairColumns
    from vita.evals.text_models import TextModelResults
    from vita.infer.text_model import TextModel

    model = TextModel.open(inputs.model.path, device=context.machine.device)
    needed = "labelled" if model.labels is not None else "pairs"
    if not getattr(config, needed):
        kind = "a classifier" if model.labels is not None else "an embedding model"
        raise ConfigError(f"test.{needed}", f"is required for {kind}")
    results = TextModelResults(seed=config.seed)
    for name, file in config.labelled.items():
        columns = LabelColumns(file.text_column, file.pair_column, file.label_column)
        limit = file.limit or config.limit
        results.classify(model, name, Source(path=file.path), columns=columns, limit=limit)
    for name, file in config.pairs.items():
        pair_columns = PairColumns(file.anchor_column, file.positive_column, score=file.score_column)
        limit = file.limit or config.limit
        results.retrieve(model, name, Source(path=file.path), columns=pair_columns, limit=limit)
    figures = results.figures()
    details: dict[str, Any] = {}
    if inputs.parent:
        figures["versus"] = {"versus": versus(inputs.parent.path, results.items, seed=config.seed).figures()}
        details["parent"] = inputs.parent.digest
    folder = context.draft_folder()
    settings = {name: value for name, value in config.model_dump(mode="json").items() if name in ("limit", "seed")}
    contamination = contamination_of(config, inputs.model.digest, context)
    details |= {"contamination": [asdict(row) for row in contamination]} if contamination else {}
    report = ReportContent.of("test", figures, model=inputs.model.digest, settings=settings, details=details)
    write_items(folder / "items.jsonl.zst", results.items)
    content = {**results.content(), **_inspect(config, inputs), **contamination_page(contamination)}
    write_report_pages(report, folder, title="Test report", lead=_LEAD, content=content)
    facts = {
        f"{name}/{metric}": round(interval.value, 6)
        for group in figures.values()
        for name, metrics in group.items()
        for metric, interval in metrics.items()
    }
    return Draft(Report, folder, facts)


def _inspect(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Return the nearest tokens of words, before and after training, and words in context, for the report page."""
    if not config.words and not config.contexts:
        return {}
    from vita.infer.text_model import TextModel
    from vita.infer.token_embeddings import nearest_tokens, word_cosines

    content: dict[str, Any] = {}
    models = {"after": inputs.model.path} | ({"before": inputs.initial.path} if inputs.initial else {})
    opened = {name: TextModel.open(path) for name, path in models.items()}
    if config.words:
        content["Nearest tokens"] = [
            {
                "word": word,
                **{
                    name: ", ".join(
                        f"{neighbour.token.strip()} {neighbour.cosine:.2f}"
                        for neighbour in nearest_tokens(model.model, model.tokenizer, word, top=5)
                    )
                    for name, model in opened.items()
                },
            }
            for word in config.words
        ]
    for word, sentences in config.contexts.items():
        cosines = word_cosines(opened["after"], word, sentences)
        content[f"The word {word} in context"] = [
            {"sentence": sentence, **{str(number): value for number, value in enumerate(row, 1)}}
            for sentence, row in zip(sentences, cosines, strict=True)
        ]
    return content


# -- evaluations


def _evaluate(config: Config, inputs: Inputs, context: Context) -> EvalResults:
    from vita.infer.engine import Engine

    engine = Engine.open(inputs.model.path, device=context.machine.device)
    length = engine.model.architecture.context
    if config.context and config.context > length:
        raise ConfigError("test.context", expected=f"at most {length}, the model's context", got=config.context)
    if config.edge_cases and engine.template is None:
        hint = "base models continue text; leave `edge_cases` out until the model is tuned for chat"
        raise ConfigError("test.edge_cases", expected="a chat model", got="one without a chat template", hint=hint)
    if config.tool_calls and engine.answer_format.calls is None:
        hint = "the chat template must write tools and calls; the default template of `sft` does"
        raise ConfigError("test.tool_calls", expected="a model that can call functions", got="another", hint=hint)
    instructions, calls = _instructions(config), _tool_call_items(config)
    return EvalResults(
        texts=_score_texts(
            config, inputs, engine, context, tokenizer=engine.tokenizer, length=config.context or length
        ),
        tasks=_answer_tasks(config, engine, context, tokenizer=engine.tokenizer, length=config.context or length),
        rows_of_tokens=_score_tokens(inputs, engine, context, length=config.context or length),
        answers=world_knowledge.ask(engine, World.create(config.world), as_chat=config.as_chat) if config.world else [],
        followed=_follow(config, instructions, engine, context),
        tool_calls=_call(config, calls, engine, context),
        positions=_score_positions(config, inputs, engine, context),
        needles=_find_needles(config, engine, context),
        met=edge_cases.run_cases(engine) if config.edge_cases else [],
        continuations=samples.continuations(
            engine,
            config.prompts,
            sampling=config.sampling.model_copy(update={"seed": config.seed}),
            sampled=config.num_samples,
            as_chat=config.as_chat,
        ),
        seed=config.seed,
    )


def _evaluate_encoder(config: Config, inputs: Inputs, context: Context) -> EvalResults:
    """Return masked accuracies, pseudo-likelihoods, tasks, completions of the world and filled prompts."""
    from vita.evals import masked
    from vita.infer.pretrained import Pretrained

    pretrained = Pretrained.load(inputs.model.path, device=context.machine.device)
    scorer = masked.MaskedScorer(pretrained.model, pretrained.tokenizer, device=context.machine.device)
    longest = pretrained.model.architecture.context
    if config.context and config.context > longest:
        raise ConfigError("test.context", expected=f"at most {longest}, the model's context", got=config.context)
    length, tokenizer = min(config.context or longest, scorer.context), pretrained.tokenizer
    masked_documents: dict[str, list[MaskedDocument]] = {}
    for name, sample in _text_samples(config, inputs).items():
        scores = masked.score_masked(scorer, sample, rate=config.mask_rate)
        progress = _with_progress(scores, context, total=len(sample), unit=f"documents of {name}")
        masked_documents[name] = list(progress)
    few = config.model_copy(
        update={"documents": min(config.documents or config.pseudo_documents, config.pseudo_documents)}
    )
    return EvalResults(
        texts=_score_texts(few, inputs, scorer, context, tokenizer=tokenizer, length=length),
        masked=masked_documents,
        tasks=_answer_tasks(config, scorer, context, tokenizer=tokenizer, length=length),
        answers=masked.complete(scorer, World.create(config.world)) if config.world else [],
        continuations=masked.fill(scorer, config.prompts),
        seed=config.seed,
    )


def _check(config: Config) -> None:
    """Raise an error for unknown task names, before the model is loaded."""
    for name, task in config.tasks.items():
        TASKS[task.task or name]


def _text_samples(config: Config, inputs: Inputs) -> dict[str, list[Document]]:
    """Return the sampled documents of each text, with the held-out documents of the corpus."""
    sources = _texts_by_name(config.texts)
    if inputs.corpus and any((inputs.corpus.path / "heldout").glob("*")):
        sources = {"heldout": Source.model_validate(str(inputs.corpus.path / "heldout")), **sources}
    return {name: _sample(documents(source), config.documents, seed=config.seed) for name, source in sources.items()}


def _score_texts(
    config: Config, inputs: Inputs, scorer: Scorer, context: Context, *, tokenizer: Tokenizer, length: int
) -> dict[str, list[perplexity.DocumentScore]]:
    scores_by_text: dict[str, list[perplexity.DocumentScore]] = {}
    for name, sample in _text_samples(config, inputs).items():
        scores = perplexity.score_documents(
            scorer,
            sample,
            encode=tokenizer.encode,
            prefix=tokenizer.document,
            context=length,
            stride=config.stride,
            windows_at_once=128,
        )
        scores_by_text[name] = list(_with_progress(scores, context, total=len(sample), unit=f"documents of {name}"))
        if not scores_by_text[name]:
            raise DataError(f"test.texts.{name}", "contains no text")
    return scores_by_text


def _score_tokens(inputs: Inputs, engine: Engine, context: Context, *, length: int) -> list[perplexity.DocumentScore]:
    """Score the held-out tokens of the input `tokens`."""
    if inputs.tokens is None:
        return []
    shards = Shards.open(inputs.tokens.path / "heldout")
    if shards.tokenizer != engine.tokenizer.digest:
        hint = "give the tokens on which the model was trained"
        raise DataError("test.tokens", "were encoded with another tokenizer than that of the model", hint=hint)
    scores = token_rows.score_rows(engine, shards, engine.tokenizer, length=length)
    total = token_rows.row_count(shards, length=length)
    return list(_with_progress(scores, context, total=total, unit="rows of tokens"))


def _score_positions(
    config: Config, inputs: Inputs, engine: Engine, context: Context
) -> dict[str, list[position_loss.PositionScores]]:
    """Score long documents by position, each source of texts by itself."""
    settings = config.positions
    if settings is None:
        return {}
    limit = engine.model.architecture.context
    if settings.length and settings.length > limit:
        raise ConfigError(
            "test.positions.length", expected=f"at most {limit}, the model's context", got=settings.length
        )
    sources = _texts_by_name(settings.texts)
    if not sources and inputs.corpus:
        sources = {"heldout": Source.model_validate(str(inputs.corpus.path / "heldout"))}
    if not sources:
        raise ConfigError("test.positions.texts", "is required without a corpus")
    length, scores = settings.length or limit, {}
    for name, source in sources.items():
        texts = position_loss.long_documents(
            documents(source), encode=engine.tokenizer.encode, length=length, limit=settings.documents
        )
        if not texts:
            hint = "choose a smaller `length`, or longer texts"
            raise DataError(f"test.positions.{name}", f"no document has {length:,} tokens", hint=hint)
        context.emit("note", text=f"loss by position on {len(texts):,} documents of {name}")
        scores[name] = position_loss.score_positions(engine, texts, prefix=engine.tokenizer.document)
    return scores


def _find_needles(config: Config, engine: Engine, context: Context) -> list[needle.NeedleResult]:
    if config.needle is None:
        return []
    context.emit("note", text="needles in long texts")
    return needle.find_needles(engine, config.needle, as_chat=config.as_chat, seed=config.seed)


def _answer_tasks(
    config: Config, scorer: Scorer, context: Context, *, tokenizer: Tokenizer, length: int
) -> dict[str, list[multiple_choice.ItemResult]]:
    results_by_task: dict[str, list[multiple_choice.ItemResult]] = {}
    for name, task in config.tasks.items():
        task_items = items(task.task or name, task.path, limit=task.limit or config.limit, seed=config.seed)
        parts = (task_items[start : start + ITEMS_AT_ONCE] for start in range(0, len(task_items), ITEMS_AT_ONCE))
        answers = (
            result
            for part in parts
            for result in multiple_choice.answer(
                scorer, part, encode=tokenizer.encode, prefix=tokenizer.document, context=length
            )
        )
        results_by_task[name] = list(_with_progress(answers, context, total=len(task_items), unit=f"items of {name}"))
    return results_by_task


def _instructions(config: Config) -> list[ifeval.IFEvalItem]:
    """Read the instructions; a wrong file is an error before the model is loaded."""
    instructions = config.instructions
    return (
        ifeval.read(instructions.path, limit=instructions.limit or config.limit, seed=config.seed)
        if instructions
        else []
    )


def _follow(
    config: Config, items: Sequence[ifeval.IFEvalItem], engine: Engine, context: Context
) -> list[ifeval.IFEvalResult]:
    max_tokens = config.instructions.max_tokens if config.instructions else 0
    parts = (items[start : start + 16] for start in range(0, len(items), 16))
    results = (
        result for part in parts for result in ifeval.ask(engine, part, as_chat=config.as_chat, max_tokens=max_tokens)
    )
    return list(_with_progress(results, context, total=len(items), unit="prompts with instructions"))


def _tool_call_items(config: Config) -> list[tool_calls.ToolCallItem]:
    """Read the dialogues with tools."""
    file = config.tool_calls
    if file is None:
        return []
    return tool_calls.read(file.source, limit=file.limit or config.limit, seed=config.seed)


def _call(
    config: Config, items: Sequence[tool_calls.ToolCallItem], engine: Engine, context: Context
) -> list[tool_calls.ToolCallResult]:
    max_tokens = config.tool_calls.max_tokens if config.tool_calls else 0
    parts = (items[start : start + 16] for start in range(0, len(items), 16))
    results = (result for part in parts for result in tool_calls.ask(engine, part, max_tokens=max_tokens))
    return list(_with_progress(results, context, total=len(items), unit="answers with tools"))


def _texts_by_name(texts: Sequence[Source]) -> dict[str, Source]:
    """Return the texts by name, or by the name of their file; further texts of the same name get a number."""
    named: dict[str, Source] = {}
    for source in texts:
        label = source.name or PurePosixPath(source.label()).name.split(".")[0] or "text"
        duplicates = sum(name == label or name.startswith(f"{label} ") for name in named)
        named[f"{label} {duplicates + 1}" if duplicates or label == "heldout" else label] = source
    return named


def _sample(records: Iterable[Document], limit: int | None, *, seed: int) -> list[Document]:
    """Return a uniform sample of at most `limit` documents, in their order (Vitter 1985, algorithm R)."""
    if limit is None:
        return list(records)
    rng = random.Random(seed)
    sample: list[tuple[int, Document]] = []
    for index, document in enumerate(records):
        if index < limit:
            sample.append((index, document))
        elif (position := rng.randrange(index + 1)) < limit:
            sample[position] = (index, document)
    return [document for _, document in sorted(sample, key=lambda pair: pair[0])]


def _with_progress(items: Iterable[T], context: Context, *, total: int, unit: str) -> Iterator[T]:
    for done, item in enumerate(items, 1):
        if done % 16 == 0 or done == total:
            context.emit("progress", done=done, total=total, unit=unit)
        yield item


def _encoder_method(config: Config) -> list[str]:
    return [
        f"Masked accuracy and loss: {config.mask_rate:.0%} of the tokens of the first window of a document are masked, "
        "with the same masks for every model.",
        f"Pseudo-perplexity (Salazar et al. 2020): each token is masked alone, in at most {config.pseudo_documents} "
        "documents per text. Options of tasks are ranked by their pseudo-log-likelihood.",
        "Things of the world: the definition is completed at masks, one per token of the word.",
        "Left out, because an encoder generates no text: continuations of prompts without a mask, chat, edge cases, "
        "instructions and calls.",
    ]


def _method(config: Config) -> list[str]:
    sentences = [f"Texts and tasks above their limit are sampled with seed {config.seed}."]
    if config.as_chat:
        sentences.append("Prompts and questions are sent in the chat template of the model.")
    return sentences
