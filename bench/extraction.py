"""Extraction of the main text of web pages: F1 on reference pages, and pages per CPU second.

    python -m bench.extraction --data ../shared/data/web --rounds 3

Two sets of pages with reference text are used. Articles (article-extraction-benchmark of Scrapinghub): F1 of shingles
of four words, each page with the same weight. Segments (the evaluation of trafilatura): texts that must, and that must
not, be in the extraction. The CPU seconds of Vita include its extraction process.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import zstandard

from bench.figures import Figure, figure, report
from bench.rounds import Contender, Result, in_turns, installed

Extract = Callable[[str], str]
ARTICLES = "html_article_extraction_benchmark.jsonl.zst"
SEGMENTS = "html_trafilatura_eval.jsonl.zst"
_WORD = re.compile(r"\w+")
_SHINGLE_WORDS = 4
_RESAMPLES = 1000


def vita(tool: str) -> Extract:
    """Extract with the process of Vita."""
    from vita.data.extraction.extractor import Failure, extractor_for
    from vita.data.extraction.limits import ExtractionSettings

    extractor = extractor_for(ExtractionSettings.model_validate({"tool": tool}))

    def extract(page: str) -> str:
        result = extractor.extract("html", page.encode())
        return "" if isinstance(result, Failure) else result.text

    return extract


def trafilatura(fast: bool) -> Extract:
    """Extract with trafilatura, without comments, as Vita does."""
    from trafilatura import extract

    return lambda page: extract(page, include_comments=False, fast=fast) or ""


def resiliparse() -> Extract:
    """Extract with resiliparse."""
    from resiliparse.extract.html2text import extract_plain_text

    return lambda page: extract_plain_text(page, main_content=True)


EXTRACTORS: dict[str, Callable[[], Extract]] = {
    "vita": partial(vita, "trafilatura"),
    "vita resiliparse": partial(vita, "resiliparse"),
    "trafilatura": partial(trafilatura, False),
    "trafilatura fast": partial(trafilatura, True),
    "resiliparse": resiliparse,
}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the pages of a file."""
    data = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
    return map(orjson.loads, data.splitlines())


def _shingles(text: str) -> Counter[tuple[str, ...]]:
    words = _WORD.findall(text)
    starts = range(max(1, len(words) - _SHINGLE_WORDS + 1)) if words else ()
    return Counter(tuple(words[start : start + _SHINGLE_WORDS]) for start in starts)


Counts = tuple[float, float, float]
"""True positives, false positives, false negatives of a page."""


def article_counts(page: dict[str, Any], text: str) -> Counts:
    """Return the counts of shingles of a page, as shares of their sum."""
    reference, records = _shingles(page["articleBody"]), _shingles(text)
    common = sum((reference & records).values())
    extra, missing = records.total() - common, reference.total() - common
    total = common + extra + missing or 1
    return common / total, extra / total, missing / total


def segment_counts(page: dict[str, Any], text: str) -> Counts:
    """Return the counts of texts that must and must not be extracted."""
    plain = " ".join(text.split())
    wanted, unwanted = ([" ".join(segment.split()) in plain for segment in page[name]] for name in ("with", "without"))
    return float(sum(wanted)), float(sum(unwanted)), float(len(wanted) - sum(wanted))


def f1(counts: list[Counts]) -> float:
    """Return F1 over all pages."""
    positive, extra, missing = map(sum, zip(*counts, strict=True))
    return 2 * positive / (2 * positive + extra + missing)


def worker(name: str, data: Path) -> dict[str, Any]:
    """Return the counts of each page and the pages per CPU second of one tool."""
    extract = EXTRACTORS[name]()
    extract("<html><body><p>The libraries are loaded now.</p></body></html>")
    results: dict[str, Any] = {}
    pages = {"articles": list(rows(data / ARTICLES)), "segments": list(rows(data / SEGMENTS))}
    start = _cpu_seconds()
    texts = {part: [extract(page["html"]) for page in part_pages] for part, part_pages in pages.items()}
    seconds = _cpu_seconds(final=name.startswith("vita")) - start
    for part, count in (("articles", article_counts), ("segments", segment_counts)):
        results[part] = [count(page, text) for page, text in zip(pages[part], texts[part], strict=True)]
    return results | {"pages_per_cpu_second": sum(map(len, pages.values())) / seconds}


def _cpu_seconds(*, final: bool = False) -> float:
    """Return the CPU seconds of this process; at the end also those of its extraction processes."""
    if final:
        from vita.data.extraction.extractor import close_extractors

        close_extractors()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def figures(results: dict[str, list[Result]]) -> list[Figure]:
    """Return F1 with its 95% interval over resampled pages, and the pages per CPU second."""
    lines = []
    for part in ("articles", "segments"):
        for name, tool_results in results.items():
            counts = [tuple(count) for count in tool_results[0][part]]
            sampler = random.Random(0)
            samples = sorted(f1(sampler.choices(counts, k=len(counts))) for _ in range(_RESAMPLES))
            low, high = samples[int(0.025 * _RESAMPLES)], samples[int(0.975 * _RESAMPLES)]
            spread = {"of": "value", "low": round(low, 4), "high": round(high, 4), "pages": len(counts)}
            lines.append(Figure(f"extraction of {part}, {name}", round(f1(counts), 4), "F1", spread=spread))
    speeds = {name: [row["pages_per_cpu_second"] for row in rows] for name, rows in results.items()}
    for name, peer in (("vita", "trafilatura"), ("vita resiliparse", "resiliparse")):
        if name in speeds and peer in speeds:
            line = f"extraction, {name}"
            lines.append(figure(line, speeds[name], unit="pages/CPU-s", peer=peer, peer_values=speeds[peer]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="F1 and speed of the extraction of web pages.")
    parser.add_argument("--data", type=Path, required=True, help=f"the folder of {ARTICLES} and {SEGMENTS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="append the figures to this file")
    parser.add_argument("--worker", choices=list(EXTRACTORS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(worker(arguments.worker, arguments.data)))
        return
    if not installed("trafilatura", "resiliparse"):
        raise SystemExit("the extra `web` is needed")
    call = ["-m", "bench.extraction", "--data", str(arguments.data), "--worker"]
    contenders = {name: Contender([*call, name]) for name in EXTRACTORS}
    report(figures(in_turns(contenders, rounds=arguments.rounds, threads=1)), save=arguments.save)


if __name__ == "__main__":
    main()
