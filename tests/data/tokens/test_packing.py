"""Packing of dialogues into rows: fill rate, separation, and counted drops."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.dialogue_encoding import EncodedDialogue, encode
from vita.data.tokens.packing import PackedDataset, best_fit_decreasing
from vita.data.tokens.tokenizer import Tokenizer
from vita.spine.errors import ConfigError, DataError


def dialogue(length: int, *, learn: int = 1, first: int = 100) -> EncodedDialogue:
    """Create a dialogue with ascending tokens from `first`, of which the last `learn` are targets."""
    return EncodedDialogue(list(range(first, first + length)), [False] * (length - learn) + [True] * learn)


def test_best_fit_chooses_the_row_with_the_least_remaining_space() -> None:
    # 7 | 6 | 4 -> row of 6 (full) | 3 -> row of 7 (full) | 2 -> a new row
    assert best_fit_decreasing([4, 7, 2, 6, 3], context=10) == [[1, 4], [3, 0], [2]]


def test_every_dialogue_is_in_one_row_within_the_context() -> None:
    random_source = random.Random(0)
    for context in (1, 7, 50):
        lengths = [random_source.randint(1, context) for _ in range(200)]
        rows = best_fit_decreasing(lengths, context=context)
        assert sorted(item for row in rows for item in row) == list(range(200))
        assert all(sum(lengths[item] for item in row) <= context for row in rows)
        assert len(rows) <= 11 / 9 * -(-sum(lengths) // context) + 1, "the bound of Johnson 1973"


def test_a_packed_row_separates_its_dialogues() -> None:
    packing = PackedDataset([dialogue(3, first=10), dialogue(4, learn=2, first=20)], context=9, pad=7)
    batch = packing.take([0])
    assert batch.ids.tolist() == [[20, 21, 22, 23, 10, 11, 12, 7, 7]]
    assert batch.learn.tolist() == [[False, False, True, True, False, False, True, False, False]]
    assert batch.documents.tolist() == [[0, 0, 0, 0, 1, 1, 1, 2, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]
    assert packing.targets == 3 and packing.filled == 7 / 9


def test_the_first_token_of_a_dialogue_is_never_a_target() -> None:
    batch = PackedDataset(
        [EncodedDialogue([1, 2], [True, True]), EncodedDialogue([3, 4], [True, True])], context=4, pad=0
    ).take([0])
    assert batch.learn.tolist() == [[False, True, False, True]]


def test_packed_rows_equal_those_of_trl(shared: Path) -> None:
    """Pack five dialogues and compare with the best-fit-decreasing layout and labels of TRL."""
    from tests.data.tokens.test_chat_template import trl_dialogues

    folder = shared / "parity" / "fixtures"
    tokenizer, template = Tokenizer.load(folder / "model"), ChatTemplate.load(folder / "model")
    encoded = [encode(tokenizer, template, messages) for messages in trl_dialogues()]
    packing = PackedDataset(encoded, context=128, pad=tokenizer.pad)
    lengths = [[len(encoded[item].ids) for item in row] for row in packing.rows]
    assert lengths == json.loads((folder / "parity.json").read_text())["sft_packed"]["seq_lengths"]
    stored = np.load(folder / "parity.npz")
    batch = packing.take(range(len(packing.rows)))
    is_token = np.concatenate([np.arange(128) < sum(row) for row in lengths])
    assert batch.ids.flatten()[is_token].tolist() == stored["sft_packed/input_ids"][0].tolist()
    assert batch.positions.flatten()[is_token].tolist() == stored["sft_packed/position_ids"][0].tolist()
    assert batch.learn.flatten()[is_token].tolist() == (stored["sft_packed/labels"][0] != -100).tolist()


def test_long_dialogues_are_truncated_or_dropped_and_counted() -> None:
    dialogues = [dialogue(4), dialogue(8, learn=7), dialogue(8), dialogue(3, learn=0)]
    truncating = PackedDataset(dialogues, context=5, pad=0)
    assert (truncating.truncated, truncating.dropped) == (1, {"cut_before_answer": 1, "no_target": 1})
    assert truncating.used == [0, 1] and truncating.dialogues == 2
    assert truncating.take([0]).ids[0].tolist() == [100, 101, 102, 103, 104], "the third has no target left"
    dropping = PackedDataset(dialogues, context=5, pad=0, too_long="drop")
    assert (dropping.truncated, dropping.dropped) == (0, {"too_long": 2, "no_target": 1})
    assert dropping.used == [0]


def test_packing_without_targets_is_refused_with_the_counts() -> None:
    with pytest.raises(DataError, match="left to learn from in 4 tokens .1 no_target, 1 too_long"):
        PackedDataset([dialogue(5), dialogue(3, learn=0)], context=4, pad=0, too_long="drop")
    with pytest.raises(DataError, match="no dialogue is left"):
        PackedDataset([], context=4, pad=0)


def test_every_row_is_used_once_per_epoch_in_a_new_order() -> None:
    packing = PackedDataset([dialogue(5, first=10 * i) for i in range(12)], context=5, pad=0)
    orders = [packing.order(12 * epoch, 12, seed=4) for epoch in range(3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert packing.order(7, 10, seed=4) == (orders[0] + orders[1])[7:17]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_processes_divides_the_same_rows(world_size: int) -> None:
    packing = PackedDataset([dialogue(5, learn=1 + i % 3, first=10 * i) for i in range(7)], context=5, pad=0)
    for step in range(4):
        parts = [packing.batch(step, rows=4, seed=0, rank=rank, world_size=world_size) for rank in range(world_size)]
        full_batch = packing.batch(step, rows=4, seed=0)
        assert np.concatenate([part.ids for part in parts]).tolist() == full_batch.ids.tolist()
        assert packing.targets_in(step, rows=4, seed=0) == full_batch.learn.sum()


def test_rows_that_processes_cannot_divide_are_refused() -> None:
    packing = PackedDataset([dialogue(5)], context=5, pad=0)
    with pytest.raises(ConfigError, match=r"packing\.rows: expected a multiple of the 2 processes, got 3"):
        packing.batch(0, rows=3, seed=0, world_size=2)
