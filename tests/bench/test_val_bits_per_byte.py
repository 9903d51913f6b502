"""The protocol by which every system's bits per byte are measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import zstandard

from bench.val_bits_per_byte import OPENINGS, bits_per_byte, cut, texts, torch_score


def letters(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


def uniform(vocabulary: int):
    return lambda windows: [(len(window) - 1) * math.log(vocabulary) for window in windows]


def test_a_uniform_guess_over_256_bytes_costs_eight_bits_a_byte():
    result = bits_per_byte(["héllo", "a" * 10], uniform(256), encode=letters, document=0, context=4)
    assert result.bits_per_byte == pytest.approx(8)
    assert result.scored_tokens == result.scored_bytes == 16
    assert result.low == pytest.approx(8)
    assert result.high == pytest.approx(8)


def test_bits_are_summed_before_they_are_divided():
    def score(windows: list[list[int]]) -> list[float]:
        return [math.log(2) * (6 if len(window) == 3 else 8) for window in windows]

    assert bits_per_byte(["ab", "abcd"], score, encode=letters, document=0, context=9).bits_per_byte == 14 / 6


def test_windows_open_with_the_document_token():
    assert list(cut([1, 2, 3, 4, 5], document=0, context=2)) == [[0, 1, 2], [0, 3, 4], [0, 5]]


def test_carried_windows_open_with_the_token_before_them():
    assert list(cut([1, 2, 3, 4, 5], document=0, context=2, opening="carried")) == [[0, 1, 2], [2, 3, 4], [4, 5]]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("length", [0, 1, 6, 7])
def test_every_token_is_scored_once(opening, length):
    ids = list(range(1, length + 1))
    windows = cut(ids, document=0, context=3, opening=opening)
    assert [token for window in windows for token in window[1:]] == ids


def test_padding_a_batch_changes_no_score():
    table = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))

    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        return table[ids].cumsum(1)

    windows = [[0, 3], [0, 1, 2, 3, 4, 5, 6], [8, 7, 6]]
    together = torch_score(logits_of)(windows)
    alone = [torch_score(logits_of)([window])[0] for window in windows]
    by_hand = -torch.log_softmax(table[[0]].cumsum(0), -1)[0, 3].item()
    assert together == pytest.approx(alone)
    assert together[0] == pytest.approx(by_hand)


def test_documents_are_read_with_their_line_ends_as_they_are(tmp_path: Path):
    rows = [{"text": "one\r\ntwo\u2028three"}, {"text": "four"}]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data))
    assert texts(tmp_path / "a.jsonl.zst") == ["one\r\ntwo\u2028three", "four"]
    assert texts(tmp_path / "a.jsonl.zst", limit=1) == ["one\r\ntwo\u2028three"]
