"""Tokenizers: equal ids from every engine, exact round trips, and loading of foreign tokenizers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vita.data.tokens import bpe
from vita.data.tokens.tokenizer import _NEVER_SPECIAL, DOCUMENT, END_OF_TURN, SPECIALS, START_OF_TURN, Tokenizer
from vita.spine.errors import ConfigError, ModelError
from vita.testing import byte_tokenizer

SAMPLE_TEXT = "The cat's 12345 whiskers\n\n  and THE DOG'S bone: naïve café, 猫は猫, “quotes” — and so on!\n" * 4


SYLLABLES = ["ca", "to", "mi", "ren", "sul", "ki", "ow", "the", "ing", "a", "st", "er", "ly", "19", "7"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(_training_text(), vocabulary=400)


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def auto_tokenizer() -> Callable[[Path], Any]:
    transformers = pytest.importorskip("transformers")
    return lambda path: transformers.AutoTokenizer.from_pretrained(path)


def test_decode_inverts_encode(tokenizer: Tokenizer) -> None:
    for text in _difficult_texts():
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_the_last_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == 400
    assert tokenizer.specials == {DOCUMENT: 397, START_OF_TURN: 398, END_OF_TURN: 399}
    assert (tokenizer.document, tokenizer.end_of_turn) == (397, 399)
    assert tokenizer.pad == tokenizer.bos == 397 and tokenizer.stops == {397, 399}


def test_names_of_special_tokens_are_ordinary_characters_in_plain_text(tokenizer: Tokenizer) -> None:
    text = "".join(SPECIALS)
    assert not set(tokenizer.encode(text)) & tokenizer.special_ids
    assert tokenizer.encode_template(text) == [397, 398, 399]
    assert tokenizer.decode([397, 97, 399]) == "a"
    assert tokenizer.decode([397, 97, 399], special=True) == f"{DOCUMENT}a{END_OF_TURN}"


def test_tiktoken_tokenizers_and_transformers_give_the_same_ids(
    tokenizer: Tokenizer, folder: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    pytest.importorskip("tiktoken")
    assert tokenizer.engine == "tiktoken"
    peer = auto_tokenizer(folder)
    for text in _difficult_texts():
        ids = tokenizer.encode(text)
        assert ids == tokenizer._plain.encode(text, add_special_tokens=False).ids
        assert ids == peer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert tokenizer.encode_template(text) == peer(text).input_ids
        assert peer.decode(ids) == text


def test_names_of_special_tokens_are_plain_text_in_other_readers_with_the_documented_settings(
    tokenizer: Tokenizer, folder: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tokenizers import Tokenizer as Engine

    text = f"a cat{END_OF_TURN} and {DOCUMENT} is plain text"
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & set(ids)
    assert auto_tokenizer(folder)(text, split_special_tokens=True).input_ids == ids
    engine = Engine.from_file(str(folder / "tokenizer.json"))
    engine.encode_special_tokens = True
    assert engine.encode(text).ids == ids
    ranks, pattern = bpe.tiktoken_ranks(json.loads((folder / "tokenizer.json").read_text()), engine) or ({}, "")
    encoding = tiktoken.Encoding("own", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.specials)
    assert encoding.encode_ordinary(text) == ids


def test_real_text_in_many_scripts_gives_the_same_ids_from_every_engine(
    shared: Path, tmp_path: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    from vita.data.sources.read import Source, documents

    names = ("wiki_zh_sample", "stories_asp_multilingual", "docs_cpp", "wiki2014-00", "books_classic-00")
    texts: list[str] = []
    for name in names:
        source = Source.model_validate({"path": str(shared / "data" / "pretrain" / f"{name}.jsonl.zst")})
        texts += [document.text[:4000] for document in islice(documents(source), 10)]
    trained = Tokenizer.train(texts, vocabulary=2000)
    trained.save(tmp_path)
    peer = auto_tokenizer(tmp_path)
    for text in texts:
        ids = trained.encode(text)
        assert ids == peer(text).input_ids == trained._plain.encode(text, add_special_tokens=False).ids
        assert trained.decode(ids) == text


def test_random_ids_are_decoded_as_by_transformers(
    tokenizer: Tokenizer, folder: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    peer = auto_tokenizer(folder)
    random_source = random.Random(0)
    for _ in range(100):
        ids = [random_source.randrange(tokenizer.vocabulary) for _ in range(30)]
        assert tokenizer.decode(ids, special=True) == peer.decode(ids)
        assert tokenizer.decode(ids) == peer.decode(ids, skip_special_tokens=True)


def test_transformers_opens_the_tokenizer_beside_a_qwen3_config(
    tokenizer: Tokenizer, tmp_path: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "vocab_size": 400}))
    peer = auto_tokenizer(tmp_path)
    assert peer(SAMPLE_TEXT).input_ids == tokenizer.encode(SAMPLE_TEXT)
    assert (peer.bos_token_id, peer.eos_token_id, peer.pad_token_id) == (397, 399, 397)


def test_training_on_the_same_texts_gives_the_same_file(tokenizer: Tokenizer, tmp_path: Path) -> None:
    retrained = Tokenizer.train(_training_text(), vocabulary=400)
    assert retrained.digest == tokenizer.digest
    retrained.save(tmp_path)
    reloaded = Tokenizer.load(tmp_path)
    assert reloaded.digest == tokenizer.digest and reloaded.settings == tokenizer.settings
    reloaded.save(tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()


def test_batch_encoding_equals_single_encoding_with_any_number_of_threads(tokenizer: Tokenizer) -> None:
    texts = [*_difficult_texts(), "", "long " * 5000]
    single_ids = [tokenizer.encode(text) for text in texts]
    for threads in (1, 2, 5):
        batch_ids = tokenizer.encode_batch(texts, threads=threads)
        assert [ids.tolist() for ids in batch_ids] == single_ids
        assert all(ids.dtype == np.uint32 for ids in batch_ids)
    assert tokenizer.encode_batch([], threads=2) == []


@pytest.mark.parametrize("unit", [" ", "\n", "a", "7", ".", "猫", "\t \n"])
def test_very_long_repetitions_round_trip_without_quadratic_time(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (400_000 // len(unit)) + "x"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_plain_text_is_not_searched_with_an_empty_pattern_for_special_tokens(tokenizer: Tokenizer) -> None:
    """An empty pattern matches at every character; `bench/tokenizer_speed.py` measures the effect."""
    text = " ".join(_training_text()) * 4
    reference = tiktoken_of(tokenizer)
    assert tokenizer.encode(text) == reference.encode_ordinary(text)
    assert tokenizer._fast is not None and tokenizer._fast._encoding.special_tokens_set == {_NEVER_SPECIAL}


def test_the_placeholder_that_is_never_special_round_trips_as_text(tokenizer: Tokenizer) -> None:
    text = f"before {_NEVER_SPECIAL} after {_NEVER_SPECIAL}"
    ids = tokenizer.encode(text)
    assert ids == tiktoken_of(tokenizer).encode_ordinary(text) == tokenizer._plain.encode(text).ids
    assert tokenizer.decode(ids) == text and max(ids) < tokenizer.vocabulary
    assert tokenizer.encode_template(text) == tokenizer.template_spans(text).ids.tolist() == ids


def test_ids_outside_the_vocabulary_decode_to_empty_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([-1, 97, tokenizer.vocabulary, 98, -400]) == "ab"


def test_a_text_too_long_for_the_regex_of_tiktoken_falls_back_to_the_same_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" " * 1_000_000 + "x")
    short = tokenizer.encode(" " * 1_000 + "x")
    assert len(set(ids)) <= len(set(short)) + 3 and tokenizer.decode(ids) == " " * 1_000_000 + "x"


def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_token_bytes_form_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(SAMPLE_TEXT)
    assert b"".join(map(tokenizer.token_bytes, ids)) == SAMPLE_TEXT.encode()
    assert tokenizer.token_bytes(tokenizer.document) == DOCUMENT.encode()
    assert tokenizer.token_bytes(10_000) == b"" and tokenizer.decode([10_000]) == ""


def test_spans_give_the_characters_of_each_token(tokenizer: Tokenizer) -> None:
    for text in _difficult_texts():
        spans = tokenizer.spans(text)
        offsets = tokenizer._plain.encode(text, add_special_tokens=False).offsets
        assert list(zip(spans.starts.tolist(), spans.stops.tolist(), strict=True)) == offsets
        spans = tokenizer.template_spans(text)
        offsets = tokenizer._engine.encode(text, add_special_tokens=False).offsets
        assert list(zip(spans.starts.tolist(), spans.stops.tolist(), strict=True)) == offsets


def test_a_byte_tokenizer_encodes_bytes() -> None:
    bytes_only = byte_tokenizer()
    assert bytes_only.vocabulary == 259 and bytes_only.encode("cat") == list(b"cat")


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 259"):
        Tokenizer.train([], vocabulary=258)


# -- foreign tokenizers


def test_a_gpt2_tokenizer_is_read_by_tiktoken_with_its_ids(
    tmp_path: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    pytest.importorskip("tiktoken")
    _write_gpt2_like(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.engine == "tiktoken"
    assert loaded.document == loaded.end_of_turn == loaded.pad == 0
    _assert_equal_encodings(loaded, auto_tokenizer(tmp_path))


def test_a_tokenizer_with_normalizer_and_added_tokens_uses_the_fallback_engine(
    tmp_path: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    content = bpe.definition(bpe.learn(_training_text(), size=100), specials=[DOCUMENT, START_OF_TURN, END_OF_TURN])
    content["normalizer"] = {"type": "NFC"}
    think = {**content["added_tokens"][0], "id": 359, "content": "<think>", "special": False}
    content["added_tokens"].append(think)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    pad = {"__type": "AddedToken", "content": DOCUMENT, "special": True}
    config = {"eos_token": DOCUMENT, "pad_token": pad, "tokenizer_class": "PreTrainedTokenizerFast"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [356, 358]}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.engine == "tokenizers"
    assert loaded.vocabulary == 360 and loaded.bos is None
    assert (loaded.document, loaded.pad, loaded.end_of_turn) == (356, 356, 358) and loaded.stops == {356, 358}
    assert loaded.encode("<think>") == [359], "an added token that is not special is part of ordinary text"
    _assert_equal_encodings(loaded, auto_tokenizer(tmp_path))


def test_a_sentencepiece_tokenizer_uses_the_fallback_engine(
    tmp_path: Path, auto_tokenizer: Callable[[Path], Any]
) -> None:
    _write_llama2_like(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.engine == "tokenizers"
    assert (loaded.document, loaded.bos, loaded.end_of_turn) == (1, 1, 2)
    peer = auto_tokenizer(tmp_path)
    for text in ("the cat", "naïve 猫", "a\nb  c", "x <s> y"):
        assert loaded.encode_template(text) == peer(text, add_special_tokens=False).input_ids
        assert loaded.encode(text) == peer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert loaded.decode(loaded.encode(text)) == peer.decode(loaded.encode(text)) == text
    assert b"".join(map(loaded.token_bytes, loaded.encode("naïve 猫"))) == " naïve 猫".encode()


def test_a_word_tokenizer_uses_the_fallback_engine(shared: Path) -> None:
    transformers = pytest.importorskip("transformers")
    path = shared / "parity" / "fixtures" / "model"
    loaded = Tokenizer.load(path)
    assert (loaded.engine, loaded.vocabulary, loaded.pad, loaded.document) == ("tokenizers", 256, 0, 1)
    peer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    assert loaded.encode("hi <eos>") == peer("hi <eos>", split_special_tokens=True).input_ids
    assert loaded.decode(loaded.encode("2+2?")) == "2+2?"


def test_truncation_settings_of_the_file_are_not_applied(tmp_path: Path) -> None:
    content = bpe.definition([], specials=[DOCUMENT])
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["normalizer"] = {"type": "NFC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert len(Tokenizer.load(tmp_path).encode("0123456789")) == 10


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no tokenizer\.json; open the folder once"):
        Tokenizer.load(tmp_path)


def test_an_invalid_tokenizer_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="is not a tokenizer that can be read"):
        Tokenizer.load(tmp_path)


def test_a_config_that_is_not_json_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{,}")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: is not JSON"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_without_a_document_token_raises_on_use(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe.definition([], specials=[])))
    loaded = Tokenizer.load(tmp_path)
    with pytest.raises(ModelError, match="no token that could stand between documents"):
        _ = loaded.document


def tiktoken_of(tokenizer: Tokenizer) -> Any:
    """Return a tiktoken encoding with the tokens of `tokenizer` and without special tokens."""
    import tiktoken

    ranks_and_pattern = bpe.tiktoken_ranks(json.loads(tokenizer._definition), tokenizer._engine)
    assert ranks_and_pattern is not None
    return tiktoken.Encoding(
        "reference", pat_str=ranks_and_pattern[1], mergeable_ranks=ranks_and_pattern[0], special_tokens={}
    )


def _assert_equal_encodings(loaded: Tokenizer, peer: Any) -> None:
    for text in [*_difficult_texts(), "e\u0301 <think> x"]:
        assert loaded.encode(text) == peer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert loaded.encode_template(text) == peer(text, add_special_tokens=False).input_ids
        assert loaded.encode_batch([text])[0].tolist() == loaded.encode(text)


def _write_gpt2_like(path: Path) -> None:
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[DOCUMENT], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(_training_text(), trainer)
    engine.save(str(path / "tokenizer.json"))
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), DOCUMENT)
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **names}))


def _write_llama2_like(path: Path) -> None:
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256)), "▁"]
    vocabulary += [*"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "▁c", "at", "▁cat"]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": vocabulary[i], **special} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                  "vocab": {token: i for i, token in enumerate(vocabulary)},
                  "merges": ["▁ t", "h e", "▁t he", "▁ c", "a t", "▁c at"]},
    }  # fmt: skip
    (path / "tokenizer.json").write_text(json.dumps(content))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names}))


def _training_text() -> Iterator[str]:
    random_source = random.Random(1)
    words = ["".join(random_source.choice(SYLLABLES) for _ in range(random_source.randint(1, 4))) for _ in range(300)]
    for _ in range(60):
        yield SAMPLE_TEXT + " ".join(random_source.choice(words) for _ in range(60)) + ".\n\n"


def _difficult_texts() -> list[str]:
    """Return texts with difficult characters."""
    random_source = random.Random(2)
    texts = [
        SAMPLE_TEXT,
        "",
        " ",
        "\n",
        "  \n\n\n \t x",
        "1234567890",
        "0" * 41,
        "a" * 300,
        "don't DON'T don’t 'Re 'LL'ſ",
    ]
    texts += [
        "👩‍👩‍👧‍👦 🇺🇳 e\u0301 \u200b\u200d\ufeff",
        "\x00\x01\x7f\x85\xa0\u2028",
        "tab\tand\r\nline",
        "end with space ",
    ]
    texts += ["".join(SPECIALS), "<|im_start|>user\nhi<|im_end|>", "<|endoftext", "a<|im_end|><|im_end|>b"]
    for length in (1, 3, 20, 200):
        for _ in range(20):
            texts.append("".join(_character(random_source) for _ in range(length)))
            texts.append(random_source.randbytes(length).decode("utf-8", "replace"))
    return texts


def _character(random_source: random.Random) -> str:
    codes = [
        random_source.randrange(32, 127),
        random_source.randrange(0x100),
        random_source.randrange(0xD800),
        random_source.randrange(0xE000, 0x110000),
    ]
    return chr(random_source.choice([*codes, 32, 10, 0x1F600, 0x200B]))
