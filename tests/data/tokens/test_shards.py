"""Token shards: exact round trips, the document of each token, and refusal of damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vita.data.records import Document
from vita.data.tokens.shards import DocumentSpan, Shards, write_shards
from vita.spine.errors import DataError, StoreError


def write_documents(folder: Path, lengths: list[int], *, vocabulary: int = 1000, shard_tokens: int = 10) -> Shards:
    """Write documents `d0`, `d1`, ... of the given lengths, with tokens from 1 and the document token 0."""
    tokens = iter(range(1, sum(lengths) + 1))
    rows = [
        (Document(f"d{i}", "", f"s{i % 2}", "CC0" if i % 2 else None), np.array([next(tokens) for _ in range(length)]))
        for i, length in enumerate(lengths)
    ]
    return write_shards(folder, rows, vocabulary=vocabulary, document=0, tokenizer="digest", shard_tokens=shard_tokens)


def test_the_stream_contains_each_document_after_its_document_token(tmp_path: Path) -> None:
    shards = write_documents(tmp_path, [2, 0, 3])
    assert shards.read(0, shards.tokens).tolist() == [0, 1, 2, 0, 0, 3, 4, 5]
    assert (shards.tokens, shards.documents, shards.document_token, shards.tokenizer) == (8, 3, 0, "digest")
    assert shards.starts.tolist() == [0, 3, 4, 8]
    shards.verify()


def test_ranges_do_not_depend_on_the_shard_size(tmp_path: Path) -> None:
    lengths = [7, 0, 25, 3, 1, 14]
    single_shard = write_documents(tmp_path / "one", lengths, shard_tokens=10**6)
    assert len(single_shard.index["shards"]) == 1
    for size in (1, 3, 10, 56):
        small_shards = write_documents(tmp_path / str(size), lengths, shard_tokens=size)
        assert [shard["tokens"] for shard in small_shards.index["shards"][:-1]] == [size] * (
            len(small_shards.index["shards"]) - 1
        )
        for start in range(0, single_shard.tokens + 1, 5):
            for stop in range(start, single_shard.tokens + 1, 7):
                assert small_shards.read(start, stop).tolist() == single_shard.read(start, stop).tolist()


def test_documents_cover_every_range(tmp_path: Path) -> None:
    shards = write_documents(tmp_path, [2, 0, 3])
    assert shards.documents_between(1, 6) == [
        DocumentSpan("d0", "s0", None, 1, 3),
        DocumentSpan("d1", "s1", "CC0", 3, 4),
        DocumentSpan("d2", "s0", None, 4, 6),
    ]
    for start in range(shards.tokens):
        for stop in range(start, shards.tokens + 1):
            spans = shards.documents_between(start, stop)
            edges = [start, *(span.stop for span in spans)]
            assert [span.start for span in spans] == edges[:-1] and edges[-1] == stop


def test_documents_are_found_across_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vita.data.tokens.shards._ROWS_AT_ONCE", 4)
    shards = write_documents(tmp_path, [1] * 11)
    assert [span.id for span in shards.documents_between(5, 20)] == [f"d{i}" for i in range(2, 10)]
    assert [span.id for span in shards.documents_between(0, 22)] == [f"d{i}" for i in range(11)]
    assert [span.id for span in shards.documents_between(8, 9)] == ["d4"]


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_tokens_use_two_bytes_for_small_vocabularies(tmp_path: Path, vocabulary: int, dtype: str) -> None:
    ids = np.array([vocabulary - 1, 5], dtype=np.uint32)
    shards = write_shards(tmp_path, [(Document("a", "", "s"), ids)], vocabulary=vocabulary, document=7)
    assert shards.index["dtype"] == dtype and shards.read(0, 3).tolist() == [7, vocabulary - 1, 5]
    assert (tmp_path / "tokens-00000.bin").read_bytes()[:2] == b"\x07\x00", "little-endian on every machine"


def test_the_index_counts_by_source_and_files_are_deterministic(tmp_path: Path) -> None:
    shards = write_documents(tmp_path / "a", [2, 0, 3])
    assert shards.index["sources"] == {
        "s0": {"documents": 2, "tokens": 7},
        "s1": {"documents": 1, "tokens": 1},
    }
    write_documents(tmp_path / "b", [2, 0, 3])
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_no_documents_give_an_empty_stream(tmp_path: Path) -> None:
    shards = write_documents(tmp_path, [])
    assert shards.tokens == shards.documents == 0
    assert shards.read(0, 0).tolist() == [] and shards.documents_between(0, 0) == []
    shards.verify()


def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="document a: expected tokens below the vocabulary of 10, got 10"):
        write_shards(tmp_path, [(Document("a", "", "s"), np.array([3, 10]))], vocabulary=10, document=0)
    with pytest.raises(StoreError, match="holds no token shards"):
        Shards.open(tmp_path)


def test_a_range_outside_the_stream_is_refused(tmp_path: Path) -> None:
    shards = write_documents(tmp_path, [2])
    for read_range in (shards.read, shards.documents_between):
        with pytest.raises(DataError, match="a range within 0 to 3, got 1 to 4"):
            read_range(1, 4)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00001.bin", "starts.bin", "documents.parquet"])
def test_missing_truncated_and_altered_files_are_refused(tmp_path: Path, name: str) -> None:
    write_documents(tmp_path, [4, 9, 1])
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(
        StoreError, match=rf"{name}: expected {len(content):,} bytes, got {len(content) - 1:,} bytes; tokenize"
    ):
        Shards.open(tmp_path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shards = Shards.open(tmp_path)
    with pytest.raises(StoreError, match=rf"{name}: was altered"):
        shards.verify()
    path.unlink()
    with pytest.raises(StoreError, match=rf"{name}: is missing"):
        Shards.open(tmp_path)


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    write_documents(tmp_path, [4])
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "format": 99}))
    with pytest.raises(StoreError, match="expected token shards of format 1, got 99"):
        Shards.open(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        Shards.open(tmp_path)
    with pytest.raises(StoreError, match=r"index\.json is missing.; `vita tokenize`"):
        Shards.open(tmp_path / "nowhere")


def test_a_document_keeps_its_rights_and_the_files_with_its_tokens(tmp_path: Path) -> None:
    metadata = {"robots": "noindex, noai", "consent": True}
    documents = [Document("d0", "", "s", "CC0"), Document("d1", "", "s", None, metadata)]
    rows = zip(documents, [np.arange(1, 13), np.arange(1, 5)], strict=True)
    shards = write_shards(tmp_path, rows, vocabulary=1000, document=0, shard_tokens=10)
    first, second = shards.documents_between(0, shards.tokens)
    assert (first.licence, first.robots, first.opt_out, first.consent) == ("CC0", None, None, None)
    assert (second.robots, second.opt_out, second.consent) == ("noindex, noai", True, "given")
    assert shards.files_of([first]) == ["tokens-00000.bin", "tokens-00001.bin"]
    assert shards.files_of([second]) == ["tokens-00001.bin"]
