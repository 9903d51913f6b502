"""Needles in long texts, and the loss by position."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from vita.data.records import Document
from vita.evals.needle import NeedleSettings, figures, find_needles, needle_map
from vita.evals.position_loss import bits_by_position, long_documents, position_ranges, range_name, score_positions
from vita.spine.errors import ConfigError
from vita.testing import byte_tokenizer

TOKENIZER = byte_tokenizer()


class Reader:
    """An engine that finds needles in the last `sight` tokens of a prompt."""

    def __init__(self, sight: int, context: int = 1024) -> None:
        self.sight, self.tokenizer = sight, TOKENIZER
        self.model = SimpleNamespace(architecture=SimpleNamespace(context=context))
        self.prompts: list[str] = []

    def text_ids(self, text: str) -> list[int]:
        return [self.tokenizer.document, *self.tokenizer.encode(text)]

    def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
        texts = [self.tokenizer.decode(ids[1:]) for ids in prompts]
        self.prompts += texts
        assert all(len(ids) + sampling.max_tokens <= 1024 for ids in prompts)
        answers = []
        for text in texts:
            city = re.findall(r"secret number of (\w+) is$", text)[0]
            matches = re.findall(rf"secret number of {city} is (\d+)", text[-self.sight :])
            answers.append(SimpleNamespace(text=f" {matches[0]}." if matches else " 12."))
        return answers


def find(reader: Reader, **settings: Any) -> Any:
    engine: Any = reader
    return find_needles(engine, NeedleSettings.model_validate(settings), as_chat=False, seed=0)


def test_needles_are_placed_at_every_depth_of_every_length() -> None:
    reader = Reader(sight=10_000)
    results = find(reader, lengths=[256, 1024], samples=2)
    assert len(results) == 2 * 5 * 2 and all(result.correct for result in results)
    depths = [text.index("secret number") / len(text) for text in reader.prompts[10:]]
    for index, depth in enumerate((0, 0.25, 0.5, 0.75, 1)):
        assert all(abs(matches - depth * 0.93) < 0.07 for matches in depths[2 * index : 2 * index + 2])
    assert all(900 < len(text) <= 1024 - 24 for text in reader.prompts[10:])


def test_a_model_that_sees_the_end_of_the_text_only_finds_no_early_needles() -> None:
    results = find(Reader(sight=300), samples=4)
    rows = figures(results)
    assert set(rows) == {"needle", "256 tokens", "512 tokens", "1024 tokens"}
    assert rows["256 tokens"]["accuracy"].value == 1
    assert rows["1024 tokens"]["accuracy/depth 0%"].value == 0 < rows["1024 tokens"]["accuracy/depth 100%"].value
    assert rows["1024 tokens"]["accuracy/depth 0%"].n == 4
    chart = needle_map(results).svg
    assert chart.count("<rect") == 3 * 5 and "length of the text in tokens" in chart


def test_a_length_beyond_the_context_and_one_without_room_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 1024"):
        find(Reader(sight=1), lengths=[2048])
    with pytest.raises(ConfigError, match="do not hold the needle"):
        find(Reader(sight=1), lengths=[40])


def test_the_needle_of_a_world_is_one_of_its_facts() -> None:
    class Silent(Reader):
        def generate(self, prompts: Sequence[list[int]], sampling: Any) -> list[Any]:
            self.prompts += [self.tokenizer.decode(ids[1:]) for ids in prompts]
            return [SimpleNamespace(text=text.splitlines()[0][-1]) for text in self.prompts]

    results = find(reader := Silent(sight=0), lengths=[512], samples=1, depths=[0.5], world={"things": 40})
    assert results[0].expected in reader.prompts[0] and reader.prompts[0].endswith("?") and not results[0].correct


def test_the_loss_by_position_is_the_mean_of_the_bits_in_each_range() -> None:
    assert [range_name(positions) for positions in position_ranges(100)] == ["0-31", "32-63", "64-99"]

    class Scorer:
        def score(self, pairs: Sequence[Any]) -> list[Any]:
            import math

            bits = [[4.0] * 32 + [2.0] * (len(ids) - 32) for _, ids in pairs]
            return [SimpleNamespace(logprobs=tuple(-bit * math.log(2) for bit in row)) for row in bits]

    documents = [Document(str(length), "x" * length, "test") for length in (20, 100, 300, 128)]
    texts = long_documents(documents, encode=TOKENIZER.encode, length=100, limit=10)
    assert [(name, len(ids)) for name, ids in texts] == [("100", 100), ("300", 100), ("128", 100)]
    intervals = bits_by_position(score_positions(Scorer(), texts, prefix=0))
    assert {name: round(interval.value, 9) for name, interval in intervals.items()} == {
        "0-31": 4.0, "32-63": 2.0, "64-99": 2.0,
    }  # fmt: skip
