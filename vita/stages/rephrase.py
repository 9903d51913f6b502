"""Rephrase documents of a corpus with a language model, as tables, questions and answers, tutorials and summaries.

The result is a corpus with the input documents and the rewrites. Each rewrite names its document, style, prompt version
and model. Held-out documents are copied and never rewritten.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from vita.data.curation.corpus import TextShardWriter, ZstdLineWriter, dump_document, dump_drop
from vita.data.curation.decontamination import Decontamination
from vita.data.rewrites import REWRITE_SHARDS
from vita.infer.sampling import Sampling
from vita.nn.requirements import generates_text
from vita.rephrasing.candidates import CandidateSettings, candidates, num_candidates
from vita.rephrasing.checks import BenchmarkCheck, CheckSettings, RewriteChecks
from vita.rephrasing.collection import RewriteCollection, ShareBudget
from vita.rephrasing.corpus_copy import CorpusSurvey, KeySet, copy_corpus
from vita.rephrasing.earlier_answers import DROPPED_ANSWERS, EarlierAnswers, dump_answer
from vita.rephrasing.endpoint_rewriter import Endpoint, EndpointRewriter
from vita.rephrasing.report import build_report, samples_page
from vita.rephrasing.result_log import ResultLog
from vita.rephrasing.rewriter import ModelRewriter, Rewriter
from vita.rephrasing.styles import STYLES
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.rights.recorded_settings import recorded_setting
from vita.spine.config import Settings, build, canonical, unknown_name
from vita.spine.contents import current_erasures
from vita.spine.endpoints import api_key
from vita.spine.errors import ConfigError, DataError
from vita.spine.lineage import newest_runs, upstream_lineage
from vita.spine.plain_text import counted
from vita.spine.stage import Context, Draft, explicit_only
from vita.stages.kinds import Corpus, Model

VERSION = 3
NEEDS = {"model": (generates_text,)}
LINEAGE = True
APPLIES_ERASURES = True


class Config(Settings):
    """The model at an endpoint, the styles, and the documents that are rewritten."""

    endpoint: Endpoint | None = None
    """OpenAI-compatible endpoint that rewrites, instead of the input `model`: `{url: ..., model: ...}`."""
    styles: dict[str, float] = Field(default_factory=lambda: dict.fromkeys(STYLES, 1.0), min_length=1)
    """Styles with their weights: table, faq, tutorial and summary. A document gets a style by weight and hash."""
    share: float = Field(0.3, gt=0, lt=1)
    """Largest share of the bytes of the training documents that are rewrites. The result is never above it."""
    rewrites_per_document: int = Field(1, ge=1, le=len(STYLES))
    """Largest number of rewrites of a document, each in another style."""
    limit: int | None = Field(None, ge=1)
    """Largest number of requested rewrites; null for no limit."""
    max_source_bytes: int = Field(6000, ge=64)
    """Bytes at the beginning of a document that are rewritten, up to the end of a paragraph, line or sentence."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Cumulative probability of the most likely tokens that are sampled from; 1 for all."""
    max_tokens: int = Field(1024, ge=1)
    """Maximum tokens of a rewrite. Longer rewrites are dropped, because they have no end."""
    min_bytes: int = Field(100, ge=1)
    """Minimum bytes of a rewrite."""
    max_copied: float = Field(0.7, ge=0, le=1)
    """Largest share of the word 5-grams of a rewrite that occur in its source, and of the words of the source that are
    one run in the rewrite (from 20 words). A rewrite equal to its source is dropped in every case."""
    check_form: bool = True
    """Drop tables without rows and questions without answers."""
    seed: int = 0
    """Seed of the choice of documents and styles, and of sampling."""

    @field_validator("styles")
    @classmethod
    def _known_styles(cls, styles: dict[str, float]) -> dict[str, float]:
        for name, weight in styles.items():
            if name not in STYLES:
                raise ValueError(str(unknown_name("styles", name, STYLES)).removeprefix("styles: "))
            if weight <= 0:
                raise ValueError(f"the weight of `{name}` is {weight:g}; leave the style out, or set a weight above 0")
        return styles


@dataclass(frozen=True)
class Inputs:
    corpus: Corpus
    model: Model | None = explicit_only()
    """The model that rewrites the documents, if no endpoint does."""


def input_problem(config: Config, slots: Collection[str]) -> str | None:
    """Return the reason why the inputs do not suit the settings."""
    if config.endpoint is None and "model" not in slots:
        return "no model rewrites the documents: set the input `model`, or `endpoint: {url: ..., model: ...}`"
    if config.endpoint is not None and "model" in slots:
        return "both the input `model` and an `endpoint` are set: leave one out"
    return None


def advise(config: Config) -> list[str]:
    """Return advice about the settings that needs no data."""
    if config.max_tokens * 8 < config.min_bytes:
        return [f"`max_tokens` of {config.max_tokens} rarely gives {config.min_bytes} bytes (`min_bytes`)"]
    return []


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Corpus]:
    """Copy the corpus, request rewrites in a fixed order, and add those that pass the checks up to the share."""
    benchmarks = _benchmarks(inputs, context)
    rewriter = _rewriter(config, inputs, context)
    folder, erasures = context.draft_folder(), current_erasures()
    with ZstdLineWriter(folder / "drops.jsonl.zst") as drops:
        survey = copy_corpus(
            inputs.corpus.path, folder, erasures=erasures, dropped=lambda drop: drops.write(dump_drop(drop))
        )
        natural = survey.train.count.bytes - survey.rewrites.bytes
        checks = RewriteChecks(
            CheckSettings(config.min_bytes, config.max_copied, config.check_form),
            KeySet(survey.train.keys), KeySet(survey.heldout.keys), benchmarks,
        )  # fmt: skip
        budget = ShareBudget(config.share, natural, survey.rewrites.bytes)
        collection = RewriteCollection(budget, checks, rewriter.model, erasures)
        _collect(config, inputs, rewriter, survey, collection, folder, context)
        for drop in collection.drops:
            drops.write(dump_drop(drop))
    if not collection.accepted:
        raise _no_rewrites(collection, survey)
    names = [name for check in benchmarks for name in check.index.names]
    report = build_report(survey, collection, config.styles, benchmarks=names)
    _write_report(report, collection, folder)
    return Draft(Corpus, folder, _facts(report))


def _rewriter(config: Config, inputs: Inputs, context: Context) -> Rewriter:
    sampling = Sampling(temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens)
    if config.endpoint is not None:
        key = api_key(variable=config.endpoint.key_variable, file=config.endpoint.key_file)
        return EndpointRewriter(config.endpoint, key, sampling)
    if inputs.model is None:
        raise ConfigError("rephrase", "no model rewrites the documents", hint="set the input `model` or `endpoint`")
    from vita.infer.engine import Engine

    engine = Engine.open(inputs.model.path, device=context.machine.device)
    if engine.template is None:
        text = "the model has no chat template: it continues a plain prompt, which base models often do not follow"
        context.emit("note", text=text, level="warning")
    if engine.model.architecture.context <= config.max_tokens:
        raise ConfigError(
            "rephrase.max_tokens", expected=f"less than the model's context of {engine.model.architecture.context}",
            got=config.max_tokens,
        )  # fmt: skip
    return ModelRewriter(engine, inputs.model.digest, sampling)


def _benchmarks(inputs: Inputs, context: Context) -> list[BenchmarkCheck]:
    """Return the benchmarks with which the curations of the corpus were decontaminated."""
    if context.ledger is None:
        return []
    upstream = upstream_lineage([inputs.corpus.digest], context.ledger)
    checks = []
    for producer in newest_runs(upstream.distances, context.ledger).values():
        settings = producer.config.get("decontaminate") or {}
        if producer.stage == "curate" and settings.get("benchmarks"):
            where = f"{producer.life}/{producer.step}.decontaminate"
            values = recorded_setting("decontaminate", producer, context.ledger)
            checks.append(BenchmarkCheck.build(build(Decontamination, values, where=where), where=where))
    return checks


def _collect(
    config: Config,
    inputs: Inputs,
    rewriter: Rewriter,
    survey: CorpusSurvey,
    collection: RewriteCollection,
    folder: Path,
    context: Context,
) -> None:
    """Write the rewrites that pass until the share is reached, or no document or request is left."""
    settings = CandidateSettings(config.styles, config.rewrites_per_document, config.max_source_bytes, config.seed)
    log = ResultLog(context.scratch / "results.jsonl")
    if log.num_earlier:
        context.emit("note", text=f"continues with {counted(log.num_earlier, 'stored answer')}")
    total = min(config.limit or sys.maxsize, num_candidates(survey, settings))
    earlier = _earlier_answers(config, inputs, rewriter, context)
    chosen = earlier.fill(islice(candidates(inputs.corpus.path, survey, settings), config.limit), log)
    with (
        TextShardWriter(folder / "train", prefix=REWRITE_SHARDS) as writer,
        ZstdLineWriter(folder / DROPPED_ANSWERS) as dropped_answers,
        closing(rewriter.rewrite(chosen, log)) as results,
    ):
        for candidate, result in results:
            if (rewrite := collection.add(candidate, result)) is not None:
                writer.write(dump_document(rewrite))
            elif result.finish in ("stop", "length") and collection.drops[-1].reason != "erased":
                dropped_answers.write(dump_answer(candidate, result))
            context.emit("progress", done=collection.requested, total=total, unit="rewrites")
            if collection.is_full:
                break
    context.record |= {"stored_answers": log.num_earlier, "reused_answers": earlier.num_used, "answers": len(log)}
    if not collection.is_full:
        share = f"{collection.budget.actual:.1%} of the training text, below the allowed {config.share:.1%}"
        reason = "the limit is reached" if collection.requested == config.limit else "no document is left to rewrite"
        context.emit("note", text=f"{reason}: rewrites are {share}")


def _earlier_answers(config: Config, inputs: Inputs, rewriter: Rewriter, context: Context) -> EarlierAnswers:
    path = context.scratch / "earlier.jsonl"
    if context.ledger is None or context.store is None:
        return EarlierAnswers(path)
    digests = {"corpus": inputs.corpus.digest, **({"model": inputs.model.digest} if inputs.model else {})}
    return EarlierAnswers.of(context.ledger, context.store, canonical(config), digests, rewriter.model, path)


def _no_rewrites(collection: RewriteCollection, survey: CorpusSurvey) -> DataError:
    if not collection.requested:
        problem = (
            "no document is left to rewrite" if survey.num_candidates else "the corpus has no documents to rewrite"
        )
        return DataError("rephrase", problem, hint="choose the corpus before rephrasing with `--corpus`")
    reasons = ", ".join(f"{reason} {count}" for reason, count in list(collection.reasons().items())[:5])
    example = collection.drops[0]
    got = f"{counted(collection.requested, 'rewrite')}, all dropped ({reasons}); the first: {example.detail}"
    hint = "use a model that follows instructions, or change `max_tokens`, `min_bytes`, `max_copied` or `share`"
    return DataError("rephrase", f"no rewrite is left: {got}", hint=hint)


def _write_report(report: dict[str, Any], collection: RewriteCollection, folder: Path) -> None:
    documents = report["documents"]
    lead = f"{documents['rewrites']:,} rewrites were added to {documents['train'] - documents['rewrites']:,} training "
    lead += f"documents; they are {report['share']:.1%} of the training text. {documents['dropped']:,} were dropped."
    content = ReportContent.of("rephrase", details=report)
    write_report_pages(content, folder, title="Rewrites", lead=lead, content=samples_page(collection))


def _facts(report: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: report[name] for name in ("documents", "bytes", "licences", "share", "prompt_version", "model")},
        "dropped": {reason: counts["documents"] for reason, counts in report["dropped"].items()},
        "sources": {name: counts["train"] for name, counts in report["sources"].items()},
    }
