"""A mixture of experts from the command line: planned, initialized, trained, killed, resumed, served and reopened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

LIFE: dict[str, Any] = {
    "name": "experts",
    "settings": {"seed": 0, "vocabulary": 300, "context": 32},
    "stages": {
        "design": {"depth": 2, "width": 32, "steps": 30, "tokens_per_step": 256, "timed_steps": 0, "experts": 4},
        "curate": {"sources": ["text.jsonl"], "filters": [], "held_out": 0.1},
        "tokenize": {},
        "initialize": {},
        "pretrain": {"checkpoint_seconds": 0, "eval_tokens": 256, "num_evals": 2, "allow_no_improvement": True},
    },
}


def start(store: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vita", "--store", store, "live", "life.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu"}
    return subprocess.Popen(command, env=environment, cwd=folder)


def pretrained(folder: Path, store: str) -> Path:
    """Return the folder of the trained model."""
    command = [sys.executable, "-m", "vita", "--store", store, "show", "experts/pretrain", "--json"]
    shown = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)
    return folder / shown["folder"]


@pytest.mark.parametrize("mixture", [{}, {"shared_experts": 1, "dense_layers": 1}])
def test_a_killed_pretraining_of_a_mixture_resumes_to_the_same_bytes(mixture: dict[str, int], tmp_path: Path) -> None:
    """With a balance loss (qwen3_moe), and with corrections of the routers, which are in the checkpoint (dots1)."""
    import torch
    import transformers

    from vita.nn import hf

    words = ["the cat sat on the mat", "a dog ran to the red house", "birds fly over green hills and rivers"]
    rows = [{"text": " ".join(words[(i + j * j) % 3] for j in range(12 + i % 5))} for i in range(120)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    life = {**LIFE, "stages": {**LIFE["stages"], "design": {**LIFE["stages"]["design"], **mixture}}}
    (tmp_path / "life.json").write_text(json.dumps(life))
    assert start("straight", tmp_path).wait() == 0
    process, checkpoints = start("killed", tmp_path), tmp_path / "killed/scratch"
    while process.poll() is None and not [*checkpoints.glob("*/checkpoints/step-0000001*")]:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start("killed", tmp_path).wait() == 0
    digests = [
        sorted(path.name for path in (tmp_path / store / "artifacts").glob("*.json"))
        for store in ("straight", "killed")
    ]
    assert digests[0] == digests[1]

    folder = pretrained(tmp_path, "straight")
    metrics = [json.loads(line) for line in (folder / "report" / "metrics.jsonl").read_text().splitlines()]
    assert all({"router_max_load", "router_load_entropy", "router_balance_loss"} <= row.keys() for row in metrics[1:])
    assert len(metrics[-1]["router_max_load_by_layer"]) == 2 - mixture.get("dense_layers", 0)
    assert "busiest expert" in (folder / "report" / "report.md").read_text()
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    theirs, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = torch.arange(24)[None] + 5
    with torch.no_grad():
        got, expected = hf.load(folder)(tokens), theirs(tokens, use_cache=False).logits
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    if mixture:
        correction = hf.load(folder).get_buffer("model.layers.1.mlp.router.e_score_correction_bias")
        assert (
            correction.abs().max() > 0
            and hf.stored_dtypes(folder)["model.layers.1.mlp.gate.e_score_correction_bias"] == torch.float32
        )
