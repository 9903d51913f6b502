"""The protocol for bits per byte of any system."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import zstandard

from bench.val_bits_per_byte import OPENINGS, bits_per_byte, cut_windows, texts, torch_score


def encode_bytes(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


def uniform(vocabulary: int):
    return lambda windows: [(len(window) - 1) * math.log(vocabulary) for window in windows]


def test_a_uniform_model_over_256_bytes_has_eight_bits_per_byte():
    result = bits_per_byte(["héllo", "a" * 10], uniform(256), encode=encode_bytes, document=0, context=4)
    assert result.bits_per_byte == pytest.approx(8)
    assert result.scored_tokens == result.scored_bytes == 16
    assert result.low == pytest.approx(8)
    assert result.high == pytest.approx(8)


def test_bits_are_summed_before_the_division():
    def score(windows: list[list[int]]) -> list[float]:
        return [math.log(2) * (6 if len(window) == 3 else 8) for window in windows]

    assert bits_per_byte(["ab", "abcd"], score, encode=encode_bytes, document=0, context=9).bits_per_byte == 14 / 6


def test_windows_open_with_the_document_token():
    assert list(cut_windows([1, 2, 3, 4, 5], document=0, context=2)) == [[0, 1, 2], [0, 3, 4], [0, 5]]


def test_carried_windows_open_with_the_previous_token():
    assert list(cut_windows([1, 2, 3, 4, 5], document=0, context=2, opening="carried")) == [
        [0, 1, 2],
        [2, 3, 4],
        [4, 5],
    ]


@pytest.mark.parametrize("opening", OPENINGS)
@pytest.mark.parametrize("length", [0, 1, 6, 7])
def test_every_token_is_scored_once(opening, length):
    ids = list(range(1, length + 1))
    windows = cut_windows(ids, document=0, context=3, opening=opening)
    assert [token for window in windows for token in window[1:]] == ids


def test_padding_does_not_change_scores():
    table = torch.randn(9, 9, generator=torch.Generator().manual_seed(0))

    def logits_of(ids: torch.Tensor) -> torch.Tensor:
        return table[ids].cumsum(1)

    windows = [[0, 3], [0, 1, 2, 3, 4, 5, 6], [8, 7, 6]]
    batch_scores = torch_score(logits_of)(windows)
    single_scores = [torch_score(logits_of)([window])[0] for window in windows]
    expected = -torch.log_softmax(table[[0]].cumsum(0), -1)[0, 3].item()
    assert batch_scores == pytest.approx(single_scores)
    assert batch_scores[0] == pytest.approx(expected)


def test_line_ends_of_documents_are_kept(tmp_path: Path):
    rows = [{"text": "one\r\ntwo\u2028three"}, {"text": "four"}]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data))
    assert texts(tmp_path / "a.jsonl.zst") == ["one\r\ntwo\u2028three", "four"]
    assert texts(tmp_path / "a.jsonl.zst", limit=1) == ["one\r\ntwo\u2028three"]
