"""Tasks and ranking: the token boundary, the metrics, refusals, and chance for a model that knows nothing."""

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


def words(text: str) -> list[int]:
    """One token per character, but a space and the letter after it are one."""
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


class Likes:
    """Gives each id its own log-probability, whatever stands before; minus one where none is told."""

    def __init__(self, likes: dict[int, float], *, greedy: bool = False) -> None:
        self.likes, self.greedy = likes, greedy

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
        return [Score(sum(self.likes.get(token, -1.0) for token in after), self.greedy) for _, after in pairs]


class Noise:
    """A random log-probability for every token: a model that knows nothing."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
        return [Score(sum(-self.random.expovariate(1.0) for _ in after), False) for _, after in pairs]


def test_spaces_at_the_end_of_the_context_belong_to_the_continuation() -> None:
    assert encode_pair("ab ", "cd", encode=words, prefix=BEGIN) == encode_pair("ab", " cd", encode=words, prefix=BEGIN)
    assert encode_pair("ab", " cd", encode=words, prefix=BEGIN) == ([97, 98], [1000 + 99, 100])


def test_after_no_context_the_first_token_follows_the_beginning_of_a_document() -> None:
    assert encode_pair("", "ab", encode=words, prefix=BEGIN) == ([0], [97, 98])


def test_sums_characters_and_bytes_can_each_choose_another_option() -> None:
    # sums -2, -2.7, -2.4; per character -2, -1.35, -0.8; per byte -2, -0.675, -0.8
    options = (("q", "a"), ("q", "éé"), ("q", "bcd"))
    likes = {ord("a"): -2.0, ord("é"): -1.35, ord("b"): -0.8, ord("c"): -0.8, ord("d"): -0.8}
    item = MultipleChoice(options, gold=1, texts=("a", "éé", "bcd"))
    (outcome,) = answer(Likes(likes), [item], encode=words, prefix=BEGIN, context=16)
    assert outcome.logprobs == pytest.approx((-2.0, -2.7, -2.4))
    assert outcome.correct == {"acc": False, "acc_norm": False, "acc_bytes": True}
    assert outcome.chance == pytest.approx(1 / 3)


def test_a_cloze_counts_when_greedy_decoding_says_it_and_has_a_perplexity() -> None:
    cloze = [Cloze("a b", " cd", id="1"), Cloze("a", " cde", id="2")]
    outcomes = answer(Likes({}, greedy=True), cloze, encode=words, prefix=BEGIN, context=16)
    found = metrics(outcomes)
    assert found["acc"].value == 1.0
    assert found["perplexity"].value == pytest.approx(math.exp(2.5))  # two tokens and three, one nat each


def test_what_is_too_long_is_cut_from_the_left_and_said() -> None:
    class Notes(Likes):
        def score(self, pairs: Sequence[tuple[list[int], list[int]]], /) -> list[Score]:
            self.seen = list(pairs)
            return super().score(pairs)

    notes = Notes({})
    fits, cut, long = answer(
        notes,
        [Cloze("abc", "d"), Cloze("abcdefgh", "xy"), Cloze("ab", "mnopqrs")],
        encode=words,
        prefix=BEGIN,
        context=4,
    )
    assert not fits.cut and cut.cut and long.cut
    assert notes.seen[1] == ([102, 103, 104], [120, 121])
    assert notes.seen[2:] == [([98], [109, 110, 111, 112]), ([111, 112], [113, 114, 115])]
    assert long.logprobs == (-7.0,)


def test_a_model_that_knows_nothing_scores_near_chance() -> None:
    texts = ("one", "two", "six", "ten")
    unknown = [
        MultipleChoice(tuple(("q", " " + text) for text in texts), index % 4, texts, id=str(index))
        for index in range(400)
    ]
    found = metrics(answer(Noise(0), unknown, encode=words, prefix=BEGIN, context=16))
    for name in ("acc", "acc_norm", "acc_bytes"):
        assert found[name].low < 0.25 < found[name].high


def test_groups_are_counted_apart() -> None:
    pair = (("", "ab"), ("", "abc"))
    outcomes = answer(
        Likes({}),
        [MultipleChoice(pair, 0, group="x"), MultipleChoice(pair, 1, group="y")],
        encode=words,
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
def test_a_row_that_does_not_fit_is_refused_with_its_line(row: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        items("multiple_choice", write_rows(tmp_path / "rows.jsonl.gz", [row]))


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path) -> None:
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


def test_an_unknown_task_answers_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `hellaswag`"):
        items("helaswag", str(tmp_path))
