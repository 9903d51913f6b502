"""`vita export` and `vita push` through the command line, with llama.cpp, transformers and the real client library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.formats.runner import LocalVita, Vita
from tests.hub_server import HubServer
from vita.data.tokens.chat_template import ChatTemplate
from vita.data.tokens.tokenizer import Tokenizer
from vita.formats.gguf.llama_cpp import LlamaCpp
from vita.formats.ollama import message_format
from vita.nn import hf
from vita.testing import tiny_model

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

GATED = """\
name: gated
model: {model}
stages: {{test: {{}}}}
gates:
  release: {{model: adopt, bars: [{{report: test, figure: parameters, at_least: 1}}]}}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Create a chat model with two end tokens, a card and sampling defaults."""
    folder = tmp_path / "source"
    folder.mkdir()
    hf.save(tiny_model(vocabulary=264, context=256, std=0.3), folder)
    texts = ["the cat and the hat and 123 cats"] * 5
    Tokenizer.train(texts, vocabulary=264, digits=3, trainer="tokenizers").save(folder)
    ChatTemplate.default().save(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    settings = {"eos_token_id": [263, 261], "temperature": 0.6, "top_k": 20, "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


def test_llama_cpp_gives_the_greedy_answers_of_an_exported_model(local: LocalVita, source: Path):
    result = json.loads(local("export", str(source), "--to", "gguf", "--quant", "f32", "-o", "tiny.gguf", "--json"))
    assert (result["path"], result["quantization"], result["notes"]) == ("tiny.gguf", "f32", [])
    prompt, options = "the cat", ("--temperature", "0", "--max-tokens", "12", "--json")
    text = json.loads(local("generate", str(source), prompt, *options))
    chat = json.loads(local("generate", str(source), prompt, "--chat", *options))
    with LlamaCpp(local.folder / "tiny.gguf") as server:
        ids = Tokenizer.load(source).encode(prompt)
        assert server.complete([261, *ids], tokens=12)["tokens"] == text["ids"]
        rendered = server.post("/apply-template", {"messages": [{"role": "user", "content": prompt}]})["prompt"]
        assert server.tokenize(rendered, special=True, add_bos=True) == server.tokenize(rendered, special=True)
        assert server.complete(rendered, tokens=12)["tokens"] == chat["ids"]

    trace = local("trace", "adopted/source")
    assert "exported as gguf f32: tiny.gguf (sha256 " in trace
    exports = json.loads(local("trace", "adopted/source", "--json"))["given_away"]
    assert [(use["event"], use["sha256"]) for use in exports] == [("exported", result["sha256"])]


def test_the_modelfile_of_ollama_has_the_template_and_all_stops(local: LocalVita, source: Path):
    local("export", str(source), "--to", "gguf", "--quant", "q8_0", "-o", "out/tiny.gguf")
    modelfile = (local.folder / "out" / "Modelfile").read_text()
    assert modelfile.startswith('FROM ./tiny.gguf\nTEMPLATE """')
    for parameter in ('stop "<|im_end|>"', 'stop "<|endoftext|>"', "temperature 0.6", "top_k 20", "num_ctx 256"):
        assert f"PARAMETER {parameter}\n" in modelfile
    assert '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n' in modelfile
    # A template with other rules is omitted.
    (source / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }} {{ loop.index }}: {{ m.content }}<|im_end|>{% endfor %}"
    )
    assert message_format(source, Tokenizer.load(source)) is None


@torch.no_grad()
def test_transformers_gives_equal_logits_and_stops_for_the_exported_folder(local: LocalVita, source: Path):
    transformers = pytest.importorskip("transformers")
    local("export", str(source), "--to", "hf", "-o", "plain")
    folder = local.folder / "plain"
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.tensor([Tokenizer.load(folder).encode("the cat and 123")])
    assert transformers.AutoTokenizer.from_pretrained(folder)("the cat and 123").input_ids == tokens[0].tolist()
    assert torch.allclose(hf_model(tokens).logits, hf.load(folder)(tokens), atol=1e-4)
    assert hf_model.generation_config.eos_token_id == hf_model.config.eos_token_id == [263, 261]
    assert (folder / "README.md").read_text().startswith("---\nlicense: mit")
    error = local("export", str(source), "--to", "hf", "-o", "plain", code=4)
    assert "exists already" in error


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the HTTP library of huggingface_hub
def test_a_push_uploads_weights_card_and_licence_and_is_recorded(vita: Vita, hub: HubServer, source: Path):
    hub.add_model("acme/tiny", source)
    result = json.loads(vita("push", "acme/tiny", "me/copy", "--gguf", "q8_0", "--json", HF_TOKEN="hf_secret123"))
    repository = hub.repositories["me/copy"]
    files = repository.commits[repository.branches["main"]]
    assert repository.branches["main"] == result["commit"]
    assert files["model.safetensors"] == (source / "model.safetensors").read_bytes()
    assert files["README.md"].startswith(b"---\nlicense: mit") and "acme-tiny-q8_0.gguf" in files
    assert f"pushed to the Hub: me/copy at commit {result['commit'][:12]}" in vita("trace", "acme/tiny")
    vita("adopt", "me/copy")  # the pushed model can be adopted
    assert hub.tokens == {"hf_secret123"}


@pytest.mark.slow
def test_a_model_of_a_lifecycle_with_a_gate_needs_an_approval_or_a_reason(local: LocalVita, source: Path):
    (local.folder / "life.yaml").write_text(GATED.format(model=source))
    local("live", "life.yaml", "--until", "adopt")
    for command in (("export", "gated/adopt", "--to", "hf"), ("push", "gated/adopt", "me/copy")):
        error = local(*command, code=9)
        assert "expected a model that a gate has approved" in error and "give --ungated REASON" in error
    result = json.loads(local("export", "gated/adopt", "--to", "hf", "--ungated", "a test", "--json"))
    assert (result["clearance"]["status"], result["clearance"]["reason"]) == ("ungated", "a test")


@pytest.mark.slow
def test_an_adapter_is_refused_by_name_until_it_is_merged(local: LocalVita, source: Path):
    talk = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b!"}]}
    (local.folder / "talks.jsonl").write_text(json.dumps(talk) + "\n" + json.dumps(talk).replace("a?", "c?") + "\n")
    tuned = ("--model", str(source), "--adapter", "{rank: 2}", "--steps", "1", "--batch-size", "1", "--json")
    local("sft", "talks.jsonl", *tuned)
    for command in (("export", "my/sft", "--to", "gguf"), ("push", "my/sft", "me/copy")):
        error = local(*command, code=6)
        assert "my/sft: is an adapter, not a model; merge it into its base model first: `vita merge`" in error
    local("merge", "my/sft", "--json")
    local("export", "my/merge", "--to", "gguf", "--quant", "f32", "-o", "merged.gguf")
    assert (local.folder / "merged.gguf").is_file()


def test_invalid_options_of_an_export_are_refused(local: LocalVita, source: Path):
    assert "did you mean `gguf`" in local("export", str(source), "--to", "gguff", code=2)
    assert "`q9` is not known here" in local("export", str(source), "--to", "gguf", "--quant", "q9", code=2)
    assert "is for --to gguf" in local("export", str(source), "--to", "hf", "--quant", "q8_0", code=2)
    assert "expected owner/name" in local("push", str(source), "copy", code=2)
