"""The stage `merge`: equal logits of base + adapter, the other methods, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cli.models import Vita
from tests.stages.test_adapter_tuning import QUICK, artifact, folder_of, run, vita
from vita.infer.engine import Engine
from vita.nn import hf
from vita.testing import byte_tokenizer, tiny_model

__all__ = ["vita"]
IDS = torch.randint(0, 259, (2, 16), generator=torch.Generator().manual_seed(0))


def logits(folder: Path) -> torch.Tensor:
    return Engine.open(folder).model(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["{type: rslora, rank: 4}", "{type: dora, quantization: nf4}"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_merged_model_has_the_logits_of_base_and_adapter(vita: Vita, adapter: str) -> None:
    from transformers import AutoModelForCausalLM

    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", adapter, "--steps", "3", *QUICK)
    run(vita, "merge", "my/sft")
    merged = folder_of(vita, "my/merge")
    assert (merged / "model.safetensors").exists() and not (merged / "adapter_config.json").exists()
    unmerged = logits(folder_of(vita, "my/sft"))
    torch.testing.assert_close(logits(merged), unmerged, rtol=1e-4, atol=1e-4)
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    torch.testing.assert_close(model(IDS).logits, unmerged, rtol=1e-4, atol=1e-4)
    facts = artifact(vita, "my/merge")["facts"]
    assert facts["logit_difference"] <= facts["tolerance"] == 1e-4
    code, _, error = vita("merge", "my/sft", "--tolerance", "1e-12")
    assert code == 6 and "expected logits within 1e-12 of base + adapter" in error


@pytest.mark.slow
def test_other_methods_merge_several_models(vita: Vita) -> None:
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "lora", "--steps", "3", *QUICK)
    run(vita, "sft", "rows.jsonl", "--model", "base", "--life", "full", "--steps", "3", *QUICK)
    base, first = hf.load("base"), hf.load(folder_of(vita, "full/sft"))
    run(vita, "merge", "my/sft", "full/sft", "--method", "average", "--weights", "[0, 1]")
    torch.testing.assert_close(logits(folder_of(vita, "my/merge")), first(IDS), rtol=1e-5, atol=1e-5)
    run(vita, "merge", "full/sft", "--method", "task_arithmetic", "--base", "base", "--weights", "[0]")
    torch.testing.assert_close(logits(folder_of(vita, "my/merge")), base(IDS), rtol=1e-5, atol=1e-5)
    run(vita, "merge", "full/sft", "my/sft", "--method", "slerp", "--position", "0")
    torch.testing.assert_close(logits(folder_of(vita, "my/merge")), first(IDS), rtol=1e-5, atol=1e-5)
    run(vita, "merge", "full/sft", "my/sft", "--method", "ties", "--base", "base")
    sources = "[{path: rows.jsonl}]"
    run(vita, "merge", "base", "full/sft", "my/sft", "--method", "soup", "--eval-sources", sources)
    facts = artifact(vita, "my/merge")["facts"]
    assert facts["heldout_loss"] <= min(facts[f"heldout_loss/{number}"] for number in (1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base",), "merge.model: is a full model and not an adapter"),
        (("base", "base"), "merge.method: adapter: expected 1 model, got 2"),
        (("base", "--method", "average"), "merge.method: average: expected 2 to 8 models, got 1"),
        (("base", "base", "--method", "ties"), "needs the input `base`"),
        (("base", "base", "--method", "average", "--weights", "[1]"), "expected 2 numbers, one for each model, got 1"),
        (("base", "--position", "0.5"), "`position` is set, and only slerp reads it"),
        (("base", "base", "--method", "soup"), "set `eval_sources`"),
        (("base", "other", "--method", "average"), "expected the architecture of the first model (width 32), got 16"),
    ],
)
def test_invalid_arguments_are_refused(vita: Vita, arguments: tuple[str, ...], message: str) -> None:
    hf.save(tiny_model(width=16), "other")
    byte_tokenizer().save("other")
    code, _, error = vita("merge", *arguments)
    assert code != 0 and message in error and "internal" not in error
