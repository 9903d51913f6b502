"""Adapters in the tuning stages: training, continuing, resuming, and opening the result in Vita and in peft."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.models import Vita, command_runner, save_chat_model
from vita.infer.engine import Engine
from vita.nn.adapters.attach import BaseQuantization, attach
from vita.nn.adapters.config import LoraConfig
from vita.stages import tuning
from vita.testing import tiny_model
from vita.train.losses import language_modelling
from vita.train.schedule import Schedule
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

WORDS = ("mu", "ba", "ko", "ti", "ra", "ne")
ROWS = [{"prompt": f"{n}: say {word}.", "completion": word * 2} for n in range(8) for word in WORDS]
PAIRS = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "no"} for row in ROWS]
QUICK = ("--batch-size", "4", "--precision", "float32", "--compile", "no", "--allow-no-improvement", "true")


@pytest.fixture
def vita(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vita:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    save_chat_model(Path("base"))
    return command_runner(capsys)


def artifact(vita: Vita, name: str) -> dict[str, Any]:
    code, printed, error = vita("show", name, "--json")
    assert code == 0, error
    return json.loads(printed)


def folder_of(vita: Vita, name: str) -> Path:
    return Path("vita-store/folders") / artifact(vita, name)["digest"]


def run(vita: Vita, *arguments: str) -> None:
    code, printed, error = vita(*arguments)
    assert code == 0, printed + error


def logits_of(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return Engine.open(folder).model(ids)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_sft_trains_only_the_adapter_and_peft_gives_equal_logits(vita: Vita) -> None:
    from transformers import AutoModelForCausalLM

    peft = pytest.importorskip("peft")
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "{type: dora, rank: 4}", "--steps", "6", *QUICK)
    sft = folder_of(vita, "my/sft")
    facts = artifact(vita, "my/sft")["facts"]
    assert facts["adapter"] == "DoRA" and facts["rank"] == 4
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in sft.iterdir()}
    assert not (sft / "model.safetensors").exists() and not (sft / "config.json").exists()
    names = load_file(sft / "adapter_model.safetensors")
    assert all(".lora_" in name for name in names)
    assert facts["trainable_parameters"] == sum(tensor.numel() for tensor in names.values())
    ids = torch.randint(0, 259, (1, 12))
    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    base_logits = base(ids).logits
    model = peft.PeftModel.from_pretrained(base, sft).eval()
    torch.testing.assert_close(logits_of(sft, ids), model(ids).logits, rtol=1e-4, atol=1e-4)
    assert (base_logits - model(ids).logits).abs().max() > 0.01
    code, printed, _ = vita("generate", "my/sft", "3: say mu.", "--chat", "--temperature", "0", "--max-tokens", "4")
    assert code == 0 and printed.strip()


@pytest.mark.slow
def test_later_stages_continue_the_adapter_and_keep_the_base(vita: Vita) -> None:
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "{type: qlora, rank: 4}", "--steps", "4", *QUICK)
    run(vita, "dpo", "pairs.jsonl", "--model", "my/sft", "--steps", "2", *QUICK)
    run(vita, "reward", "pairs.jsonl", "--model", "my/sft", "--steps", "2", *QUICK)
    sft, dpo, reward = (artifact(vita, f"my/{stage}") for stage in ("sft", "dpo", "reward"))
    assert sft["facts"]["requires"] == dpo["facts"]["requires"] == reward["facts"]["requires"]
    assert dpo["facts"]["adapter"] == "QLoRA (4 bits)" and dpo["facts"]["rank"] == 4
    score = load_file(folder_of(vita, "my/reward") / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert score.shape == (1, 32)
    code, _, error = vita("dpo", "pairs.jsonl", "--model", "my/sft", "--adapter", "{rank: 8}", "--steps", "1", *QUICK)
    assert code == 2 and "dpo.adapter.rank: expected 4, got 8; the adapter of the initial model continues" in error
    run(vita, "sft", "rows.jsonl", "--model", "my/sft", "--adapter", "none", "--steps", "1", "--life", "full", *QUICK)
    assert (folder_of(vita, "full/sft") / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_rlhf_trains_an_adapter_with_a_frozen_policy(vita: Vita, method: str) -> None:
    Path("length.py").write_text("def reward(prompts, completions):\n    return [len(text) for text in completions]\n")
    critic = ("--set", "critic_warmup_steps=1") if method == "ppo" else ()
    run(vita, "rlhf", "rows.jsonl", "--model", "base", "--adapter", "lora", "--method", method, "--steps", "2",
        "--rewards", "['length.py:reward']", "--max-tokens", "6", "--set", "prompts_per_step=2",
        "--set", "num_generations=2", "--eval-prompts", "4", "--allow-no-improvement", "true", *critic)  # fmt: skip
    facts = artifact(vita, "my/rlhf")["facts"]
    names = load_file(folder_of(vita, "my/rlhf") / "adapter_model.safetensors")
    assert facts["adapter"] == "LoRA" and not any("critic" in name for name in names)


@pytest.mark.slow
def test_a_peft_folder_outside_of_the_store_is_a_model(vita: Vita, tmp_path: Path) -> None:
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "{rank: 2}", "--steps", "2", *QUICK)
    outside = tmp_path / "mine"
    outside.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (outside / name).write_bytes((folder_of(vita, "my/sft") / name).read_bytes())
    config = json.loads((outside / "adapter_config.json").read_text())
    for base in (str(tmp_path / "base"), "base", "../base"):
        (outside / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        code, printed, error = vita("generate", "mine", "x", "--temperature", "0", "--max-tokens", "3")
        assert code == 0 and printed, error
    run(vita, "dpo", "pairs.jsonl", "--model", "mine", "--steps", "1", *QUICK)
    (outside / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/absent"}))
    code, _, error = vita("generate", "mine", "x")
    assert code == 6 and "base_model_name_or_path" in error and "org/absent" in error


@pytest.mark.slow
def test_full_fine_tuning_is_the_default_below_a_billion_parameters(
    vita: Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(vita, "sft", "rows.jsonl", "--model", "base", "--steps", "1", *QUICK)
    assert "adapter" not in artifact(vita, "my/sft")["facts"]
    assert tuning.FULL_TUNING_PARAMETERS == 1e9
    monkeypatch.setattr(tuning, "FULL_TUNING_PARAMETERS", 1000)
    run(vita, "sft", "rows.jsonl", "--model", "base", "--steps", "1", "--life", "large", "--seed", "1", *QUICK)
    assert artifact(vita, "large/sft")["facts"]["adapter"] == "LoRA"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("lorra", "must be auto, none, lora, rslora, dora, qlora, or settings"),
        ("{rnk: 3}", "`rnk` is not known here; did you mean `rank`?"),
        ("{rank: 0}", "rank: expected greater than or equal to 1, got 0"),
        ("{type: dora, use_dora: false}", "`use_dora: false` contradicts `type: dora`"),
        ("{target_modules: [q_prj]}", "the linear modules of this model are down_proj, gate_proj"),
        ("{target_modules: '('}", "is not a regular expression"),
        ("{target_modules: [lm_head]}", "`lm_head` cannot have a low-rank adapter"),
        ("{modules_to_save: [embed_tokens]}", "embedding and output head of this model share their weights"),
        ("{modules_to_save: [classifier]}", "is not a module of the model, got 'classifier'"),
    ],
)
def test_invalid_adapter_settings_are_refused(vita: Vita, value: str, message: str) -> None:
    code, _, error = vita("sft", "rows.jsonl", "--model", "base", "--adapter", value, "--steps", "1", *QUICK)
    assert code != 0 and message in error and "internal" not in error


def trainer(*, seed: int = 0) -> Trainer:
    model = tiny_model()
    config = LoraConfig(rank=4, dropout=0.3, use_dora=True, target_modules="all-linear")
    attach(model, config, quantization=BaseQuantization("nf4"), seed=seed)
    rates = tuning.adapter_rates(model, 0.01)
    assert rates is not None
    settings = TrainerConfig(schedule=Schedule(steps=6), optimization=rates, precision="float32")
    return Trainer(model, language_modelling, settings)


def batch(step: int) -> StepBatch:
    ids = torch.randint(0, 259, (4, 17), generator=torch.Generator().manual_seed(step))
    return StepBatch({"ids": ids}, targets=64)


def test_a_checkpoint_contains_only_the_adapter_and_resumes_to_the_same_bytes() -> None:
    uninterrupted, stopped, resumed = trainer(), trainer(), trainer(seed=0)
    losses = [uninterrupted.step(batch(step)).loss for step in range(6)]
    for step in range(3):
        stopped.step(batch(step))
    tensors = {name: tensor.clone() for name, tensor in stopped.tensors().items()}
    assert tensors and all(".lora_" in name for name in tensors)
    torch.manual_seed(99)
    resumed.load(tensors, stopped.state())
    assert [resumed.step(batch(step)).loss for step in range(3, 6)] == losses[3:]
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in uninterrupted.tensors().items())


def test_a_training_loop_of_the_python_api_trains_and_saves_an_adapter(vita: Vita, tmp_path: Path) -> None:
    from vita.session import open_model
    from vita.spine.errors import ConfigError

    session = open_model(tmp_path / "base", adapter={"type": "dora", "rank": 2}, precision="float32", device="cpu")
    example = session.encode([{"role": "user", "content": "say mu"}, {"role": "assistant", "content": "mumu"}])
    losses = []
    for _ in range(3):
        losses.append(session.forward_backward("cross_entropy", [example])["loss"])
        session.optim_step(0.01)
    assert losses[-1] < losses[0]
    adapter_folder = session.save(tmp_path / "saved")
    ids = torch.randint(0, 259, (1, 12))
    assert torch.equal(logits_of(adapter_folder, ids), session.model(ids))
    assert (adapter_folder / "adapter_model.safetensors").exists() and not (
        adapter_folder / "model.safetensors"
    ).exists()
    reopened = open_model(adapter_folder, precision="float32", device="cpu")
    assert torch.equal(reopened.model(ids), session.model(ids))
    with pytest.raises(ConfigError, match="the model has an adapter, which continues"):
        open_model(adapter_folder, adapter="lora")


@pytest.mark.slow
def test_an_archived_adapter_is_opened_with_the_base_of_the_archive(vita: Vita, tmp_path: Path) -> None:
    run(vita, "sft", "rows.jsonl", "--model", "base", "--adapter", "{rank: 2}", "--steps", "2", *QUICK)
    archive = tmp_path / "archive" / "model"
    shutil.copytree(folder_of(vita, "my/sft"), archive)
    shutil.copytree("base", archive / "base")
    ids = torch.randint(0, 259, (1, 12))
    assert torch.equal(logits_of(archive, ids), logits_of(folder_of(vita, "my/sft"), ids))


@pytest.mark.slow
def test_a_killed_adapter_run_resumes_to_the_same_bytes(vita: Vita) -> None:
    arguments = ["sft", "rows.jsonl", "--model", "base", "--adapter", "{type: qlora, dropout: 0.2}", "--steps", "30",
             "--set", "checkpoint_seconds=0", *QUICK]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(store: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "vita", "--store", store, *arguments], env=environment)

    assert start("straight").wait() == 0
    process = start("killed")
    while process.poll() is None and len([*Path("killed/scratch").glob("*/checkpoints/step-0000001*")]) == 0:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert start("killed").wait() == 0
    digests = {
        store: sorted(path.name for path in Path(store, "artifacts").glob("*.json")) for store in ("straight", "killed")
    }
    assert digests["straight"] == digests["killed"]
