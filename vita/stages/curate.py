"""Build a corpus: read the sources, filter and deduplicate the documents, and hold some out for evaluation.

Every dropped document has a reason; every other one keeps its id, source and licence. Held-out documents are selected
by content hash, so that equal texts are never in both splits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import Field, field_validator, model_validator

from vita.data.curation.corpus import dump, read_corpus
from vita.data.curation.decontamination import BenchmarkIndex, Decontamination, with_test_files
from vita.data.curation.diversity import diversity_report, sample_documents
from vita.data.curation.empty_corpus import nothing_left, nothing_to_train_on
from vita.data.curation.filter_pass import FilterJob
from vita.data.curation.filter_stats import FilterStats
from vita.data.curation.near_duplicates import Sketches
from vita.data.curation.part_files import PartTable
from vita.data.curation.passes import filter_all, write_all
from vita.data.curation.policy import fingerprint_corpus, policy_digest, read_policy
from vita.data.curation.ray_pool import RayPool
from vita.data.curation.repeated_text import PartCuts
from vita.data.curation.report import build_report, held_out_advice
from vita.data.curation.rules import CurationRules
from vita.data.curation.shingles import SketchOptions
from vita.data.curation.slice_filter import FilterSteps
from vita.data.curation.split_pass import SplitAssignments, SplitOptions, assign_splits, split_jobs
from vita.data.curation.text_cuts import find_cuts, with_sizes
from vita.data.curation.text_end import hold_out_end
from vita.data.curation.worker_pool import WorkerPool
from vita.data.sources.read import Source, is_single_text, listing_note, skipped_files, split_source
from vita.gates.curation_approvals import policy_facts, policy_record
from vita.reporting.corpus_charts import corpus_figures
from vita.reporting.figures import ReportContent
from vita.reporting.page import write_report_pages
from vita.spine.config import InputPath, Settings, neutral
from vita.spine.contents import content_digests
from vita.spine.errors import ConfigError
from vita.spine.garbage_collection import rare_garbage_collection
from vita.spine.ledger import Ledger
from vita.spine.plain_text import counted
from vita.spine.plan import Context, Draft
from vita.spine.store import Store
from vita.stages.kinds import Corpus

VERSION = 27
LINEAGE = True
"""The approvals of a policy are read from the ledger."""
ADMITS_CACHED = True
"""A required approval must also be valid when an existing corpus is used: its key may have been revoked."""

_SLICE_BYTES = 8 * 2**20  # on disk: small enough to share the work and to lose little when killed
_MIN_PARALLEL_BYTES = 6 * 2**20  # on disk: under this, starting processes takes longer than the work


class Config(CurationRules):
    """The sources of text, its filters, and the held-out documents."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources of text: a list, or a mapping of names to sources. Of equal documents the first is kept."""
    decontaminate: Decontamination = Decontamination()
    """Benchmarks whose passages must not be in the corpus: `tests` for the files of the life's test stages, or
    `{benchmarks: {name: file}}`. Documents with a passage are dropped."""
    held_out: float = Field(0.01, ge=0)
    """Documents held out for evaluation: a share below 1 (at least one document, and not all), a whole number from 1,
    or 0 for none. For a single text, a share of its end is held out, in up to 20 pieces. Confidence
    intervals need two held-out documents."""
    held_out_sources: tuple[str, ...] = ()
    """Names of sources that are held out as a whole, without filters; documents equal to theirs are dropped from
    training."""
    seed: int = 0
    """Seed of the held-out documents, and of those sampled by a fractional `repeat`."""
    shard_megabytes: int = Field(64, ge=1)
    """Maximum megabytes of text per corpus file, and approximate memory of a worker process."""
    dropped_text: bool = neutral(False)
    """Store the text of dropped documents in `drops.jsonl.zst`."""
    diversity: int = neutral(0, ge=0)
    """Number of sampled training documents whose topics and styles the report describes, such as 2000; 0 for none."""
    policy: InputPath | None = neutral(None)
    """File with the rules: encodings, languages, filters, duplicates and personal data (`vita curate-policy`)."""
    approval: Literal["required", "none"] = neutral("none")
    """`required` to run only with a policy that a person has approved for exactly this corpus."""

    @field_validator("sources", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return [
            {"name": name, **({"path": source} if isinstance(source, str) else source or {})}
            for name, source in value.items()
        ]

    @field_validator("held_out")
    @classmethod
    def _is_share_or_number(cls, value: float) -> float:
        if value >= 1 and not value.is_integer():
            raise ValueError(f"expected a share below 1 or a whole number of documents, got {value:g}")
        return value

    @model_validator(mode="after")
    def _approval_has_policy(self) -> Config:
        if self.approval == "required" and self.policy is None:
            raise ValueError("`approval: required` needs `policy: FILE`; `vita curate-policy propose` writes one")
        return self

    @model_validator(mode="after")
    def _held_out_sources_exist(self) -> Config:
        known = {source.name: source for source in self.sources if source.name}
        for name in self.held_out_sources:
            if name not in known:
                raise ValueError(
                    f"held_out_sources: no source is named `{name}`; named are {', '.join(known) or 'none'}"
                )
            if known[name].repeat != 1:
                raise ValueError(f"source `{name}` is held out, so its `repeat` would change nothing; leave it out")
        if len(known) < sum(source.name is not None for source in self.sources):
            raise ValueError("two sources have the same name")
        return self


@dataclass(frozen=True)
class Inputs:
    """No inputs: curation is the first stage."""


def run(config: Config, inputs: Inputs, context: Context) -> Draft[Corpus]:
    """Filter all sources, assign all documents to splits, and write the corpus with its report."""
    start = time.monotonic()
    benchmarks = _benchmark_index(config)
    jobs, owners = _tasks(config, context.scratch / "sifted", benchmarks)
    with rare_garbage_collection(), _pool(jobs, context) as pool:
        results = filter_all(jobs, pool, context)
        stats = FilterStats()
        for result in results:
            stats.merge(result.stats)
        parts = [(part, owners[result.number]) for result in results for part in result.parts]
        parts, end_pieces = _hold_out_end(config, parts, jobs)
        tables = [PartTable.load(part) for part, _ in parts]
        assignments = _decide(config, parts, tables, stats, end_pieces)
        folder = context.draft_folder()
        cuts = _cuts(config, parts, tables, assignments)
        split_tasks = split_jobs(
            [part for part, _ in parts], tables, assignments, folder, dropped_text=config.dropped_text, cuts=cuts
        )
        sizes = write_all(split_tasks, results, stats, folder, pool, context)
        tables, assignments = with_sizes(tables, assignments, sizes)
        if not assignments.repeat_counts.any():
            raise nothing_to_train_on(int(assignments.held_out.sum()))
    report = build_report(
        stats, tables, assignments, filters=[use.model_dump() for use in config.filters],
        personal_data=config.personal_data.actions,
        benchmarks=dict(zip(benchmarks.names, benchmarks.counts, strict=True)) if benchmarks else {},
        keeps_contaminated=config.decontaminate.action == "count",
        repeats={source.name or f"source {number}": source.repeat for number, source in enumerate(config.sources, 1)},
        repeats_cut=config.deduplicate.repeats.as_settings() if config.deduplicate.repeats else {},
        held_out_setting=config.held_out,
        skipped_files=[name for source in config.sources for name in skipped_files(source)],
    )  # fmt: skip
    for source in config.sources:
        if (text := listing_note(source)) is not None:
            context.emit("note", text=text)
    if report["skipped_files"]:
        context.emit("note", text=f"skipped {counted(len(report['skipped_files']), 'file')}; see the report")
    if names := [
        f"{counts['unusable_ids']:,} of {name}"
        for name, counts in report["sources"].items()
        if "unusable_ids" in counts
    ]:
        text = f"the `id` of some documents is no text or whole number ({', '.join(names)}): the file and the row are"
        context.emit("note", text=f"{text} their ids, and `stated_id` in their metadata is the value", level="warning")
    if report["damaged_files"]:
        files = "; ".join(report["damaged_files"][:5])
        context.emit(
            "note",
            text=f"read {counted(len(report['damaged_files']), 'damaged file')} in part: {files}",
            level="warning",
        )
    for advice in report["advice"]:
        context.emit("note", text=advice, level="warning")
    if config.diversity:
        sample = sample_documents(read_corpus(folder, "train"), limit=config.diversity)
        report["diversity"] = diversity_report(sample, seed=config.seed)
    if config.policy is not None and context.ledger is not None:
        report["policy"] = _policy_record(config, context.ledger)
        if difference := report["policy"]["difference"]:
            context.emit("note", text=f"{config.policy} {difference}", level="warning")
    content = ReportContent.of("curate", details=orjson.loads(dump(report)))
    documents, size = report["documents"], report["bytes"]["read"] / 1e6
    lead = f"{documents['read']:,} documents ({size:,.2f} MB) were read, {documents['dropped']:,} dropped. "
    lead += f"{documents['train']:,} are training documents, {documents['held_out']:,} are held out."
    training_sizes = np.concatenate([table.sizes for table in tables])[assignments.repeat_counts > 0]
    charts = corpus_figures(report, training_sizes)
    write_report_pages(content, folder, title="Corpus", lead=lead, content=charts)
    _record(context, report, time.monotonic() - start, pool.workers)
    return Draft(Corpus, folder, _facts(report))


def filter_share(config: Config, context: Context, *, number: int, of: int) -> int:
    """Filter every `of`-th slice of the sources, from the slice `number` (1 to `of`), and return their count.

    A later run with the same settings and folder uses the results.
    """
    jobs, _ = _tasks(config, context.scratch / "sifted", _benchmark_index(config))
    share = jobs[number - 1 :: of]
    if share:
        with _pool(share, context) as pool:
            filter_all(share, pool, context)
    return len(share)


def complete(config: Config) -> Config:
    """Return the settings with the rules of their policy file; rules that are also set beside it are refused."""
    if config.policy is None:
        return config
    policy = read_policy(config.policy, where="curate.policy")
    names = sorted(CurationRules.model_fields.keys() & config.model_fields_set)
    if names:
        hint = "leave them out, or change the policy file and have it approved again"
        raise ConfigError("curate", f"`policy` sets the rules, and so do {', '.join(names)}", hint=hint)
    return config.model_copy(update={name: getattr(policy.rules, name) for name in CurationRules.model_fields})


def admit(config: Config, inputs: Inputs, ledger: Ledger, store: Store) -> None:
    """Refuse a policy without a valid approval, if one is required; for a new corpus and for an existing one."""
    if config.approval == "required":
        _policy_record(config, ledger)


def _policy_record(config: Config, ledger: Ledger) -> dict[str, Any]:
    """Return the policy and its approvals for the report; raise a `GateError` if a required approval is missing."""
    assert config.policy is not None, "only called with a policy"
    contents = content_digests(config, ledger, where="curate")
    # The rules that are applied, not those of the file, which may have changed since the settings were read.
    rules = CurationRules(**{name: getattr(config, name) for name in CurationRules.model_fields})
    policy = read_policy(config.policy, where="curate.policy").model_copy(update={"rules": rules})
    is_required = config.approval == "required"
    is_known = not any(source.huggingface for source in config.sources)
    corpus = fingerprint_corpus(config.sources, contents) if is_required or is_known else None
    digest = policy_digest(policy, contents)
    return policy_record(ledger, policy, digest, corpus, file=config.policy, is_required=is_required)


def link(config: Config, steps: Sequence[tuple[str, Settings]]) -> Config:
    """Return the settings with the files of the life's test stages as benchmarks; `steps` are (stage, settings)."""
    if not config.decontaminate.tests:
        return config
    tests = [settings for stage, settings in steps if stage == "test"]
    return config.model_copy(update={"decontaminate": with_test_files(config.decontaminate, tests)})


def advise(config: Config) -> list[str]:
    """Return advice about the settings that needs no data."""
    return [held_out_advice(1)] if config.held_out == 1 and not config.held_out_sources else []


def _hold_out_end(
    config: Config, parts: list[tuple[Path, Source]], jobs: list[FilterJob]
) -> tuple[list[tuple[Path, Source]], int]:
    """Divide the end of a single text into documents; return the parts and the number of these documents."""
    source, *others = config.sources
    if not 0 < config.held_out < 1 or not parts or others or source.repeat != 1:
        return parts, 0
    sizes = [PartTable.load(part).sizes for part, _ in parts[:2]]
    is_single_document = len(parts) == 1 and len(sizes[0]) == 1
    num_files = len({file.path for job in jobs for file in job.source_slice.files})
    if not is_single_document and (num_files > 1 or not is_single_text(source)):
        return parts, 0
    total = sum(int(PartTable.load(part).sizes.sum()) for part, _ in parts)
    paths, pieces = hold_out_end([part for part, _ in parts], jobs[-1], total_bytes=total, share=config.held_out)
    return [(path, source) for path in paths], pieces


def _decide(
    config: Config,
    parts: list[tuple[Path, Source]],
    tables: list[PartTable],
    stats: FilterStats,
    end_pieces: int,
) -> SplitAssignments:
    if not parts:
        raise nothing_left(stats, [str(source.name or source.path) for source in config.sources])
    assignments = assign_splits(
        tables,
        SplitOptions(
            config.deduplicate.documents, config.deduplicate.threshold, config.held_out, config.seed, end_pieces
        ),
        repeat=np.array([owner.repeat for _, owner in parts]),
        reserved=np.array([owner.name in config.held_out_sources for _, owner in parts]),
        sketches=Sketches([part for part, _ in parts]) if config.deduplicate.documents == "near" else None,
    )
    if not assignments.repeat_counts.any():
        raise nothing_to_train_on(int(assignments.held_out.sum()))
    return assignments


def _cuts(
    config: Config, parts: list[tuple[Path, Source]], tables: list[PartTable], assignments: SplitAssignments
) -> list[PartCuts]:
    options = config.deduplicate.repeats
    if options is None:
        return []
    reserved = np.array([owner.name in config.held_out_sources for _, owner in parts])
    return find_cuts([part for part, _ in parts], tables, assignments, options, reserved=reserved)


# -- the first pass


def _pool(jobs: list[FilterJob], context: Context) -> WorkerPool | RayPool:
    if context.machine.ray:
        return RayPool(context.machine.ray, folder=context.scratch)
    use_processes = len(jobs) > 1 and sum(job.source_slice.size for job in jobs) > _MIN_PARALLEL_BYTES
    return WorkerPool(min(context.machine.threads, len(jobs)) if use_processes else 1)


def _benchmark_index(config: Config) -> BenchmarkIndex | None:
    if config.decontaminate.tests:
        hint = "name the files in `decontaminate.benchmarks`, or add a test stage to a life file"
        raise ConfigError("curate.decontaminate.tests", "a single stage has no test stages", hint=hint)
    if not config.decontaminate.benchmarks:
        return None
    return BenchmarkIndex.build(config.decontaminate, where="curate.decontaminate")


def _tasks(config: Config, folder: Path, benchmarks: BenchmarkIndex | None) -> tuple[list[FilterJob], list[Source]]:
    """Return a task for each slice of a source, and the source of each task."""
    folder.mkdir(parents=True, exist_ok=True)
    search = config.deduplicate
    steps = FilterSteps(
        filters=config.filters,
        repair_encoding=config.repair_encoding,
        languages=config.languages,
        personal_data=config.personal_data,
        decontamination=benchmarks.save(folder / "benchmarks.npz") if benchmarks else None,
        keeps_contaminated=config.decontaminate.action == "count",
        part_bytes=config.shard_megabytes * 2**20,
        sketches=SketchOptions(search.shingle_words, search.threshold) if search.documents == "near" else None,
        repeats=search.repeats,
        dropped_text=config.dropped_text,
    )
    unfiltered = replace(
        steps, filters=(), decontamination=None, languages="none" if config.languages == "none" else "all"
    )
    slices = [
        (source, source_slice)
        for source in config.sources
        for source_slice in split_source(source, bytes_each=_SLICE_BYTES)
    ]
    jobs = [
        FilterJob(
            number,
            source_slice,
            unfiltered if source.name in config.held_out_sources else steps,
            folder,
        )
        for number, (source, source_slice) in enumerate(slices)
    ]
    return jobs, [source for source, _ in slices]


def _facts(report: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: report[name] for name in ("documents", "bytes", "licences")},
        "dropped": {reason: counts["documents"] for reason, counts in report["dropped"].items()},
        "sources": {name: counts["train"] for name, counts in report["sources"].items()},
        **policy_facts(report.get("policy")),
    }


def _record(context: Context, report: dict[str, Any], seconds: float, workers: int) -> None:
    megabytes = report["bytes"]["read"] / 1e6
    context.record |= {
        "megabytes_per_second": round(megabytes / max(seconds, 1e-9), 2),
        "documents_per_second": round(report["documents"]["read"] / max(seconds, 1e-9), 1),
        "workers": workers,
    }
