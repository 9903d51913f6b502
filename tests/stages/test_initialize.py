"""The stage `initialize`: a new model has random weights, and its loss is ln V."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vita.data.records import Document
from vita.data.tokens.shards import write_shards
from vita.infer.engine import Engine
from vita.infer.sampling import Sampling
from vita.nn import hf
from vita.spine.errors import ConfigError, DataError, VitaError
from vita.spine.machine import Machine
from vita.spine.plan import Context
from vita.spine.store import Store
from vita.stages import initialize
from vita.stages.kinds import Blueprint, Model, Tokens
from vita.testing import byte_tokenizer, tiny_architecture

TEXT = "A cat is a furry mammal. It purrs when it is content. " * 20


def blueprint(folder: Path, **changes: Any) -> Blueprint:
    folder.mkdir(parents=True, exist_ok=True)
    sizes = tiny_architecture(**changes).model_dump()
    (folder / "blueprint.json").write_text(json.dumps({"architecture": sizes, "training": {}, "prediction": {}}))
    return Blueprint("0" * 64, folder, {})


def tokens(folder: Path, *, heldout: str = TEXT, train: str = TEXT) -> Tokens:
    tokenizer = byte_tokenizer()
    tokenizer.save(folder / "tokenizer")
    for split, text in (("heldout", heldout), ("train", train)):
        [ids] = tokenizer.encode_batch([text])
        documents = [(Document("1", text, "test"), ids)] if text else []
        write_shards(folder / split, documents, vocabulary=259, document=tokenizer.document, tokenizer=tokenizer.digest)
    return Tokens("1" * 64, folder, {})


def context(folder: Path) -> Context:
    folder.mkdir(exist_ok=True)
    return Context(folder, lambda event, **fields: None, Machine())


def run(tmp_path: Path, *, config: initialize.Config | None = None, name: str = "scratch", **changes: Any) -> Any:
    inputs = initialize.Inputs(blueprint(tmp_path / "blueprint", **changes), tokens(tmp_path / "tokens"))
    return initialize.run(config or initialize.Config(), inputs, context(tmp_path / name))


def test_a_new_model_has_the_loss_ln_v_and_a_complete_folder(tmp_path: Path) -> None:
    draft = run(tmp_path)
    assert draft.kind is Model
    assert draft.facts["ln_vocabulary"] == pytest.approx(math.log(259), rel=1e-5)
    assert draft.facts["loss"] == pytest.approx(math.log(259), abs=0.1)
    assert draft.facts["parameters"] == tiny_architecture().parameters()
    assert {path.relative_to(draft.folder).as_posix() for path in draft.folder.rglob("*") if path.is_file()} == {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "vita.json",
        "report/report.html",
        "report/report.json",
        "report/report.md",
        "report/figures/activations.svg",
        "report/figures/weights.svg",
    }
    assert hf.load_generation(draft.folder) == hf.GenerationTokens(start=256, padding=256, stop=(256, 258))
    engine = Engine.open(draft.folder)
    assert engine.template is not None
    assert engine.generate([engine.text_ids("What is a cat?")], Sampling(max_tokens=4))[0].ids
    page = (draft.folder / "report" / "report.md").read_text()
    assert f"ln V = {math.log(259):.4f}" in page
    assert "| model.layers.1.mlp.down_proj.weight | 32, 48 |" in page


def test_transformers_opens_the_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    draft = run(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(draft.folder)
    assert model.num_parameters() == draft.facts["parameters"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(draft.folder)
    assert tokenizer("A cat").input_ids == byte_tokenizer().encode("A cat")


def test_equal_settings_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    first_digest = store.commit(run(tmp_path, name="a")).digest
    second_digest = store.commit(run(tmp_path, name="b")).digest
    other_seed_digest = store.commit(run(tmp_path, name="c", config=initialize.Config(seed=1))).digest
    assert first_digest == second_digest != other_seed_digest


def test_the_initialization_scheme_is_applied(tmp_path: Path) -> None:
    draft = run(tmp_path, config=initialize.Config(scheme="zero_output"))
    weights = hf.load(draft.folder).state_dict()
    assert not weights["model.layers.0.mlp.down_proj.weight"].any()
    assert weights["model.layers.0.mlp.up_proj.weight"].any()


def test_without_held_out_text_the_loss_is_measured_on_the_training_text(tmp_path: Path) -> None:
    inputs = initialize.Inputs(blueprint(tmp_path / "blueprint"), tokens(tmp_path / "tokens", heldout=""))
    draft = initialize.run(initialize.Config(), inputs, context(tmp_path / "scratch"))
    assert draft.facts["loss"] == pytest.approx(math.log(259), abs=0.1)


def test_a_text_of_a_few_tokens_is_enough(tmp_path: Path) -> None:
    inputs = initialize.Inputs(blueprint(tmp_path / "blueprint"), tokens(tmp_path / "tokens", heldout="Hi"))
    assert initialize.run(initialize.Config(), inputs, context(tmp_path / "scratch")).facts["loss"] > 0


def test_no_text_at_all_is_refused(tmp_path: Path) -> None:
    inputs = initialize.Inputs(blueprint(tmp_path / "blueprint"), tokens(tmp_path / "tokens", heldout="", train=""))
    with pytest.raises(DataError, match="holds no text to measure the new model on"):
        initialize.run(initialize.Config(), inputs, context(tmp_path / "scratch"))


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ({}, {"vocabulary": 300}, "design.vocabulary and tokenize.vocabulary the same number"),
        ({"scheme": "xavier"}, {}, "scheme: `xavier` is not known here; one of fan_in, llama, mitchell"),
    ],
)
def test_invalid_settings_and_inputs_are_refused(
    tmp_path: Path, config: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        run(tmp_path, config=initialize.Config.model_validate(config), **changes)
    assert message in str(error.value)
    assert isinstance(error.value, VitaError)
