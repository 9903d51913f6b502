"""Masked rows: a pure function of seed, step and row; replacements, whole words, and the loss of masked positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vita.data.tokens.masking import MaskingRule, TokenMasker, word_starts
from vita.data.tokens.tokenizer import MASKED_SPECIALS, Tokenizer
from vita.design.scaling_rules import shape_of_depth
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.train.masked import masked_language_modelling, masked_tensors
from vita.train.masked_settings import MaskingSettings

TEXTS = ["The kettle of the unbelievable house is a kettle like all the others."] * 20


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocabulary=290, masked=True)


def rows_of(tokenizer: Tokenizer, rows: int, length: int) -> np.ndarray:
    text = [tokenizer.document, *tokenizer.encode(TEXTS[0]), tokenizer.separator]
    return np.resize(np.array(text, dtype=np.int64), (rows, length))


def test_the_mask_of_a_row_depends_only_on_seed_step_and_row(tokenizer: Tokenizer) -> None:
    masker, ids = TokenMasker(tokenizer, MaskingRule(0.3)), rows_of(tokenizer, 6, 40)
    whole = masker.mask(ids, seed=1, step=5)
    part = masker.mask(ids[4:], seed=1, step=5, first_row=4)
    assert np.array_equal(whole.ids[4:], part.ids) and np.array_equal(whole.slots[4:], part.slots)
    for seed, step in ((2, 5), (1, 6)):
        assert not np.array_equal(masker.mask(ids, seed=seed, step=step).ids, whole.ids)


def test_special_tokens_are_never_masked_and_targets_are_the_tokens_of_the_text(tokenizer: Tokenizer) -> None:
    ids = rows_of(tokenizer, 8, 50)
    masked = TokenMasker(tokenizer, MaskingRule(0.5)).mask(ids, seed=0, step=0)
    special = np.isin(ids, sorted(tokenizer.special_ids))
    assert np.array_equal(masked.ids[special], ids[special])
    restored = masked.ids.copy()
    for row, (slots, learn) in enumerate(zip(masked.slots, masked.learn, strict=True)):
        restored[row, slots[learn]] = masked.targets[row][learn]
        assert learn.sum() == round(0.5 * (~special[row]).sum()) and len(set(slots[learn])) == learn.sum()
    assert np.array_equal(restored, ids)


def test_bert_replaces_80_percent_by_the_mask_and_10_percent_by_random_tokens(tokenizer: Tokenizer) -> None:
    ids = rows_of(tokenizer, 200, 60)
    masked = TokenMasker(tokenizer, MaskingRule(0.4)).mask(ids, seed=0, step=0)
    inputs = np.take_along_axis(masked.ids, masked.slots, 1)[masked.learn]
    targets = masked.targets[masked.learn]
    assert abs((inputs == tokenizer.mask).mean() - 0.8) < 0.02 and abs((inputs == targets).mean() - 0.1) < 0.02
    assert not np.isin(inputs[inputs != tokenizer.mask], sorted(tokenizer.special_ids)).any()
    every = TokenMasker(tokenizer, MaskingRule(0.4, "mask")).mask(ids, seed=0, step=0)
    assert (np.take_along_axis(every.ids, every.slots, 1)[every.learn] == tokenizer.mask).all()


def test_whole_words_are_masked_with_all_their_tokens(tokenizer: Tokenizer) -> None:
    ids = rows_of(tokenizer, 30, 60)
    masked = TokenMasker(tokenizer, MaskingRule(0.3, "mask", whole_words=True)).mask(ids, seed=0, step=0)
    special = np.isin(ids, sorted(tokenizer.special_ids))
    starts = word_starts(tokenizer)[ids]
    starts[:, 1:] |= special[:, :-1]
    starts[:, 0] = True
    chosen = masked.ids != ids
    words = np.cumsum(starts, axis=1)
    sizes = [len({*chosen[row][words[row] == word]}) for row in range(30) for word in set(words[row])]
    assert chosen.any() and set(sizes) == {1}  # a word is masked entirely or not at all
    assert masked.learn.sum(1).max() <= masked.slots.shape[1]


def test_the_masking_rate_changes_linearly_from_the_first_to_the_last_step() -> None:
    constant, decaying = MaskingSettings(mask_rate=0.3), MaskingSettings(mask_rate=0.3, final_mask_rate=0.1)
    assert [constant.mask_rate_at(step, 5) for step in (0, 4)] == [0.3, 0.3]
    assert [round(decaying.mask_rate_at(step, 5), 6) for step in range(5)] == [0.3, 0.25, 0.2, 0.15, 0.1]
    with pytest.raises(ValueError, match="only with `objective: masked`"):
        MaskingSettings(objective="next_token", mask_rate=0.2)


def test_the_masked_loss_equals_the_cross_entropy_at_masked_positions_with_its_gradients(tokenizer: Tokenizer) -> None:
    model = Transformer(shape_of_depth(2, vocabulary=290, context=40, width=32, encoder=True))
    initialize(model, "normal", seed=0)
    torch.nn.init.normal_(model.get_parameter("lm_head.bias"), generator=torch.Generator().manual_seed(0))
    ids = rows_of(tokenizer, 3, 40)
    masked = TokenMasker(tokenizer, MaskingRule(0.3)).mask(ids, seed=0, step=0)
    documents = np.cumsum(ids == tokenizer.document, axis=1)
    losses, gradients = [], []
    for formula in ("loss", "plain"):
        model.zero_grad()
        if formula == "loss":
            loss, _ = masked_language_modelling(model, masked_tensors(masked, documents))
        else:
            logits = model(torch.from_numpy(masked.ids), documents=torch.from_numpy(documents))
            labels = torch.full(ids.shape, -100)
            for row in range(3):
                slots = torch.from_numpy(masked.slots[row][masked.learn[row]])
                labels[row, slots] = torch.from_numpy(ids[row])[slots]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        loss.backward()
        losses.append(loss.item())
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for ours, expected in zip(*gradients, strict=True):
        assert ours is not None and expected is not None and torch.allclose(ours, expected, atol=1e-3, rtol=1e-3)


def test_a_tokenizer_for_masked_text_has_the_special_tokens_of_an_encoder(tokenizer: Tokenizer) -> None:
    assert [*tokenizer.specials] == [*MASKED_SPECIALS] and tokenizer.vocabulary == 290
    ids = tokenizer.encode_masked("The [MASK] of the house.")
    assert ids[0] == tokenizer.document and ids[-1] == tokenizer.separator and ids.count(tokenizer.mask) == 1
    assert tokenizer.mask not in tokenizer.encode("The [MASK] of the house.")
    assert tokenizer.decode(ids) == "The of the house."  # the mask includes the space before the word
