"""Files of tokens in the format of llm.c: the exact stream, the documents, and refusal of damaged files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vita.data.tokens import token_files
from vita.data.tokens.shards import write_shards
from vita.data.tokens.token_files import count_tokens, open_token_file, read_documents, write_token_file
from vita.spine.errors import DataError


def test_a_file_has_a_header_of_256_numbers_and_two_bytes_per_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.bin"
    write_token_file(path, [9, 258, 65535])
    data = path.read_bytes()
    # 20240520 = 0x0134D888, little-endian; then version 1, 3 tokens, and 253 zeros
    assert data[:12] == bytes.fromhex("88d83401 01000000 03000000") and data[12:1024] == bytes(1012)
    assert data[1024:] == bytes.fromhex("0900 0201 ffff")
    file = open_token_file(path)
    assert file.tokens == 3 and file.read().tolist() == [9, 258, 65535]
    for tokens in ([], [-1], [65536]):
        with pytest.raises(DataError, match="expected at least one token, each from 0 to 65535"):
            write_token_file(path, tokens)


def test_documents_begin_at_the_document_token_and_keep_the_stream(tmp_path: Path) -> None:
    streams = [[0, 5, 6, 0, 0, 7], [8, 9, 0, 4], [3]]
    for number, stream in enumerate(streams):
        write_token_file(tmp_path / f"{number}.bin", stream)
    files = [open_token_file(tmp_path / f"{number}.bin") for number in range(3)]
    documents = [(document.id, ids.tolist()) for document, ids in read_documents(files, document_token=0, source="web")]
    assert documents == [
        ("0.bin#0", [0, 5, 6]),
        ("0.bin#1", [0]),
        ("0.bin#2", [0, 7]),
        ("1.bin#0", [8, 9]),  # continues the last document of the file before
        ("1.bin#1", [0, 4]),
        ("2.bin#0", [3]),
    ]
    limited = [ids.tolist() for _, ids in read_documents(files, document_token=0, source="web", limit=8)]
    assert limited == [[0, 5, 6], [0], [0, 7], [8, 9]]

    shards = write_shards(
        tmp_path / "shards",
        read_documents(files, document_token=0, source="web", licence="CC0"),
        vocabulary=10,
        document=0,
        add_document_token=False,
    )
    assert shards.read(0, shards.tokens).tolist() == [token for stream in streams for token in stream]
    assert shards.starts.tolist() == [0, 3, 4, 6, 8, 10, 11]
    (span,) = shards.documents_between(6, 8)
    assert (span.id, span.source, span.licence) == ("1.bin#0", "web", "CC0")


def test_tokens_are_counted_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_files, "COUNTED_AT_ONCE", 2)
    write_token_file(tmp_path / "tokens.bin", [1, 3, 3, 0, 1, 3, 7])
    file = open_token_file(tmp_path / "tokens.bin")
    assert count_tokens(file, vocabulary=5, limit=6).tolist() == [1, 2, 0, 3, 0]
    with pytest.raises(DataError, match=r"token 6: expected tokens below the vocabulary of 5, got 7"):
        count_tokens(file, vocabulary=5)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:100], "expected a header of 1024 bytes, got 100 bytes"),
        (lambda data: b"\0\0\0\0" + data[4:], "the magic number 20240520, got 0"),
        (lambda data: data[:4] + b"\2" + data[5:], "expected version 1 of the format, got 2"),
        (lambda data: data[:8] + b"\0" + data[9:], "at least 1 token in the header, got 0"),
        (lambda data: data[:-1], "expected 1,030 bytes for the 3 tokens of its header, got 1,029 bytes"),
        (lambda data: data + b"\0\0", "got 1,032 bytes; download the file again"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "tokens.bin"
    write_token_file(path, np.array([0, 1, 2]))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as refusal:
        open_token_file(path)
    assert refusal.value.where == str(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_token_file(tmp_path / "missing.bin")
