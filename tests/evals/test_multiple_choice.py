"""Multiple-choice and cloze tasks: token boundaries, metrics, refusals, and chance level of a random model."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from vita.data.sources.benchmark_rows import BenchmarkRow
from vita.evals.multiple_choice import answer, by_group, encode_pair, metrics
from vita.evals.task import Cloze, MultipleChoice
from vita.evals.tasks import TASKS, items
from vita.spine.errors import ConfigError, DataError

BEGIN = 0


def encode_words(text: str) -> list[int]:
    """Encode one token per character, with a space and the following letter as one token."""
    ids: list[int] = []
    for letter in text:
        if ids and ids[-1] == ord(" "):
            ids[-1] = 1000 + ord(letter)
        else:
            ids.append(ord(letter))
    return ids


@dataclass(frozen=True)
class Score:
    logprob: float
    greedy: bool


class FixedLogprobModel:
    """A model with a fixed log-probability for each id, independent of the context; the default is -1."""

    def __init__(self, logprobs: dict[int, float], *, greedy: bool = False) -> None:
        self.logprobs, self.greedy = logprobs, greedy

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
        return [Score(sum(self.logprobs.get(token, -1.0) for token in after), self.greedy) for _, after in pairs]


class RandomModel:
    """A model with a random log-probability for every token."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
        return [Score(sum(-self.random.expovariate(1.0) for _ in after), False) for _, after in pairs]


def test_trailing_spaces_of_the_context_are_part_of_the_continuation() -> None:
    assert encode_pair("ab ", "cd", encode=encode_words, prefix=BEGIN) == encode_pair(
        "ab", " cd", encode=encode_words, prefix=BEGIN
    )
    assert encode_pair("ab", " cd", encode=encode_words, prefix=BEGIN) == ([97, 98], [1000 + 99, 100])


def test_an_empty_context_becomes_the_document_token() -> None:
    assert encode_pair("", "ab", encode=encode_words, prefix=BEGIN) == ([0], [97, 98])


def test_the_three_accuracies_can_choose_different_options() -> None:
    # sums -2, -2.7, -2.4; per character -2, -1.35, -0.8; per byte -2, -0.675, -0.8
    options = (("q", "a"), ("q", "éé"), ("q", "bcd"))
    logprobs = {ord("a"): -2.0, ord("é"): -1.35, ord("b"): -0.8, ord("c"): -0.8, ord("d"): -0.8}
    item = MultipleChoice(options, gold=1, texts=("a", "éé", "bcd"))
    (outcome,) = answer(FixedLogprobModel(logprobs), [item], encode=encode_words, prefix=BEGIN, context=16)
    assert outcome.logprobs == pytest.approx((-2.0, -2.7, -2.4))
    assert outcome.correct == {"acc": False, "acc_norm": False, "acc_bytes": True}
    assert outcome.chance == pytest.approx(1 / 3)


def test_a_cloze_has_greedy_accuracy_and_perplexity() -> None:
    cloze = [Cloze("a b", " cd", id="1"), Cloze("a", " cde", id="2")]
    outcomes = answer(FixedLogprobModel({}, greedy=True), cloze, encode=encode_words, prefix=BEGIN, context=16)
    cloze_metrics = metrics(outcomes)
    assert cloze_metrics["acc"].value == 1.0
    assert cloze_metrics["perplexity"].value == pytest.approx(math.exp(2.5))  # two tokens and three, one nat each


def test_long_items_are_truncated_on_the_left_and_marked() -> None:
    class RecordingModel(FixedLogprobModel):
        def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
            self.scored_pairs = list(pairs)
            return super().score(pairs)

    model = RecordingModel({})
    short, truncated, long = answer(
        model,
        [Cloze("abc", "d"), Cloze("abcdefgh", "xy"), Cloze("ab", "mnopqrs")],
        encode=encode_words,
        prefix=BEGIN,
        context=4,
    )
    assert not short.cut and truncated.cut and long.cut
    assert model.scored_pairs[1] == ([102, 103, 104], [120, 121])
    assert model.scored_pairs[2:] == [([98], [109, 110, 111, 112]), ([111, 112], [113, 114, 115])]
    assert long.logprobs == (-7.0,)


def test_a_random_model_scores_near_chance() -> None:
    texts = ("one", "two", "six", "ten")
    choice_items = [
        MultipleChoice(tuple(("q", " " + text) for text in texts), index % 4, texts, id=str(index))
        for index in range(400)
    ]
    choice_metrics = metrics(answer(RandomModel(0), choice_items, encode=encode_words, prefix=BEGIN, context=16))
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert choice_metrics[name].low < 0.25 < choice_metrics[name].high


def test_groups_are_counted_separately() -> None:
    pair = (("", "ab"), ("", "abc"))
    outcomes = answer(
        FixedLogprobModel({}),
        [MultipleChoice(pair, 0, group="x"), MultipleChoice(pair, 1, group="y")],
        encode=encode_words,
        prefix=BEGIN,
        context=8,
    )
    assert {group: interval.value for group, interval in by_group(outcomes).items()} == {"x": 1.0, "y": 0.0}


ROWS = {
    "arc_easy": {"query": "Question: Why?", "choices": ["So.", "No."], "gold": 1},
    "piqa": {"query": "Question: Sit.\n", "choices": ["Chair.", "Soup."], "gold": 0},
    "hellaswag": {"query": "A man sits. He", "choices": ["stands.", "flies."], "gold": 0},
    "multiple_choice": {"query": "It rained, so", "choices": ["we ran.", "we dried."], "gold": 0},
    "winogrande": {"context_options": ["Al met Bo, so Al", "Al met Bo, so Bo"], "continuation": "left.", "gold": 0},
    "blimp": {"UID": "a", "pairID": "0", "field": "syntax", "sentence_good": "He is.", "sentence_bad": "He are."},
    "lambada": {"context": "I saw the", "continuation": "cat"},
}


def write_rows(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_bytes(gzip.compress(b"".join(orjson.dumps(row) + b"\n" for row in rows)))
    return str(path)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_task_reads_its_rows(name: str, tmp_path: Path) -> None:
    (item,) = items(name, write_rows(tmp_path / "rows.jsonl.gz", [ROWS[name]]))
    assert TASKS[name].__doc__
    if isinstance(item, MultipleChoice):
        assert all(not context.endswith(" ") and continuation for context, continuation in item.options)


def test_contexts_and_continuations_are_joined_as_in_the_harness() -> None:
    def options(name: str) -> object:
        item = TASKS[name](BenchmarkRow(ROWS[name], "here"))
        return item.options if isinstance(item, MultipleChoice) else (item.context, item.continuation)

    assert options("arc_easy") == (("Question: Why?\nAnswer:", " So."), ("Question: Why?\nAnswer:", " No."))
    assert options("piqa") == (("Question: Sit.\nAnswer:", " Chair."), ("Question: Sit.\nAnswer:", " Soup."))
    assert options("winogrande") == (("Al met Bo, so Al", " left."), ("Al met Bo, so Bo", " left."))
    assert options("blimp") == (("", "He is."), ("", "He are."))
    assert options("lambada") == ("I saw the", " cat")


def test_a_limit_samples_the_same_items_for_every_model(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl.gz", [{**ROWS["hellaswag"], "query": f"{n}"} for n in range(50)])
    first = items("hellaswag", path, limit=10, seed=1)
    assert first == items("hellaswag", path, limit=10, seed=1)
    assert len(first) == 10 and first != items("hellaswag", path, limit=10, seed=2)
    assert len({item.id for item in first}) == 10


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "rows.jsonl.gz, row 1: gold: expected 0 to 1, got 2"),
        ({"query": "a", "choices": ["b"], "gold": 0}, "choices: expected two or more texts"),
        ({"query": 3, "choices": ["b", "c"], "gold": 0}, "query: expected text, got 3"),
        ({"query": "a", "choices": ["b", "c"]}, "gold: expected a whole number, got None"),
    ],
)
def test_an_invalid_row_is_refused_with_its_line(row: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        items("multiple_choice", write_rows(tmp_path / "rows.jsonl.gz", [row]))


def test_unreadable_files_are_refused_with_a_clear_message(tmp_path: Path) -> None:
    damaged = tmp_path / "rows.jsonl.gz"
    damaged.write_bytes(gzip.compress(b'{"query": "a"}\n' * 1000)[:30])
    with pytest.raises(DataError, match="rows.jsonl.gz"):
        items("piqa", str(damaged))
    with pytest.raises(DataError, match="no such file"):
        items("piqa", str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match="expected one item a row, got"):
        items("piqa", write_rows(tmp_path / "empty.jsonl.gz", []))
    with pytest.raises(DataError, match="row 1: expected a row of a benchmark"):
        (tmp_path / "list.jsonl").write_text("[1]\n")
        items("piqa", str(tmp_path / "list.jsonl"))


def test_an_unknown_task_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `hellaswag`"):
        items("helaswag", str(tmp_path))
