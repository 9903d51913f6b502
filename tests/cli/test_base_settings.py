"""Tuning keeps the settings of the base folder: types, generation, tokenizer, templates and further files.

The base folder is written by transformers, tuned by the command line and opened by transformers again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.test_validation import DIALOGUES, listing, vita
from tests.stages.chat_models import write_rows
from vita.data.tokens.chat_template import CHATML
from vita.server.release import create_release
from vita.testing import byte_tokenizer

transformers = pytest.importorskip("transformers")
EOS = [258, 7]
GENERATION = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "eos_token_id": EOS,
    "bos_token_id": 256,
    "pad_token_id": 257,
}
STAGES = {
    "adapt": ["adapt", "texts.jsonl", "--replay", "0"],
    "sft": ["sft", "dialogues.jsonl"],
    "dpo": ["dpo", "pairs.jsonl"],
    "rlhf": [
        *(
            "rlhf",
            "pairs.jsonl",
            "--prompts-per-step",
            "2",
            "--num-generations",
            "2",
            "--max-tokens",
            "4",
            "--eval-prompts",
            "2",
        ),
        *("--set", "rewards=[{use: random_reward}]"),
    ],
    "reward": ["reward", "pairs.jsonl"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITA_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("VITA_THREADS", "1")
    write_rows(tmp_path)
    write_rows(tmp_path, DIALOGUES, name="dialogues.jsonl")
    texts = [{"text": f"The kettle of the house number {n} is a kettle like all the others. " * 3} for n in range(60)]
    write_rows(tmp_path, texts, name="texts.jsonl")
    write_base(tmp_path / "base")
    return tmp_path


def write_base(base: Path) -> None:
    """Write a bfloat16 Qwen3 with lists of end tokens, its own sampling defaults and its own chat template."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=EOS,
        pad_token_id=257,
    )
    model = transformers.Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = transformers.GenerationConfig(**GENERATION)
    model.save_pretrained(base)
    byte_tokenizer().save(base)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        base, pad_token="<|im_start|>", eos_token="<|im_end|>", model_max_length=96
    )
    tokenizer.add_tokens([transformers.AddedToken("<tool>", normalized=False, special=True)])
    tokenizer.chat_template = "{# its own #}" + CHATML.replace("{%- generation %}", "").replace(
        "{% endgeneration %}", ""
    )
    tokenizer.save_pretrained(base)


def tune_base(stage: str, capsys: pytest.CaptureFixture[str]) -> Path:
    code = vita(*STAGES[stage], "--model", "base", "--steps", "1")
    assert code == 0, capsys.readouterr().err
    return Path(listing(capsys)[f"my/{stage}"]["folder"])


def read_json(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_tuning_keeps_the_settings_of_the_base_folder(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = folder / "base", tune_base(stage, capsys)
    assert read_json(tuned, "generation_config.json") == read_json(base, "generation_config.json")
    settings = read_json(tuned, "tokenizer_config.json")
    assert {
        **read_json(base, "tokenizer_config.json"),
        **({} if stage == "reward" else {"padding_side": "left"}),
    } == settings
    base_config, tuned_config = read_json(base, "config.json"), read_json(tuned, "config.json")
    expected_changes = (
        {"architectures", "id2label", "label2id", "num_labels", "pad_token_id"} if stage == "reward" else set()
    )
    assert {name for name in base_config if base_config[name] != tuned_config.get(name)} <= expected_changes
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (tuned / name).read_bytes() == (base / name).read_bytes()
    tensors = load_file(tuned / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_transformers_opens_a_tuned_folder_like_its_base(
    folder: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tune_base(stage, capsys)
    model = transformers.AutoModelForCausalLM.from_pretrained(tuned)
    assert model.dtype == torch.bfloat16
    for name, value in GENERATION.items():
        assert getattr(model.generation_config, name) == value
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    original = transformers.AutoTokenizer.from_pretrained(folder / "base")
    assert tokenizer.special_tokens_map == original.special_tokens_map
    assert (tokenizer.model_max_length, tokenizer.chat_template) == (96, original.chat_template)
    assert tokenizer.convert_tokens_to_ids("<tool>") == original.convert_tokens_to_ids("<tool>") == 259


@pytest.mark.slow
def test_a_batch_of_padded_prompts_gives_the_answers_of_each_prompt_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = tune_base("sft", capsys)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    model = transformers.AutoModelForCausalLM.from_pretrained(tuned, dtype=torch.float32)
    prompts = ["a", "Say 17, and then say it once more.", "kettle"]
    sampling = {"max_new_tokens": 8, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def answers(texts: list[str]) -> list[list[int]]:
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        sequences = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **sampling)
        return [sequence[batch["input_ids"].shape[1] :].tolist() for sequence in sequences]

    batch_answers, single_answers = answers(prompts), [answers([prompt])[0] for prompt in prompts]
    assert batch_answers == [
        answer + [tokenizer.pad_token_id] * (len(batch_answers[0]) - len(answer)) for answer in single_answers
    ]


@pytest.mark.slow
def test_a_release_of_a_model_tuned_twice_keeps_the_settings_of_the_base(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tune_base("sft", capsys)
    assert vita(*STAGES["dpo"], "--model", "my/sft", "--steps", "1") == 0
    tuned = Path(listing(capsys)["my/dpo"]["folder"])
    release = create_release(tuned, folder / "release", name="a", version="1")
    assert json.loads((release / "release.json").read_text())["sampling"] == {
        "temperature": 0.6, "top_p": 0.9, "top_k": 20
    }  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(release / "model")
    assert model.dtype == torch.bfloat16
    for name, value in GENERATION.items():
        assert getattr(model.generation_config, name) == value
    assert transformers.AutoTokenizer.from_pretrained(release / "model").padding_side == "left"
