"""Upcycling: a mixture with the logits of the dense model, which opens in transformers, and can be trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.cli.models import command_runner
from tests.nn.open_models import ids, save
from vita.nn import hf
from vita.spine.errors import ModelError
from vita.stages.upcycle import Config, upcycled
from vita.testing import byte_tokenizer


@pytest.mark.parametrize("name", ["qwen3", "llama", "mistral-full"])
@torch.no_grad()
def test_a_mixture_of_copies_has_the_logits_of_the_dense_model(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    dense = hf.load(tmp_path)
    mixture = upcycled(dense, Config(experts=5, active_experts=3))
    torch.testing.assert_close(mixture(ids()), dense(ids()), rtol=1e-4, atol=1e-4)
    gates = mixture.get_parameter("model.layers.0.mlp.experts.gate_proj.weight")
    assert torch.equal(gates[0], gates[4])
    noisy = upcycled(dense, Config(experts=5, active_experts=3, noise=0.1))
    gates = noisy.get_parameter("model.layers.0.mlp.experts.gate_proj.weight")
    assert not torch.equal(gates[0], gates[4]) and not torch.allclose(noisy(ids()), dense(ids()), atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "qwen3-biases", "llama-biases"])
def test_a_model_whose_mixture_no_family_expresses_is_refused(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    if name == "qwen3-biases":  # qwen3_moe has them, too
        assert upcycled(hf.load(tmp_path), Config()).architecture.biases == ("qkv", "output")
        return
    with pytest.raises(ModelError, match="upcycle"):
        upcycled(hf.load(tmp_path), Config())


@pytest.mark.slow
def test_the_command_upcycles_a_folder_for_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = save("qwen3", tmp_path / "dense", vocab_size=272)
    byte_tokenizer().save(tmp_path / "dense")
    monkeypatch.chdir(tmp_path)
    code, out, err = command_runner(capsys)("upcycle", "dense", "--experts", "4", "--json")
    assert code == 0, err
    folder = Path(json.loads(out)["folder"])
    reopened, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        got, expected = reopened(ids()).logits, theirs(ids()).logits
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
