"""Pretraining batches: every token is used, and the order does not depend on the number of processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vita.data.records import Document
from vita.data.tokens.loader import Loader, document_ids
from vita.data.tokens.shards import Shards, write_shards
from vita.spine.errors import ConfigError, DataError


def write_stream(folder: Path, lengths: list[int]) -> Shards:
    """Write documents whose tokens are their positions in the stream, so that a batch shows its origin."""
    rows, position = [], 0
    for i, length in enumerate(lengths):
        rows.append((Document(f"d{i}", "", "s"), np.arange(position + 1, position + length + 1)))
        position += length + 1
    return write_shards(folder, rows, vocabulary=10_000, document=9_999, shard_tokens=17)


def stream_positions(ids: np.ndarray, shards: Shards) -> np.ndarray:
    """Return the positions of tokens in the shards, including document tokens."""
    position_of_token = {int(token): position for position, token in enumerate(shards.read(0, shards.tokens))}
    return np.array([[position_of_token[int(token)] for token in row] for row in ids])


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return write_stream(tmp_path, [93])  # one document: the document token and 93 ascending tokens


def test_a_row_is_a_block_and_the_next_token(shards: Shards) -> None:
    loader = Loader(shards, context=10, rows=1, seed=0)
    assert loader.blocks == 10 and loader.steps_per_epoch == 10
    for step in range(10):
        row = stream_positions(loader.batch(step).ids, shards)[0]
        assert row[0] % 10 == 0 and len(row) == 11
        assert row.tolist() == [(row[0] + i) % 94 for i in range(11)], "runs on at the beginning, without padding"


def test_every_token_is_an_input_once_per_epoch(shards: Shards) -> None:
    loader = Loader(shards, context=10, rows=4, seed=5)
    rows = stream_positions(loader.batch_at(0, 30).ids, shards)
    for epoch in range(3):
        counts = Counter(rows[10 * epoch : 10 * (epoch + 1), :-1].flatten().tolist())
        assert set(counts) == set(range(94)) and sum(counts.values()) == 100
        assert sorted(counts.values()) == [1] * 88 + [2] * 6, "only the block that runs on repeats, less than a block"


def test_epochs_differ_in_order_and_block_boundaries(shards: Shards) -> None:
    rows = stream_positions(Loader(shards, context=10, rows=1, seed=5).batch_at(0, 30).ids, shards)
    starts = [rows[10 * epoch : 10 * (epoch + 1), 0].tolist() for epoch in range(3)]
    assert len({tuple(order) for order in starts}) == 3
    assert starts[0] != sorted(starts[0]) and sorted(starts[0]) == list(range(0, 94, 10))
    assert any(start % 10 for start in starts[1] + starts[2])


def test_a_batch_is_a_pure_function_of_the_step(shards: Shards) -> None:
    expected = Loader(shards, context=10, rows=3, seed=1).batch(1000).ids
    loader = Loader(Shards.open(shards.folder), context=10, rows=3, seed=1)
    for step in (5, 0, 2000, 1000):
        batch_ids = loader.batch(step).ids
    assert loader.batch(1000).ids.tolist() == expected.tolist() and batch_ids.dtype == np.int64
    assert Loader(shards, context=10, rows=3, seed=2).batch(1000).ids.tolist() != expected.tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_any_number_of_processes_divides_the_same_step(shards: Shards, world_size: int) -> None:
    loader = Loader(shards, context=10, rows=6, seed=1)
    for step in (0, 1, 7):
        parts = [loader.batch(step, rank=rank, world_size=world_size).ids for rank in range(world_size)]
        assert np.concatenate(parts).tolist() == loader.batch(step).ids.tolist()


def test_a_changed_number_of_rows_continues_at_the_same_position(shards: Shards) -> None:
    expected = Loader(shards, context=10, rows=1, seed=1).batch_at(0, 24).ids
    first_loader = Loader(shards, context=10, rows=4, seed=1)
    second_loader = Loader(shards, context=10, rows=6, seed=1, start=3 * 4)
    batches = [first_loader.batch(step).ids for step in range(3)] + [second_loader.batch(step).ids for step in range(2)]
    assert np.concatenate(batches).tolist() == expected.tolist()


def test_a_corpus_smaller_than_a_block_is_repeated(tmp_path: Path) -> None:
    shards = write_stream(tmp_path, [4])
    loader = Loader(shards, context=12, rows=3, seed=0)
    rows = stream_positions(loader.batch(0).ids, shards)
    assert loader.blocks == 1 and rows.shape == (3, 13)
    assert all(row.tolist() == [(row[0] + i) % 5 for i in range(13)] for row in rows)
    assert sum(span.stop - span.start for span in loader.documents(0)) == 3 * 12


def test_a_step_reports_its_documents(tmp_path: Path) -> None:
    shards = write_stream(tmp_path, [5, 30, 0, 11, 2, 40])
    loader = Loader(shards, context=8, rows=4, seed=3)
    for step in range(10):
        spans = loader.documents(step)
        document_tokens = [token for span in spans for token in shards.read(span.start, span.stop).tolist()]
        assert document_tokens == loader.batch(step).ids[:, :-1].flatten().tolist()
        for span in spans:
            number = int(span.id[1:])
            assert shards.starts[number] <= span.start < span.stop <= shards.starts[number + 1]


def test_documents_are_numbered_inside_each_row() -> None:
    ids = np.array([[5, 0, 6, 7, 0, 0], [0, 1, 2, 3, 4, 5]])
    assert document_ids(ids, separator=0).tolist() == [[0, 1, 1, 1, 2, 3], [1, 1, 1, 1, 1, 1]]


def test_rows_that_processes_cannot_divide_are_refused(shards: Shards) -> None:
    with pytest.raises(ConfigError, match=r"loader\.rows: expected a multiple of the 4 processes, got 6"):
        Loader(shards, context=10, rows=6, seed=1).batch(0, rank=0, world_size=4)
    with pytest.raises(ConfigError, match="context and rows of at least 1"):
        Loader(shards, context=0, rows=6, seed=1)


def test_an_empty_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 tokens to learn from, got 0"):
        Loader(write_stream(tmp_path, []), context=10, rows=1, seed=0)


def test_the_rows_that_use_a_document_are_those_whose_inputs_contain_its_tokens(tmp_path: Path) -> None:
    shards = write_stream(tmp_path, [4, 11, 2, 7, 0, 20])
    loader = Loader(shards, context=7, rows=3, seed=3)
    for span in shards.documents_between(0, shards.tokens):
        expected = []
        for step in range(5):  # more than one epoch, with a block that runs on at the beginning
            for row, ids in enumerate(loader.batch(step).ids.tolist()):
                index = next(index for index, token in enumerate(ids) if token != 9_999)  # others are their positions
                positions = [(ids[index] - index + offset) % shards.tokens for offset in range(7)]
                count = sum(span.start <= position < span.stop for position in positions)
                expected += [(step, row, count)] if count else []
        assert list(loader.uses([span], steps=5)) == expected
        assert loader.steps_with([span], steps=5).tolist() == sorted({step for step, _, _ in expected})
        by_row = [(step, row) for step in range(5) for row, spans in enumerate(loader.documents_by_row(step))
                  if span.id in {part.id for part in spans}]  # fmt: skip
        assert by_row == [(step, row) for step, row, _ in expected]


def test_the_steps_of_many_documents_are_the_union_of_their_steps(tmp_path: Path) -> None:
    shards = write_stream(tmp_path, [4, 11, 2, 7, 0, 20, 3, 9])
    spans = shards.documents_between(0, shards.tokens)
    for context in (3, 7, 200):  # the last one is longer than the stream
        loader = Loader(shards, context=context, rows=1, seed=3)
        for group in (spans[::2], spans[1::3], spans[4:5], spans[::-1], []):
            union = {step for span in group for step in loader.steps_with([span], steps=30).tolist()}
            assert union == {use.step for use in loader.uses(group, steps=30)}
            assert loader.steps_with(group, steps=30).tolist() == sorted(union)
