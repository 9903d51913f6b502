"""Folders for MLX, opened by mlx_lm where it is installed (also on Linux: `pip install mlx-lm mlx-cpu`)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from tests.formats.runner import LocalVita
from tests.formats.test_gguf import save_with_tokenizer
from tests.nn.open_models import MODELS, ids
from vita.nn import hf

REFUSED = {"qwen3-biases": "has no biases", "gpt_neox": "needs biases", "gpt_neox-serial": "needs biases",
           "gpt2": "without a prefix"}  # fmt: skip
DIFFERENT = {"phi3-long": "factors of long texts", "phi3-short": "factors of long texts"}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_mlx_lm_gives_equal_logits_for_an_exported_folder(name: str, tmp_path: Path, local: LocalVita) -> None:
    save_with_tokenizer(name, tmp_path / "source")
    if name in REFUSED:
        assert REFUSED[name] in local("export", str(tmp_path / "source"), "--to", "mlx", "-o", "out", code=6)
        return
    result = json.loads(local("export", str(tmp_path / "source"), "--to", "mlx", "-o", "out", "--json"))
    if name in DIFFERENT:
        assert DIFFERENT[name] in " ".join(result["notes"])
        return
    core = pytest.importorskip("mlx.core")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utilities = pytest.importorskip("mlx_lm.utils")
    model, _ = utilities.load_model(local.folder / "out")
    tokens = ids(5, 1, 250)
    mlx_logits = torch.tensor(model(core.array(tokens.tolist())).tolist())
    logits = hf.load(tmp_path / "source")(tokens)
    difference = ((logits - mlx_logits).abs().max() / mlx_logits.abs().max()).item()
    assert difference < 1e-3


def test_an_export_to_mlx_has_the_files_that_mlx_lm_reads(tmp_path: Path, local: LocalVita) -> None:
    save_with_tokenizer("qwen3", tmp_path / "source")
    result = json.loads(local("export", str(tmp_path / "source"), "--to", "mlx", "-o", "out", "--json"))
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(result["files"])
