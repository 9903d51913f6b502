"""Mixtures of sources: quotas worked out by hand, and rows that are exact, reproducible and traceable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vita.data.records import Document
from vita.data.tokens.mixture import Mixture, MixturePhase, plan_quotas
from vita.data.tokens.mixture_loader import MixtureLoader, interleave, make_loader
from vita.data.tokens.shards import Shards, write_shards
from vita.spine.config import Settings, build
from vita.spine.errors import ConfigError


class Mixed(Settings):
    """A stage with a mixture."""

    mixture: Mixture


def mixture(value: Any) -> tuple[MixturePhase, ...]:
    return build(Mixed, {"mixture": value}, where="pretrain").mixture


def quotas(value: Any, sizes: dict[str, int], *, sequences: int) -> list[list[int]]:
    """Return the quotas of rows of 10 tokens."""
    return plan_quotas(mixture(value), sizes, context=10, rows=1, steps=sequences).tolist()


@pytest.mark.parametrize(
    ("value", "sizes", "sequences", "expected"),
    [
        ({"weights": {"a": 3, "b": 1}}, {"a": 100, "b": 100}, 40, [30, 10]),
        # 7 * 3/5 = 4.2 and 7 * 2/5 = 2.8: the larger remainder gets the last sequence.
        ({"weights": {"a": 3, "b": 2}}, {"a": 100, "b": 100}, 7, [4, 3]),
        ({"weights": {"a": 1, "b": 0}}, {"a": 100, "b": 100}, 7, [7, 0]),
        # sqrt(900) : sqrt(100) = 3 : 1
        ({"temperature": 2}, {"a": 900, "b": 100}, 40, [30, 10]),
        ({"temperature": 1}, {"a": 900, "b": 100}, 40, [36, 4]),
        # b stays at 2 epochs of 100 tokens, 20 sequences; 30 would be its share.
        ({"method": "unimax", "max_epochs": 2}, {"a": 1000, "b": 100}, 60, [40, 20]),
        # Chung et al. 2023, algorithm 1, one epoch and 600 tokens: 600/3 > 50; 550/2 > 100; the rest is 450.
        ({"method": "unimax", "max_epochs": 1}, {"a": 50, "b": 1000, "c": 100}, 60, [5, 45, 10]),
        ("unimax", {"a": 20, "b": 1000}, 60, [8, 52]),
        # 30 and 10 without limits; 120 tokens of a, and the rest of b.
        ({"weights": {"a": 3, "b": 1}, "max_tokens": {"a": 120}}, {"a": 100, "b": 900}, 40, [12, 28]),
    ],
)
def test_the_quota_of_each_source(value: Any, sizes: dict[str, int], sequences: int, expected: list[int]) -> None:
    assert quotas(value, sizes, sequences=sequences) == [expected]


def test_limits_count_the_tokens_of_earlier_phases() -> None:
    phases = [{"weights": {"a": 1, "b": 1}, "until": 0.25}, {"weights": {"a": 1, "b": 3}, "max_epochs": 1}]
    # 10 sequences: 5 and 5. Then 30: 7.5 and 22.5, but one epoch of b has 20, of which 5 are used.
    assert quotas(phases, {"a": 1000, "b": 200}, sequences=40) == [[5, 5], [15, 15]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"weights": {"a": 1, "c": 1}}, "pretrain.mixture.weights: `c` is not known here; one of a, b"),
        ({"weights": {"a": 1}}, "has no weight of b; 0 leaves a source out"),
        ({"method": "unimax", "max_epochs": 1}, "takes 600 tokens, and the limits leave 200: a 100, b 100"),
        ({"weights": {"a": 1, "b": 1}, "max_tokens": {"x": 5}}, "max_tokens: `x` is not known here"),
        ({"weights": {"a": 0, "b": 0}}, "one of the weights must be above 0"),
        ({"weights": {"a": 1, "b": 1}, "temperature": 2}, "has one of `weights`, `temperature` and `method: unimax`"),
        ({"method": "unimax", "temperature": 2}, "the method `unimax` has no `temperature`"),
        ([{"temperature": 1, "until": 0.5}], "the last one at 1, not at [0.5]"),
    ],
)
def test_a_mixture_that_cannot_be_realized_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        quotas(value, {"a": 100, "b": 100}, sequences=60)
    assert message in str(error.value)


def test_the_rows_of_a_source_are_evenly_spaced() -> None:
    assert interleave(np.array([2, 4, 0])).tolist() == [1, 0, 1, 1, 0, 1]


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Return documents of two sources whose tokens are their positions: 96 tokens of a and 40 of b, alternating."""
    rows, position = [], 0
    for number, (source, length) in enumerate([("a", 47), ("b", 19), ("a", 47), ("b", 19)]):
        rows.append((Document(f"d{number}", "", source), np.arange(position + 1, position + length + 1)))
        position += length + 1
    return write_shards(tmp_path, rows, vocabulary=10_000, document=9_999, shard_tokens=17)


def loader_of(shards: Shards, value: Any, *, rows: int = 4, steps: int = 12) -> MixtureLoader:
    loader = make_loader(shards, mixture(value), context=8, rows=rows, steps=steps, seed=3)
    assert isinstance(loader, MixtureLoader)
    return loader


def test_an_epoch_of_each_source_has_each_of_its_tokens_once(shards: Shards) -> None:
    # 12 and 5 blocks in an epoch; of 34 rows, 24 and 10 are two epochs.
    loader = loader_of(shards, {"temperature": 1}, rows=1, steps=34)
    assert loader.quotas.tolist() == [[24, 10]]
    counts = Counter(token for span in loader.documents_at(0, 34) for token in range(span.start, span.stop))
    assert set(counts) == set(range(136)) and set(counts.values()) == {2}
    assert loader.realized(34) == [
        {"source": "a", "available_tokens": 96, "tokens": 192, "share": 0.705882, "epochs": 2.0},
        {"source": "b", "available_tokens": 40, "tokens": 80, "share": 0.294118, "epochs": 2.0},
    ]


def test_phases_change_the_shares_and_every_row_has_one_source(shards: Shards) -> None:
    loader = loader_of(shards, [{"weights": {"a": 1, "b": 0}, "until": 0.5}, {"weights": {"a": 1, "b": 3}}])
    assert [(row["share_in_phase_1"], row["share_in_phase_2"]) for row in loader.realized(12)] == [(1, 0.25), (0, 0.75)]
    for step in range(12):
        spans = loader.documents(step)
        tokens = [token for span in spans for token in shards.read(span.start, span.stop).tolist()]
        assert tokens == loader.batch(step).ids[:, :-1].flatten().tolist(), "spans name positions in the shards"
        sizes = Counter({"a": 0, "b": 0})
        for span in spans:
            sizes[span.source] += span.stop - span.start
        assert dict(sizes) == ({"a": 32, "b": 0} if step < 6 else {"a": 8, "b": 24})


def test_the_order_is_a_pure_function_of_the_step_for_any_number_of_processes(shards: Shards) -> None:
    first, second = (loader_of(shards, "unimax") for _ in range(2))
    for step in (11, 0, 5):
        parts = [second.batch(step, rank=rank, world_size=2).ids for rank in range(2)]
        assert np.concatenate(parts).tolist() == first.batch(step).ids.tolist()
    with pytest.raises(ConfigError, match="expected a step of the 12 planned ones"):
        first.batch(12)


def test_documents_that_no_step_reads_are_known(shards: Shards) -> None:
    loader = loader_of(shards, [{"weights": {"a": 1, "b": 0}, "until": 0.5}, {"weights": {"a": 0, "b": 1}}])
    spans = shards.documents_between(0, shards.tokens)
    for span in spans:
        reading = [step for step in range(12) if span.id in {other.id for other in loader.documents(step)}]
        for steps in range(13):
            expected = [step for step in reading if 2 <= step < steps]
            assert loader.steps_with([span], steps=steps, first=2).tolist() == expected, (span, steps)
