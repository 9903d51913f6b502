"""Training of BPE merges, their file format, and parity with tiktoken."""

from __future__ import annotations

import json
import random

import pytest

from vita.data.tokens import bpe
from vita.spine.errors import ConfigError, DataError

TEXT = "the cat sat on the mat, the cat ate the rat; that is that. " * 3


def test_the_most_frequent_pair_becomes_the_first_token() -> None:
    # words: " ab" x3, "ab" x1, " ac" x1 -> (a, b) occurs 4 times, (' ', a) 4 times, and then (' ', ab) 3 times
    assert bpe.learn(["ab ab ab ab ac"], size=2) in ([b"ab", b" ab"], [b" a", b" ab"])


def test_merges_are_the_pairs_that_form_each_token() -> None:
    model = bpe.definition([b"th", b"the", b" the"], specials=["<|x|>"])["model"]
    assert model["merges"] == ["t h", "th e", "Ġ the"]
    assert model["vocab"]["a"] == 97 and model["vocab"]["Ġthe"] == 258


def test_special_tokens_have_the_last_ids() -> None:
    added = bpe.definition([b"th"], specials=["<|x|>", "<|y|>"])["added_tokens"]
    assert [(token["content"], token["id"]) for token in added] == [("<|x|>", 257), ("<|y|>", 258)]


@pytest.mark.parametrize("trainer", bpe.TRAINERS)
def test_every_trainer_gives_the_requested_number_of_tokens(trainer: str) -> None:
    tokens = bpe.learn([TEXT], size=20, trainer=trainer)
    assert len(tokens) == len(set(tokens)) == 20
    assert b" the" in tokens


@pytest.mark.parametrize("trainer", bpe.TRAINERS)
def test_text_too_small_for_the_vocabulary_is_refused_with_the_difference(trainer: str) -> None:
    with pytest.raises(DataError, match="lower `vocabulary` by at least 398"):
        bpe.learn(["ab ab"], size=400, trainer=trainer)


def test_an_unknown_trainer_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean `rustbpe`"):
        bpe.learn([TEXT], size=1, trainer="rustbp")


def test_a_million_spaces_can_be_trained_on() -> None:
    assert bpe.learn([" " * 1_000_000 + "x"], size=3) == [b" " * 2, b" " * 4, b" " * 8]


def test_byte_spelling_is_bijective() -> None:
    all_bytes = bytes(range(256))
    assert len(set(bpe.spell(all_bytes))) == 256
    assert bpe.unspell(bpe.spell(all_bytes)) == all_bytes
    assert bpe.spell(b"cat \n") == "catĠĊ"
    assert not bpe.is_spelled("▁cat")


def test_definitions_that_tiktoken_would_read_differently_are_detected() -> None:
    """Each changed definition has a property that tiktoken cannot express."""
    from tokenizers import Tokenizer

    def is_supported(definition: dict) -> bool:
        return bpe.tiktoken_ranks(definition, Tokenizer.from_str(json.dumps(definition))) is not None

    def create_definition() -> dict:
        return bpe.definition([b"th", b"he", b"the"], specials=["<|x|>"])

    assert is_supported(create_definition())
    normalizing = create_definition()
    normalizing["normalizer"] = {"type": "NFC"}
    other_pattern = create_definition()
    other_pattern["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{L}+"
    ordinary_added = create_definition()
    ordinary_added["added_tokens"][0]["special"] = False
    without_a_byte = create_definition()
    del without_a_byte["model"]["vocab"]["a"]
    unreachable = create_definition()  # h+e is merged first in every "the", so t+he never occurs
    unreachable["model"]["merges"] = ["h e", "t h", "th e"]
    ambiguous = create_definition()
    ambiguous["model"]["merges"] = ["t h", "h e", "th e", "t he"]
    prefixed = create_definition()
    prefixed["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    for changed in (normalizing, other_pattern, ordinary_added, without_a_byte, unreachable, ambiguous, prefixed):
        assert not is_supported(changed)


def test_merges_accepted_for_tiktoken_give_the_tokens_of_tokenizers() -> None:
    """Test random merge lists over three letters, most of which training would not produce."""
    from tokenizers import Tokenizer

    tiktoken = pytest.importorskip("tiktoken")
    random_source = random.Random(0)
    accepted_count = 0
    for _ in range(150):
        tokens, merges = list("abc"), []
        for _ in range(random_source.randint(1, 6)):
            first_token, second_token = random_source.choice(tokens), random_source.choice(tokens)
            tokens.append(first_token + second_token)
            merges.append(f"{first_token} {second_token}")
        definition = bpe.definition([], specials=[])
        definition["model"]["vocab"] |= {token: 256 + i for i, token in enumerate(dict.fromkeys(tokens[3:]))}
        definition["model"]["merges"] = merges
        engine = Tokenizer.from_str(json.dumps(definition))
        ranks_and_pattern = bpe.tiktoken_ranks(definition, engine)
        if ranks_and_pattern is None:
            continue
        accepted_count += 1
        encoding = tiktoken.Encoding(
            "t", pat_str=ranks_and_pattern[1], mergeable_ranks=ranks_and_pattern[0], special_tokens={}
        )
        for _ in range(30):
            text = "".join(random_source.choice("abc") for _ in range(random_source.randint(1, 14)))
            pieces = [token.decode() for token in encoding.decode_tokens_bytes(encoding.encode_ordinary(text))]
            assert pieces == engine.encode(text).tokens, (merges, text)
    assert 10 < accepted_count < 140, "both verdicts occur"


def test_all_engines_split_equally_by_the_pattern() -> None:
    """Compare the pieces of tokenizers and tiktoken for random text over all of Unicode."""
    from tokenizers import Regex, pre_tokenizers

    tiktoken = pytest.importorskip("tiktoken")
    random_source = random.Random(0)
    for pattern in (bpe.PATTERN, bpe.GPT2_PATTERN):
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        for _ in range(100):
            text = "".join(_character(random_source) for _ in range(40))
            pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
            ranks = {bytes([value]): value for value in range(256)}
            for piece in pieces:
                ranks.setdefault(piece.encode(), len(ranks))
            encoding = tiktoken.Encoding("t", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
            assert encoding.encode_ordinary(text) == [ranks[piece.encode()] for piece in pieces]


def _character(random_source: random.Random) -> str:
    kind = random_source.randrange(5)
    if kind == 0:
        return random_source.choice(" \n\r\t'sStTlLvVrReE19_.-")
    if kind == 1:
        return chr(random_source.randrange(128))
    if kind == 2:
        return random_source.choice("\u200b\u200d\u00a0\u0085\u2028\u3000\ufeff\u180e\u017f\u212aſ́٣Ⅷ½²")
    code = random_source.randrange(0x110000 - 0x800)
    return chr(code if code < 0xD800 else code + 0x800) if kind == 3 else chr(random_source.randrange(0x3000))
