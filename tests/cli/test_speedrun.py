"""A rehearsal of the recipe `speedrun` on small token files of real text: from the files to the release."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import Vita
from tests.cli.test_cli import vita as vita
from tests.docs.blocks import PAGES
from vita.data.tokens.token_files import open_token_file, write_token_file
from vita.data.tokens.tokenizer import Tokenizer

CONTEXT, VALIDATION = 64, 4096


def write_token_files(folder: Path) -> None:
    """Write a tokenizer of 500 tokens and token files of the sections of the documentation."""
    texts = [part for page in PAGES for part in page.read_text(encoding="utf-8").split("\n## ")][:400]
    tokenizer = Tokenizer.train(texts, vocabulary=500)
    tokenizer.save(folder / "tokenizer")
    stream = np.concatenate([[tokenizer.document, *ids] for ids in tokenizer.encode_batch(texts)])
    (folder / "data").mkdir()
    write_token_file(folder / "data" / "fineweb_val_000000.bin", stream[: VALIDATION + 1000])
    for number, tokens in enumerate(np.array_split(stream[VALIDATION + 1000 :], 2), 1):
        write_token_file(folder / "data" / f"fineweb_train_{number:06d}.bin", tokens)


SETTINGS = (
    "variables.data=data", "variables.tokenizer=tokenizer", f"variables.validation_tokens={VALIDATION}",
    "variables.target=5.8", "settings.vocabulary=512", f"settings.context={CONTEXT}", "design.depth=2",
    "design.width=64", "design.tokens_per_step=1024", "design.steps=20", "pretrain.eval_every=5",
    "pretrain.precision=float32", "test.prompts=[]", "release.golden_prompts=[The]", "release.golden_tokens=2",
)  # fmt: skip


@pytest.mark.slow
def test_the_recipe_runs_from_token_files_to_a_release_that_transformers_loads(
    vita: Vita, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITA_THREADS", "1")
    write_token_files(tmp_path)
    words = ["speedrun", *(word for setting in SETTINGS for word in ("--set", setting))]
    code, out, err = vita("live", *words)
    assert code == 0, err
    assert "Gate speedrun/target: pass for pretrain, 1 of 1 criteria" in out

    pretrain = json.loads(vita("show", "speedrun/pretrain", "--json")[1])
    facts, record = pretrain["facts"], pretrain["run"]["record"]
    assert facts["heldout_loss"] <= 5.8
    assert facts["target_step"] in (5, 10, 15, 20) and facts["target_tokens"] == facts["target_step"] * 1024
    assert record["target"]["step"] == facts["target_step"]
    assert 0 < record["target"]["seconds"] < record["training_seconds"]
    rows = [
        json.loads(line)
        for line in (Path(pretrain["folder"]) / "report" / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert all("training_seconds" not in row for row in rows)

    measured = json.loads(vita("show", "speedrun/test", "--json")[1])["facts"]["validation/loss"]
    assert measured == pytest.approx(facts["heldout_loss"], abs=1e-4)
    assert measured == pytest.approx(_loss_of_transformers(Path(pretrain["folder"]), tmp_path / "data"), abs=1e-4)

    # A gate that the model does not meet stops the release.
    code, _, err = vita("live", *words, "--set", "gates.target.bars.0.at_most=1")
    assert code == 9 and "speedrun/target" in err


def _loss_of_transformers(model: Path, data: Path) -> float:
    """Return the mean cross-entropy of the first validation tokens, in rows of the context, by transformers."""
    import torch
    import transformers

    tokens = open_token_file(data / "fineweb_val_000000.bin").read()[: VALIDATION + 1].astype(np.int64)
    inputs, targets = torch.tensor(tokens[:-1]).view(-1, CONTEXT), torch.tensor(tokens[1:]).view(-1, CONTEXT)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model).float()
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    with torch.no_grad():
        logits = loaded(inputs).logits
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert tokenizer("The cat sat.")["input_ids"] == Tokenizer.load(model).encode("The cat sat.")
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
