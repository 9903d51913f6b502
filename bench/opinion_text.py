"""Text with opinions for an encoder: reviews, web pages and answers, in lower case and without the test sentences.

    python -m bench.opinion_text --data shared/data --test glue_sst2.jsonl.gz --output opinions

writes `reviews.jsonl` (app, film, product and restaurant reviews of `p3_t0_subset`) and `web.jsonl` (other prompts of
that collection, web pages, instructions, preferences). Punctuation is separated from words, as in SST-2. Answers to
prompts about reviews, which contain the labels, are left out, and so are all prompts of Rotten Tomatoes, the source of
SST-2. A text that shares 8 words in a row with a test sentence is dropped and counted. `spans.jsonl` contains pairs of
neighbouring spans of 5 to 9 words, in random order, for the stage `contrastive`.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import zstandard

PROMPTS = "instruct/p3_t0_subset.jsonl.zst"
WEB = (
    *(f"web/{name}.jsonl.gz" for name in ("c4_sample", "cc_net_sample")),
    *(f"web/dclm_human_quality_{name}_data.jsonl.gz" for name in ("agreement", "majority")),
    *(f"preference/{name}.jsonl.gz" for name in ("hh_rlhf_harmless_base_test", "dpo_en_demo", "kto_en_demo")),
    "preference/nc_alpacaeval_gpt4_prefs.jsonl.zst",
    "preference/finegrained_qa_feedback.jsonl.gz",
    *(f"instruct/{name}.jsonl.gz" for name in ("alpaca_en_demo", "dolly_hhrlhf_small", "gpteacher_roleplay")),
    "redteam/xstest_completions_labelled.jsonl.zst",
    "instruct/sgd_dialogues.jsonl.zst",
)
FILES = ("reviews", "web")
REVIEWS, EXCLUDED = ("imdb", "amazon", "yelp", "app_rev"), "rotten"
MINIMUM_LENGTH = 60
"""Characters from which a line is used."""
GRAM = 8
"""Words in a row that mark a text as a copy of a test sentence."""
WORD = re.compile("[a-z0-9]+")


def separated(text: str) -> str:
    """Return a text in lower case, with punctuation and contracted endings (n't, 's) as words of their own."""
    text = text.lower().replace("\u2019", "'").replace("``", '"').replace("''", '"')
    text = re.sub(r"([a-z])n't\b", r"\1 n't", text)
    text = re.sub(r"'(s|m|d|re|ve|ll)\b", r" '\1", text)
    text = re.sub(r"([^\sa-z0-9'])", r" \1 ", text)
    text = re.sub(r"(?<![a-z])'(?!(s|m|d|re|ve|ll)\b)|'(?=\s|$)", " ' ", text)
    return " ".join(text.split()).replace("< br / >", "").replace("< br >", "")


def read_rows(path: Path) -> Iterator[Any]:
    """Read the rows of a compressed file of JSON lines."""
    with path.open("rb") as file:
        stream = (
            zstandard.ZstdDecompressor().stream_reader(file) if path.suffix == ".zst" else gzip.GzipFile(fileobj=file)
        )
        yield from map(json.loads, io.TextIOWrapper(stream, encoding="utf-8"))


def strings(value: Any) -> Iterator[str]:
    """Return all texts in a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def review(template: str, row: dict[str, str]) -> str:
    """Return the review in a prompt, without the answer."""
    prompt = row["prompt"]
    if template == "app_reviews_generate_review":
        return row["completion"]
    if template.startswith("imdb"):
        questions = (
            r"\n|The following movie review expresses what sentiment\?|How does the viewer feel about the movie\?"
        )
        return max(reversed(re.split(questions, prompt)), key=len)
    if template.startswith("amazon"):
        titled = re.search(r"Title: (.*?)\n(?:Product review|Review): (.*?)(?:\n|$)", prompt, re.DOTALL)
        untitled = re.search(r"Review: (.*?)(?:\n|$)", prompt, re.DOTALL)
        return " . ".join(titled.groups()) if titled else untitled.group(1) if untitled else ""
    if template.startswith("yelp"):
        questions = r"\n(?:===|So I would|Based on that)|Review text:|Review:|On a scale"
        return max(re.split(questions, prompt), key=len)
    quoted = re.search(r'"(.*)"', prompt, re.DOTALL)
    return quoted.group(1) if quoted else prompt


def documents(data: Path) -> Iterator[tuple[str, str]]:
    """Return all texts with the name of their output file."""
    for row in read_rows(data / PROMPTS):
        template = row["template"]
        if template.startswith(REVIEWS):
            yield "reviews", review(template, row)
        elif not template.startswith(EXCLUDED):
            lines = f"{row['prompt']}\n{row['completion']}".split("\n")
            yield from (("web", line) for line in lines if len(line) > MINIMUM_LENGTH)
    for name in WEB:
        for row in read_rows(data / name):
            for text in strings(row):
                yield from (("web", line) for line in text.split("\n") if len(line) >= MINIMUM_LENGTH)


def grams(text: str) -> set[str]:
    """Return all sequences of `GRAM` words."""
    words = WORD.findall(text.lower())
    return {" ".join(words[start : start + GRAM]) for start in range(len(words) - GRAM + 1)}


def write_spans(folder: Path, *, count: int) -> None:
    """Write `count` pairs of neighbouring spans of both files."""
    random, pairs = Random(0), list[tuple[str, str]]()
    for name in FILES:
        for row in map(json.loads, (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()):
            words, start, spans = row["text"].split(), 0, list[str]()
            while start < len(words):
                length = random.randint(5, 9)
                spans.append(" ".join(words[start : start + length]))
                start += length
            pairs += [pair for pair in pairwise(spans) if pair[0] != pair[1]]
    random.shuffle(pairs)
    rows = ({"anchor": anchor, "positive": positive} for anchor, positive in pairs[:count])
    (folder / "spans.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write both files, and print the numbers of texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=78_000)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    tested: set[str] = set().union(*(grams(row["sentence"]) for row in read_rows(arguments.test)))
    counts, seen = Counter[str](), set[str]()
    files = {name: (arguments.output / f"{name}.jsonl").open("w", encoding="utf-8") for name in FILES}
    for name, text in documents(arguments.data):
        start = text.lower()[:120]
        if start in seen:
            counts["copies"] += 1
        elif grams(text) & tested:
            counts["shared with the test"] += 1
        else:
            files[name].write(json.dumps({"text": separated(text)}) + "\n")
            counts[name] += 1
        seen.add(start)
    for file in files.values():
        file.close()
    write_spans(arguments.output, count=arguments.pairs)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
