"""Learning merges, writing them down, and the promise that tiktoken reads them alike."""

from __future__ import annotations

import json
import random

import pytest

from vita.data.tokens import bpe
from vita.spine.errors import ConfigError, DataError

TEXT = "the cat sat on the mat, the cat ate the rat; that is that. " * 3


def test_the_most_frequent_pair_becomes_the_first_token() -> None:
    # words: " ab" x3, "ab" x1, " ac" x1 -> (a, b) stands 4 times, ( ' ', a) 4 times, (' ', ab) 3 times after it
    assert bpe.learn(["ab ab ab ab ac"], size=2) in ([b"ab", b" ab"], [b" a", b" ab"])


def test_merges_are_written_as_the_pairs_that_rebuild_each_token() -> None:
    model = bpe.definition([b"th", b"the", b" the"], specials=["<|x|>"])["model"]
    assert model["merges"] == ["t h", "th e", "Ġ the"]
    assert model["vocab"]["a"] == 97 and model["vocab"]["Ġthe"] == 258


def test_special_tokens_have_the_last_ids() -> None:
    added = bpe.definition([b"th"], specials=["<|x|>", "<|y|>"])["added_tokens"]
    assert [(token["content"], token["id"]) for token in added] == [("<|x|>", 257), ("<|y|>", 258)]


@pytest.mark.parametrize("trainer", bpe.TRAINERS)
def test_every_trainer_gives_the_number_of_tokens_asked_for(trainer: str) -> None:
    tokens = bpe.learn([TEXT], size=20, trainer=trainer)
    assert len(tokens) == len(set(tokens)) == 20
    assert b" the" in tokens


@pytest.mark.parametrize("trainer", bpe.TRAINERS)
def test_text_that_cannot_support_the_vocabulary_is_refused_with_the_number_that_it_can(trainer: str) -> None:
    with pytest.raises(DataError, match="lower `vocabulary` by at least 398"):
        bpe.learn(["ab ab"], size=400, trainer=trainer)


def test_an_unknown_trainer_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean `rustbpe`"):
        bpe.learn([TEXT], size=1, trainer="rustbp")


def test_a_run_of_a_million_spaces_can_be_learnt_from() -> None:
    assert bpe.learn([" " * 1_000_000 + "x"], size=3) == [b" " * 2, b" " * 4, b" " * 8]


def test_bytes_are_spelled_one_to_one() -> None:
    everything = bytes(range(256))
    assert len(set(bpe.spell(everything))) == 256
    assert bpe.unspell(bpe.spell(everything)) == everything
    assert bpe.spell(b"cat \n") == "catĠĊ"
    assert not bpe.is_spelled("▁cat")


def test_a_sample_is_bounded_spread_evenly_and_always_the_same() -> None:
    texts = [f"{i:04d} " * 200 for i in range(100)]  # 1,000 bytes each
    taken = list(bpe.sample(texts, limit=20_000, total=100_000))
    assert sum(len(piece) for piece in taken) <= 20_000
    assert taken == list(bpe.sample(texts, limit=20_000, total=100_000))
    quarters = [sum(int(piece[:4]) // 25 == quarter for piece in taken) for quarter in range(4)]
    assert quarters == [5, 5, 5, 5]


def test_a_sample_takes_pieces_of_a_long_text_from_all_over_it() -> None:
    book = "".join(f"line {i:05d} of a long and not very varied book\n" for i in range(20_000))
    taken = "".join(bpe.sample([book], limit=len(book) // 10, total=len(book)))
    assert len(book) // 11 < len(taken) <= len(book) // 10
    assert "line 01" in taken and "line 10" in taken and "line 19" in taken
    assert all(line in book for line in taken.splitlines()[:20])


def test_a_sample_as_large_as_the_text_is_the_text() -> None:
    texts = ["one", "two " * 5000, ""]
    assert list(bpe.sample(texts, limit=10**6, total=20_003)) == texts


def test_tiktoken_is_refused_what_it_would_read_otherwise() -> None:
    """Each change of a plain definition is one that tiktoken cannot express."""
    from tokenizers import Tokenizer

    def verdict(definition: dict) -> bool:
        return bpe.tiktoken_ranks(definition, Tokenizer.from_str(json.dumps(definition))) is not None

    def plain() -> dict:
        return bpe.definition([b"th", b"he", b"the"], specials=["<|x|>"])

    assert verdict(plain())
    normalizing = plain()
    normalizing["normalizer"] = {"type": "NFC"}
    other_pattern = plain()
    other_pattern["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+"
    ordinary_added = plain()
    ordinary_added["added_tokens"][0]["special"] = False
    without_a_byte = plain()
    del without_a_byte["model"]["vocab"]["a"]
    unreachable = plain()  # h+e wins inside every "the", so t+he never happens
    unreachable["model"]["merges"] = ["h e", "t h", "th e"]
    two_ways = plain()
    two_ways["model"]["merges"] = ["t h", "h e", "th e", "t he"]
    prefixed = plain()
    prefixed["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    for changed in (normalizing, other_pattern, ordinary_added, without_a_byte, unreachable, two_ways, prefixed):
        assert not verdict(changed)


def test_whatever_merges_are_accepted_for_tiktoken_give_the_tokens_of_tokenizers() -> None:
    """Random merge lists over three letters, most of which no training would give."""
    from tokenizers import Tokenizer

    tiktoken = pytest.importorskip("tiktoken")
    chance = random.Random(0)
    accepted = 0
    for _ in range(150):
        tokens, merges = list("abc"), []
        for _ in range(chance.randint(1, 6)):
            left, right = chance.choice(tokens), chance.choice(tokens)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
        definition = bpe.definition([], specials=[])
        definition["model"]["vocab"] |= {token: 256 + i for i, token in enumerate(dict.fromkeys(tokens[3:]))}
        definition["model"]["merges"] = merges
        engine = Tokenizer.from_str(json.dumps(definition))
        found = bpe.tiktoken_ranks(definition, engine)
        if found is None:
            continue
        accepted += 1
        encoding = tiktoken.Encoding("t", pat_str=found[1], mergeable_ranks=found[0], special_tokens={})
        for _ in range(30):
            text = "".join(chance.choice("abc") for _ in range(chance.randint(1, 14)))
            pieces = [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode_ordinary(text))]
            assert pieces == engine.encode(text).tokens, (merges, text)
    assert 10 < accepted < 140, "both verdicts occur"


def test_all_engines_split_by_the_pattern_alike() -> None:
    """Random text over all of Unicode: the pieces that tokenizers and tiktoken cut are the same."""
    from tokenizers import Regex, pre_tokenizers

    tiktoken = pytest.importorskip("tiktoken")
    chance = random.Random(0)
    for pattern in (bpe.PATTERN, bpe.GPT2_PATTERN):
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        for _ in range(100):
            text = "".join(_character(chance) for _ in range(40))
            pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
            ranks = {bytes([value]): value for value in range(256)}
            for piece in pieces:
                ranks.setdefault(piece.encode(), len(ranks))
            encoding = tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            assert encoding.encode_ordinary(text) == [ranks[piece.encode()] for piece in pieces]


def _character(chance: random.Random) -> str:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(" \n\r\t'sStTlLvVrReE19_.-")
    if kind == 1:
        return chr(chance.randrange(128))
    if kind == 2:
        return chance.choice("\u200b\u200d\u00a0\u0085\u2028\u3000\ufeff\u180e\u017f\u212aſ́٣Ⅷ½²")
    code = chance.randrange(0x110000 - 0x800)
    return chr(code if code < 0xD800 else code + 0x800) if kind == 3 else chr(chance.randrange(0x3000))
