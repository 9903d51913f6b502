"""A life whose release is served by llama.cpp, from the command line: planned, released, piloted and promoted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import LIFE, Vita, vita
from vita.spine.config import build
from vita.stages.release import Config, unsupported

__all__ = ["vita"]

WORLD = "{things: 20, documents: 200, dialogues: 20}"
GATED = f"""
  check: {{stage: test, prompts: []}}
  release: {{name: tiny, gate: approved}}
  faster: {{stage: release, name: tiny, gate: approved, backend: BACKEND}}
  pilot: {{world: {WORLD}, sessions: 4, max_tokens: 4, replicas: 1, inputs: {{release: faster}}}}
  canary: {{world: {WORLD}, sessions: 8, max_tokens: 4, replicas: 1, max_regression: 1,
           inputs: {{release: faster, serving: release}}}}
gates:
  approved: {{model: sft, bars: [{{report: check, figure: heldout/bits_per_byte, at_most: 99}}]}}
ask:"""


def life(backend: str) -> str:
    text = LIFE.replace("filters: []", "filters: [], held_out: 8").replace("\nask:", GATED, 1)
    return text.replace("BACKEND", backend).replace("context: 32", "context: 128")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "problem"),
    [
        ("{program: llama.cpp, quantization: q9_0}", "q9_0"),
        ("{program: vllm, environment: /nowhere}", "/nowhere holds no bin/python"),
        ("{program: vita, url: 'http://x'}", "`url` is not a setting"),
        ("llama.cpp, speculation: ngram", "release.speculation"),
    ],
)
def test_an_impossible_backend_is_refused_before_the_life_runs(
    vita: Vita, tmp_path: Path, backend: str, problem: str
) -> None:
    pytest.importorskip("xllamacpp")
    (tmp_path / "life.yaml").write_text(life(backend))
    code, out, err = vita("plan", "life.yaml")
    assert code != 0 and problem in err and "Traceback" not in out + err


@pytest.mark.parametrize(
    ("traits", "reason"),
    [
        ({"causal": False, "family": "bert"}, "it is an encoder"),
        ({"causal": True, "classifier": True, "family": "qwen3"}, "it is a sequence classifier"),
        ({"causal": True, "family": "mamba"}, "llama.cpp has no graph for `mamba`"),
        ({"causal": True, "family": "qwen3"}, None),
    ],
)
def test_a_model_that_the_backend_cannot_serve_is_known_in_the_plan(traits: dict[str, Any], reason: str | None) -> None:
    pytest.importorskip("xllamacpp")
    config = build(Config, {"backend": "llama.cpp"}, where="release")
    problem = unsupported(config, {"model": traits})
    assert problem is None if reason is None else reason in (problem or "")


@pytest.mark.slow
def test_a_life_releases_pilots_and_promotes_a_model_with_llama_cpp(vita: Vita, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    (tmp_path / "life.yaml").write_text(life("{program: llama.cpp, quantization: f32}"))
    code, out, err = vita("live", "life.yaml")
    assert code == 0, out + err
    shown = json.loads(vita("show", "tiny/faster", "--json")[1])
    content = json.loads((Path(shown["folder"]) / "release.json").read_text())
    assert content["backend"]["gguf"] == content["files"]["gguf/model.gguf"]
    assert content["version"].endswith("-llama.cpp-f32")
    assert shown["facts"]["golden_difference"] < 0.01 and shown["facts"]["backend"] == "llama.cpp"
    pilot = json.loads(vita("show", "tiny/pilot", "--json")[1])
    canary = json.loads(vita("show", "tiny/canary", "--json")[1])
    assert pilot["facts"]["answers"] > 0 and canary["facts"]["promoted"] is True
    assert "nothing to do" in vita("plan", "life.yaml")[1]
