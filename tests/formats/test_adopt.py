"""Adopting models of the Hub, of folders and of the store, through the real client library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.models import save_chat_model
from tests.formats.runner import Vita
from tests.hub_server import HubServer

CARD = "---\nlicense: apache-2.0\nbase_model: acme/base\n---\n# Tiny\n"
UNSAFE = {"pytorch_model.bin": b"pickle", "modeling_tiny.py": b"raise SystemExit", "original/x.safetensors": b"x"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = save_chat_model(tmp_path / "source")
    (folder / "README.md").write_text(CARD)
    return folder


def test_a_model_of_the_hub_is_adopted_with_its_origin_and_only_safe_files(vita: Vita, hub: HubServer, source: Path):
    commit = hub.add_model("acme/tiny", source, extra=UNSAFE)
    artifact = json.loads(vita("adopt", "acme/tiny", "--json"))
    record = artifact["run"]["record"]
    assert (record["hub"], record["revision"], record["requested"]) == ("acme/tiny", commit, "main")
    assert (record["license"], record["base_models"], record["card"]) == ("apache-2.0", ["acme/base"], True)
    assert record["files"] == {name: entry["sha256"] for name, entry in artifact["files"].items()}
    assert set(artifact["files"]) == {path.name for path in source.iterdir()}
    assert not any("pytorch_model" in request or "modeling_tiny" in request for request in hub.requests)

    trace = vita("trace", "acme/tiny")
    assert f"adopted from the Hub: acme/tiny at revision {commit[:12]}, apache-2.0" in trace


@pytest.mark.slow
def test_an_adopted_model_is_used_without_a_network_afterwards(vita: Vita, hub: HubServer, source: Path):
    hub.add_model("acme/tiny", source)
    vita("chat", "acme/tiny", "--max-tokens", "4", text="hello\n")  # adopts the model
    requests = len(hub.requests)
    vita("generate", "acme/tiny", "hello", "--max-tokens", "4", HF_HUB_OFFLINE="1")
    assert json.loads(vita("trace", "acme/tiny", "--json"))["origin"]["hub"] == "acme/tiny"
    assert "cached" in vita("adopt", "acme/tiny", HF_HUB_OFFLINE="1")
    assert len(hub.requests) == requests


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "variables", "message"),
    [
        ("acme/nothing", {}, "there is no such model, or it is private; check the id"),
        ("acme/tiny@v9", {}, "has no revision `v9`"),
        ("acme/gated", {}, "is gated"),
        ("acme/tiny", {"HF_HUB_OFFLINE": "1"}, "is not in the cache, and HF_HUB_OFFLINE forbids the network"),
        ("acme/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached; connect to the"),
        ("acme/pickled", {}, "pytorch_model.bin is a pickle, which can run code and is not read"),
    ],
)
def test_an_error_of_the_hub_is_a_single_line_with_advice(
    vita: Vita, hub: HubServer, source: Path, model: str, variables: dict[str, str], message: str
):
    hub.add_model("acme/tiny", source)
    hub.add_model("acme/gated", source)
    hub.repositories["acme/gated"].gated = True
    (source / "model.safetensors").unlink()
    hub.add_model("acme/pickled", source, extra=UNSAFE)
    error = vita("adopt", model, code=6, **variables)
    assert message in error and len(error.strip().splitlines()) == 1


def test_the_token_gives_access_to_a_gated_model_and_is_never_printed(vita: Vita, hub: HubServer, source: Path):
    hub.add_model("acme/gated", source)
    repository = hub.repositories["acme/gated"]
    repository.gated, repository.token = True, "hf_secret123"
    output = vita("adopt", "acme/gated", "--json", HF_TOKEN="hf_secret123")
    assert hub.tokens == {"hf_secret123"}
    error = vita("adopt", "acme/gated@v2", code=6, HF_TOKEN="hf_secret123")
    files = [path for path in (vita.folder / "vita-store").rglob("*") if path.is_file()]
    assert not any(b"hf_secret123" in path.read_bytes() for path in files)
    assert "hf_secret123" not in output + error


@pytest.mark.slow
def test_a_lifecycle_starts_from_a_model_of_the_hub_and_detects_a_new_commit(vita: Vita, hub: HubServer, source: Path):
    hub.add_model("acme/tiny", source)
    (vita.folder / "talks.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}]})
            + "\n"
            for i in range(12)
        )
    )
    life = "name: mine\nmodel: acme/tiny\nstages:\n  sft: {sources: [{path: talks.jsonl}], steps: 2, batch_size: 2}\n"
    (vita.folder / "life.yaml").write_text(life)
    vita("live", "life.yaml", "--json")
    assert "nothing to do" in vita("plan", "life.yaml")
    trace = json.loads(vita("trace", "mine/sft", "--json"))
    assert [(row["stage"], row["slot"], row["origin"]["hub"]) for row in trace["made_from"]] == [
        ("sft", "model", "acme/tiny")
    ]
    card = vita("card", "mine/sft", "-o", "card")
    text = (vita.folder / "card" / "README.md").read_text()
    assert card and "base_model: acme/tiny" in text and "license: apache-2.0" in text

    (source / "README.md").write_text(CARD + "changed\n")
    hub.add_model("acme/tiny", source)
    plan = json.loads(vita("plan", "life.yaml", "--json"))
    assert [(row["step"], row["runs"]) for row in plan] == [("adopt", True), ("sft", True)]


@pytest.mark.slow
def test_a_misspelt_name_of_the_store_is_not_sent_to_the_hub(vita: Vita, hub: HubServer, source: Path):
    vita("adopt", str(source), "--life", "cat")
    talk = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]}
    (vita.folder / "talks.jsonl").write_text(json.dumps(talk) * 1 + "\n" + json.dumps(talk).replace("a?", "c?") + "\n")
    vita("sft", "talks.jsonl", "--life", "cat", "--steps", "1", "--batch-size", "1", "--json")
    error = vita("chat", "cat/sfft", code=4)
    assert "did you mean `cat/sft`?" in error
    assert not hub.requests


def test_only_the_shards_of_the_index_are_adopted(vita: Vita, hub: HubServer, source: Path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for part, shard_names in enumerate((names[::2], names[1::2])):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in shard_names}, source / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard_names, file)
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    hub.add_model("acme/shards", source, extra={**UNSAFE, "consolidated.safetensors": b"x"})
    artifact = json.loads(vita("adopt", "acme/shards", "--json"))
    weights = sorted(name for name in artifact["files"] if name.endswith(".safetensors"))
    assert weights == sorted(set(weight_map.values()))
    assert vita("generate", "acme/shards", "a", "--max-tokens", "2")


def test_an_unknown_reference_is_refused_with_the_accepted_forms(tmp_path: Path):
    from vita.formats.model_source import ModelSource
    from vita.spine.errors import ModelError

    for reference in ("gpt2", "nowhere/at/all", "missing.gguf"):
        with pytest.raises(ModelError, match="there is no such model; give an id of the Hub"):
            ModelSource(reference).identify(None, where="adopt")


@pytest.mark.slow
def test_code_of_a_repository_is_never_run(vita: Vita, hub: HubServer, source: Path):
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_tiny.Tiny"}}))
    hub.add_model("acme/mapped", source, extra=UNSAFE)
    vita("adopt", "acme/mapped")
    (source / "config.json").write_text(
        json.dumps({**config, "model_type": "strange", "auto_map": {"AutoModel": "modeling_tiny.Tiny"}})
    )
    hub.add_model("acme/strange", source, extra=UNSAFE)
    assert "custom code (auto_map), which Vita does not run" in vita("adopt", "acme/strange", code=6)


def test_every_end_token_of_the_files_stops_generation(source: Path):
    from vita.data.tokens.tokenizer import Tokenizer

    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 9]}))
    assert Tokenizer.load(source).stops >= {7, 8, 9, 258}  # 258 is the eos_token of the tokenizer


@pytest.mark.parametrize("opening", ["{{ bos_token }}", ""])
def test_a_prompt_begins_with_one_bos_token_as_in_transformers(opening: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    from tests.formats.test_gguf import save_sentencepiece_like
    from vita.data.records import Message
    from vita.infer.engine import Engine
    from vita.nn import hf
    from vita.testing import tiny_model

    hf.save(tiny_model(vocabulary=420), tmp_path)
    save_sentencepiece_like(tmp_path)
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(opening + template)
    engine, hf_tokenizer = Engine.open(tmp_path), transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert engine.text_ids("the cat") == hf_tokenizer("the cat").input_ids
    expected = hf_tokenizer.apply_chat_template([{"role": "user", "content": "the cat"}], tokenize=True)["input_ids"]
    assert engine.chat_ids([Message("user", "the cat")]) == expected
    assert expected.count(1) == (1 if opening else 0)
