"""The search of documents with close embeddings equals a plain search over all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from vita.data.curation import semantic_duplicates as module
from vita.data.curation.semantic_duplicates import nearest_kept


def unit(angles: list[float]) -> np.ndarray:
    radians = np.radians(np.array(angles))
    return np.stack([np.cos(radians), np.sin(radians)], 1).astype(np.float32)


def test_the_first_of_close_documents_stays() -> None:
    # cos 10° = 0.985 and cos 20° = 0.940: document 1 is dropped for 0; 2 is close to 1 only, which is not kept.
    search = nearest_kept(unit([0, 10, 20, 90]), threshold=0.95)
    assert search.dropped.tolist() == [False, True, False, False]
    assert search.index.tolist() == [-1, 0, 0, 2]
    assert search.cosine.tolist() == pytest.approx(
        [-1, np.cos(np.radians(10)), 0.93969, np.cos(np.radians(70))], abs=1e-5
    )


def test_references_stay_and_others_are_compared_with_them() -> None:
    search = nearest_kept(unit([0, 1, 2, 80]), threshold=0.99, references=2)
    assert search.dropped.tolist() == [False, False, True, False]
    assert search.index.tolist() == [-1, -1, 1, 1]


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_give_the_result_of_a_search_over_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_DOCUMENTS", block)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 3)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    search = nearest_kept(embeddings, threshold=0.9, references=5)
    kept = list(range(5))
    for row in range(5, 60):
        cosines = np.round([embeddings[row] @ embeddings[other] for other in kept], 5)
        assert search.cosine[row] == pytest.approx(cosines.max(), abs=2e-5)
        assert search.index[row] == kept[int(cosines.argmax())]
        assert search.dropped[row] == (cosines.max() >= 0.9)
        if not search.dropped[row]:
            kept.append(row)
    assert 0 < search.dropped.sum() < 55
