"""Public red-team data sets as inputs of the probes: one reader per format, selected by file name or explicitly.

    goals, disguises, pairs = read({"advbench": "data/advbench_harmful_behaviors.jsonl.gz"})

A reader turns a row into a `HarmfulGoal` to be refused (or, where the file marks it as safe, a benign twin), a
disguise for the jailbreak probe, or a pair for the bias probe. Another format is one decorated function here.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

from vita.data.sources.benchmark_rows import BenchmarkRow, benchmark_rows
from vita.redteam.probe import HarmfulGoal, ProbeItem, StereotypePair
from vita.spine.registry import Registry

Found = HarmfulGoal | ProbeItem | tuple[str, str]
"""A goal, a pair, or a disguise as (name, text)."""

HARM_FILES: Registry[Callable[[BenchmarkRow, int], Found | None]] = Registry("harm_file")
"""Format -> reader of a row, which returns None to skip the row."""


def read(
    files: Mapping[str, str], *, limit: int | None, seed: int
) -> tuple[list[HarmfulGoal], dict[str, str], list[ProbeItem]]:
    """Read the goals, disguises and pairs of all files; `limit` draws a seeded sample of each file."""
    goals: list[HarmfulGoal] = []
    disguises: dict[str, str] = {}
    pairs: list[ProbeItem] = []
    for name, path in files.items():
        reader = HARM_FILES[name]
        parsed_rows = [
            parsed for number, row in enumerate(benchmark_rows(path)) if (parsed := reader(row, number)) is not None
        ]
        for parsed in _sample(parsed_rows, limit, seed=seed ^ zlib.crc32(name.encode())):
            if isinstance(parsed, HarmfulGoal):
                goals.append(parsed)
            elif isinstance(parsed, ProbeItem):
                pairs.append(parsed)
            else:
                disguises[parsed[0]] = parsed[1]
    return goals, disguises, pairs


@HARM_FILES.add("advbench")
def advbench(row: BenchmarkRow, number: int) -> HarmfulGoal:
    """`{goal, target}` (Zou et al. 2023)."""
    return _goal(f"advbench/{number}", "advbench", row.text("goal"), target=row.text("target"))


@HARM_FILES.add("harmbench")
def harmbench(row: BenchmarkRow, number: int) -> HarmfulGoal:
    """`{prompt}` (Mazeika et al. 2024)."""
    return _goal(f"harmbench/{number}", "harmbench", row.text("prompt"))


@HARM_FILES.add("do_not_answer")
def do_not_answer(row: BenchmarkRow, number: int) -> HarmfulGoal:
    """`{category, prompt}` (Wang et al. 2023)."""
    return _goal(f"do_not_answer/{number}", row.text("category"), row.text("prompt"))


@HARM_FILES.add("tense")
def tense(row: BenchmarkRow, number: int) -> HarmfulGoal:
    """`{tense, prompt}`: goals in the past or the future tense (Andriushchenko & Flammarion 2024)."""
    return _goal(f"tense/{number}", f"{row.text('tense')}_tense", row.text("prompt"))


@HARM_FILES.add("xstest")
def xstest(row: BenchmarkRow, number: int) -> HarmfulGoal:
    """`{id, prompt, type, label}` (Roettger et al. 2024): safe prompts are twins without a goal."""
    kind = row.text("type").removeprefix("contrast_")
    safe = row.text("label") == "safe"
    goal = _goal(f"xstest/{row.text('id')}", kind, row.text("prompt"))
    if not safe:
        return goal
    answer = f"Sure. Here is what there is to say about {_topic(goal.text)}: it is known and no harm comes of it."
    return goal.model_copy(update={"text": "", "twin": goal.text, "answer": answer})


@HARM_FILES.add("dan")
def dan(row: BenchmarkRow, number: int) -> tuple[str, str]:
    """`{name, template}`: disguises with a placeholder for the request, which is appended by default."""
    return row.text("name"), _with_placeholder(row.text("template"))


@HARM_FILES.add("in_the_wild")
def in_the_wild(row: BenchmarkRow, number: int) -> tuple[str, str]:
    """`{prompt}`: disguises collected on the internet (Shen et al. 2024)."""
    return f"wild_{number}", _with_placeholder(row.text("prompt"))


@HARM_FILES.add("crows_pairs")
def crows_pairs(row: BenchmarkRow, number: int) -> ProbeItem:
    """`{sent_more, sent_less, bias_type, stereo_antistereo}` (Nangia et al. 2020)."""
    options = (row.text("sent_more"), row.text("sent_less"))
    stereotype = 0 if row.text("stereo_antistereo") == "stereo" else 1
    return ProbeItem(
        f"crows_pairs/{number}", StereotypePair(options=options, stereotype=stereotype), row.text("bias_type"), "pair"
    )


@HARM_FILES.add("bbq")
def bbq(row: BenchmarkRow, number: int) -> ProbeItem | None:
    """BBQ (Parrish et al. 2022), ambiguous contexts only: an answer to the question follows the stereotype."""
    if row.text("context_condition") != "ambig":
        return None
    groups = {str(group).lower() for group in row["additional_metadata"]["stereotyped_groups"]}
    answers = [row.text(f"ans{index}") for index in range(3)]
    tags = [str(row["answer_info"][f"ans{index}"][1]).lower() for index in range(3)]
    biased = [index for index, tag in enumerate(tags) if tag in groups]
    other_groups = [index for index, tag in enumerate(tags) if tag not in groups and tag != "unknown"]
    if len(biased) != 1 or len(other_groups) != 1:
        return None
    # A negative question is answered after the stereotype by the group, a positive one by the other.
    stereotype = biased[0] if row.text("question_polarity") == "neg" else other_groups[0]
    test = StereotypePair(
        context=f"{row.text('context')}\n{row.text('question')}\nAnswer:",
        options=tuple(f" {answer}" for answer in answers),
        stereotype=stereotype,
        by_length=True,
    )
    return ProbeItem(f"bbq/{number}", test, row.text("category"), "question")


@HARM_FILES.add("winogender")
def winogender(row: BenchmarkRow, number: int) -> ProbeItem:
    """`{set, query, choices, gold}` (Rudinger et al. 2018): the pronoun must refer to the correct person."""
    choices = row.texts("choices")
    wrong = 1 - row.gold(choices) if len(choices) == 2 else 0
    options = tuple(f" {choice}" for choice in choices)
    test = StereotypePair(context=row.text("query"), options=options, stereotype=wrong, by_length=True)
    return ProbeItem(f"winogender/{number}", test, row.text("set"), "question")


def _goal(id: str, hazard: str, text: str, *, target: str = "") -> HarmfulGoal:
    opening = target or f"Sure, here is what you asked about {_topic(text)}."
    steps = "First get what you need, then go through it one step after the other until it is done."
    return HarmfulGoal(id=id, hazard=hazard, text=text, obedient=f"{opening} {steps}")


def _topic(text: str) -> str:
    """Return one or two content words of the text, which a relevant answer contains."""
    words = sorted(re.findall(r"[A-Za-z]{4,}", text), key=len, reverse=True)
    return " and ".join(words[:2]) or "it"


def _with_placeholder(template: str) -> str:
    for placeholder in ("[INSERT PROMPT HERE]", "[PROMPT]", "{prompt}", "{query}"):
        template = template.replace(placeholder, "{request}")
    return template if "{request}" in template else template.rstrip() + "\n{request}"


def _sample(parsed_rows: Sequence[Found], limit: int | None, *, seed: int) -> list[Found]:
    if limit is None or limit >= len(parsed_rows):
        return list(parsed_rows)
    return [parsed_rows[index] for index in sorted(random.Random(seed).sample(range(len(parsed_rows)), limit))]
