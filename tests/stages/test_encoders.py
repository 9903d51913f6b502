"""Encoders of transformers through adopt, adapt and test, and the figures of the test of an encoder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.test_training_data import Vita, vita
from tests.nn.encoder_models import encoder
from vita.data.tokens.tokenizer import Tokenizer
from vita.evals.masked import MaskedScorer, fill
from vita.nn import hf

__all__ = ["vita"]

WORDS = [
    *("the", "a", "kettle", "house", "cat", "is", "furry", "mammal"),
    *("of", "and", "it", "warm", "on", ".", "street", "number"),
]
TEXT = "the kettle of the house is a kettle and the cat is a furry mammal on the warm street ."


def save_with_tokenizer(name: str, folder: Path) -> Any:
    """Save a tiny encoder with a WordPiece tokenizer, as BERT has; return the model of transformers."""
    import transformers

    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ly", *"abcdefghij"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    model = encoder(name, pad_token_id=0)
    model.save_pretrained(folder)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_pseudo_likelihood_and_fills_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    theirs = save_with_tokenizer(name, tmp_path / "m")
    tokenizer = Tokenizer.load(tmp_path / "m")
    scorer = MaskedScorer(hf.load(tmp_path / "m"), tokenizer)
    ids = [tokenizer.document, *tokenizer.encode(TEXT), tokenizer.separator]
    assert ids == transformers.AutoTokenizer.from_pretrained(tmp_path / "m")(TEXT)["input_ids"]
    expected = 0.0
    for position in range(1, len(ids) - 1):
        masked = torch.tensor([ids])
        masked[0, position] = tokenizer.mask
        logits = theirs(masked).logits[0, position, : tokenizer.vocabulary]
        expected += logits.log_softmax(-1)[ids[position]].item()
    (score,) = scorer.score([([tokenizer.document], ids[1:-1])])
    assert score.logprob == pytest.approx(expected, rel=1e-4)
    pipeline = transformers.pipeline("fill-mask", model=str(tmp_path / "m"))
    answers = pipeline("the cat is a furry [MASK] .", top_k=3, targets=None)
    ours = fill(scorer, ["the cat is a furry [MASK] .", "no mask"], answers=3)
    assert [answer.prompt for answer in ours] == ["the cat is a furry [MASK] ."] * 3
    likely = [answer["token_str"] for answer in answers if answer["token"] < tokenizer.vocabulary]
    assert [answer.text for answer in ours][: len(likely)] == likely[: len(ours)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_an_adopted_encoder_is_trained_further_tested_and_opens_in_transformers(vita: Vita, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    save_with_tokenizer(name, Path("m"))
    rows = [{"text": f"{TEXT} the house number {'abcdefghij'[n % 10]} is warm ."} for n in range(60)]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed = vita("adopt", "m", "--name", "my")
    assert code == 0, printed
    words = ("--model", "my/adopt", "--replay", "0", "--steps", "120", "--batch-size", "4", "--name", "my")
    code, printed = vita("adapt", "texts.jsonl", *words, "--set", "mask_replacement=mask", "--set", "adapter=none")
    assert code == 0 and "masked accuracy before" in printed, printed
    code, printed = vita("export", "my/adapt", "--to", "hf", "--ungated", "test", "-o", "out")
    assert code == 0, printed
    assert transformers.AutoTokenizer.from_pretrained("out").padding_side == "right"
    model, report = transformers.AutoModelForMaskedLM.from_pretrained("out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = torch.tensor([[2, 6, 7, 4, 8, 3]])
    with torch.no_grad():
        assert torch.allclose(model.eval()(tokens).logits, hf.load("out")(tokens), atol=1e-4)
    code, printed = vita(
        "test", "my/adapt", "--set", "texts=[texts.jsonl]", "--set", "pseudo_documents=3", "--name", "my"
    )
    assert code == 0, printed
    code, printed = vita("show", "my/test", "--json")
    facts = json.loads(printed)["facts"]
    assert {name for name in facts if name.startswith("texts/")} == {
        *(f"texts/{metric}" for metric in ("masked_accuracy", "masked_loss")),
        *(f"texts/pseudo_{metric}" for metric in ("perplexity", "bits_per_byte")),
    }
    # With random weights it is about 0.03; BERT, whose norms follow the residual sums, learns slowly.
    assert facts["texts/masked_accuracy"] > 0.2 and math.isfinite(facts["texts/pseudo_perplexity"])
    code, printed = vita("test", "my/adapt", "--set", "texts=[texts.jsonl]", "--set", "as_chat=true")
    assert code == 2 and "`as_chat` needs generated answers" in printed


def test_an_encoder_without_a_head_is_refused_for_masked_training_and_tests(vita: Vita) -> None:
    save_with_tokenizer("bert", Path("m"))
    encoder("bert", auto="AutoModel", pad_token_id=0).save_pretrained("m")
    Path("texts.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    life = "name: my\nmodel: ./m\nstages:\n  {}\n"
    for step in ("adapt: {sources: [texts.jsonl], replay: 0}", "test: {texts: [texts.jsonl]}"):
        Path("life.yaml").write_text(life.format(step))
        code, printed = vita("plan", "life.yaml")
        assert code == 2 and "it is an encoder without a masked-language head" in printed, printed
