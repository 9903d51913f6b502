"""Releases with weights in bfloat16, of 8 and of 4 bits: statements, checks and refusals of a replica, equal bits."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.server.releases import model_folder
from tests.server.serving import serving
from tests.server.test_adapters import save_adapter_of
from tests.server.test_fleet import Fleet
from vita.infer.adapter_scheduler import AdapterScheduler
from vita.infer.drafts import ModelDrafter
from vita.infer.engine import Engine
from vita.infer.request import GenerationRequest, TokenEvent
from vita.infer.sampling import Sampling
from vita.infer.scheduler import Scheduler
from vita.nn import int4, int8
from vita.nn.int8 import Int8Linear
from vita.nn.weight_format import WeightFormat
from vita.server.backend_settings import BackendSettings
from vita.server.decoding_options import DecodingOptions
from vita.server.release import create_release, read_release
from vita.server.replica.adapters import Adapters
from vita.server.replica.main import main, open_app
from vita.stages.release import golden_answers

pytestmark = pytest.mark.skipif(
    not (int8.has_exact_products() and int4.has_kernel()), reason="no kernels for 8-bit and 4-bit weights"
)
SIZES: dict[str, Any] = {"width": 64, "feedforward": 128, "context": 128}
CONTINUE: dict[str, Any] = {"model": "m", "max_tokens": 8, "temperature": 1, "seed": 5, "logprobs": 2}


def quantized_release(folder: Path, kind: WeightFormat, *, golden_change: float = 0.0, **backend: Any) -> Path:
    """Create a release of a random model, whose golden answers are those of the float32 weights."""
    model = model_folder(folder / "model", **SIZES)
    golden = golden_answers(Engine.open(model), ("a cat", "Hello!"), tokens=8)
    changed = [{**answer, "logprob": answer["logprob"] + golden_change} for answer in golden]
    settings = {"program": "vita", "quantization": kind, **backend}
    return create_release(model, folder / "release", name="m", version="1", golden=changed, backend=settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
def test_a_replica_states_its_quantization_and_answers_with_the_same_bits_in_a_batch(
    tmp_path: Path, kind: WeightFormat
) -> None:
    app = open_app(quantized_release(tmp_path, kind, tolerance=0.5))
    engine = app.state.replica.scheduler.engine
    assert isinstance(engine.model.quantized_head, Int8Linear) == (kind != "bf16")
    assert engine.model.head_weight.dtype == (torch.bfloat16 if kind == "bf16" else torch.float32)
    with serving(app) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for backend in (http.get("/ready").json()["backend"], http.get("/v1/models").json()["data"][0]["backend"]):
            assert (backend["program"], backend["quantization"]) == ("vita", kind)
            assert backend["golden"]["answers"] == 2 and backend["golden"]["tolerance"] == 0.5
            assert 0 < backend["golden"]["difference"] < 0.5
        bodies = [{**CONTINUE, "prompt": "abc" * count, "seed": count} for count in (1, 2, 9)]

        def choices(body: dict[str, Any]) -> Any:
            return http.post("/v1/completions", json=body).raise_for_status().json()["choices"]

        alone = [choices(body) for body in bodies]
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(choices, bodies)) == alone


def test_a_gpu_computes_in_bfloat16_by_default_and_a_cpu_in_float32() -> None:
    default, float32 = BackendSettings(), BackendSettings(quantization="float32")
    assert default.on_device("cuda:1").weight_format == "bf16" and default.on_device("cpu").weight_format is None
    assert default.on_device("cuda").allowed_difference == 0.05 and default.allowed_difference == 0.01
    assert float32.on_device("cuda").weight_format is None and float32.allowed_difference == 0.01
    assert BackendSettings(quantization="int8").on_device("cuda").weight_format == "int8"
    vllm = BackendSettings(program="vllm", environment="/nowhere")
    assert vllm.on_device("cuda") == vllm


@pytest.mark.slow
def test_drafts_and_adapters_are_computed_in_bfloat16(tmp_path: Path) -> None:
    release = read_release(quantized_release(tmp_path, "bf16"))
    engine = Engine.open(release.folder / "model", packed=True, quantization="bf16")
    with closing(Scheduler(engine, rows=4, queue=4)) as base_scheduler:
        adapters = Adapters(release, engine, base_scheduler)
        for name, options in (("lora", {}), ("full", {"modules_to_save": ("q_proj",)})):
            adapter = save_adapter_of(tmp_path / "model", tmp_path / name, seed=1, **options)
            created = read_release(create_release(adapter, tmp_path / f"release-{name}", name=name, version="1"))
            scheduler, served = adapters.load(created.folder, digest=created.digest)
            with closing(scheduler):
                assert isinstance(scheduler, AdapterScheduler) and served.backend["quantization"] == "bf16"
                ids = torch.arange(5)[None]
                expected = Engine.open(adapter).model(ids)
                assert (scheduler.engine.model(ids).float() - expected).norm() < 0.02 * expected.norm()
                prompt = GenerationRequest(engine.text_ids("a cat"), Sampling(temperature=0, max_tokens=6))
                scores = [event.score for event in scheduler.answer(prompt) if isinstance(event, TokenEvent)]
                (score,) = Engine.open(adapter).score([(prompt.prompt, [token.id for token in scores])])
                assert [token.logprob for token in scores] == pytest.approx(score.logprobs, abs=0.2)
    draft = model_folder(tmp_path / "draft", **SIZES)
    content = {**release.content, "speculation": {"method": "draft_model", "tokens": 2}}
    with_draft = create_release(
        tmp_path / "model", tmp_path / "drafted", name="m", version="1", golden=content["golden"],
        backend=content["backend"], draft=draft, decoding=DecodingOptions.of(content).record(),
    )  # fmt: skip
    drafter = open_app(with_draft).state.replica.scheduler.drafter
    assert isinstance(drafter, ModelDrafter) and drafter.model.head_weight.dtype == torch.bfloat16


def test_a_quantized_answer_has_the_same_bits_alone_and_in_a_batch(tmp_path: Path) -> None:
    model = model_folder(tmp_path / "model", **SIZES)
    engine = Engine.open(model, packed=True, quantization="int8")
    assert engine.widths.invariant
    prompts = [engine.text_ids("abc" * count) for count in (1, 2, 30)]
    samplings = [Sampling(max_tokens=tokens, temperature=1.0, seed=5) for tokens in (3, 8, 12)]
    together = engine.generate(prompts, samplings)
    for prompt, sampling, expected in zip(prompts, samplings, together, strict=True):
        (alone,) = engine.generate([prompt], sampling)
        assert (alone.ids, alone.logprobs) == (expected.ids, expected.logprobs)


def test_quantized_weights_that_change_the_golden_answers_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = quantized_release(tmp_path, "int8", golden_change=4.0)
    assert main(["--release", str(release), "--port", "1"]) == 6
    (line,) = capsys.readouterr().err.splitlines()
    assert "release.golden: expected log-probability" in line and "(+-0.05 per token)" in line
    assert "int8 weights change the answers of this model; use float32, or set `tolerance`" in line


def test_quantized_weights_are_refused_without_golden_answers_and_on_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release = quantized_release(tmp_path, "int8")
    assert main(["--release", str(release), "--port", "1", "--device", "cuda"]) == 6
    assert "int8 weights are computed on a CPU only, got 'cuda'" in capsys.readouterr().err
    content = json.loads((release / "release.json").read_text())
    (release / "release.json").write_text(json.dumps({**content, "golden": []}))
    assert main(["--release", str(release), "--port", "1"]) == 6
    assert "holds no golden answers with which `int8` could be compared" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_is_computed_in_the_batch_of_its_quantized_base(tmp_path: Path) -> None:
    base = model_folder(tmp_path / "base", **SIZES)
    golden = golden_answers(Engine.open(base), ("a cat",), tokens=4)
    backend = {"program": "vita", "quantization": "int8", "tolerance": 1.0}
    create_release(base, tmp_path / "release", name="m", golden=golden, backend=backend)
    engine = Engine.open(tmp_path / "release" / "model", packed=True, quantization="int8")
    with closing(Scheduler(engine, rows=4, queue=4)) as base_scheduler:
        adapters = Adapters(read_release(tmp_path / "release"), engine, base_scheduler)
        for name, options in (("lora", {}), ("full", {"modules_to_save": ("q_proj",)})):
            adapter = save_adapter_of(base, tmp_path / name, seed=1, **options)
            release = read_release(create_release(adapter, tmp_path / f"release-{name}", name=name, version="1"))
            scheduler, served = adapters.load(release.folder, digest=release.digest)
            with closing(scheduler):
                # A matrix that is trained in full needs quantized weights of its own.
                assert isinstance(scheduler, AdapterScheduler) is not bool(options)
                assert served.backend["quantization"] == "int8"
                model = scheduler.engine.model
                down_proj = model.get_submodule("model.layers.0.mlp.down_proj.quantized")
                assert isinstance(down_proj, Int8Linear)
                shared = down_proj.codes is engine.model.get_submodule("model.layers.0.mlp.down_proj").codes
                assert shared is not bool(options)
                ids = torch.arange(5)[None]
                expected = Engine.open(adapter).model(ids)
                assert (model(ids) - expected).norm() < 0.2 * expected.norm()
                prompt = GenerationRequest(engine.text_ids("a cat"), Sampling(temperature=0, max_tokens=6))
                tokens = [event.score.id for event in scheduler.answer(prompt) if isinstance(event, TokenEvent)]
                assert tokens == list(scheduler.engine.generate([prompt.prompt], prompt.sampling)[0].ids)


@pytest.mark.slow
def test_a_service_serves_a_model_with_8_bit_weights_beside_the_float32_model(tmp_path: Path) -> None:
    model_folder(tmp_path / "a", **SIZES)
    fleet = Fleet(tmp_path)
    with fleet.serving("a", "--name", "x", "--ungated", "a test"):
        quantization = ("--backend-set", "quantization=int8", "--backend-set", "tolerance=0.5")
        code, out = fleet.vita("fleet", "roll", "a", "--share", "0.5", "--ungated", "a test", *quantization)
        assert code == 0, out
        assert "vita int8" in fleet.vita("fleet", "status")[1]
        with httpx.Client(base_url=fleet.url, timeout=60, trust_env=False) as http:
            cards = {card["id"]: card["vita"] for card in http.get("/v1/models").json()["data"]}
            (name,) = (name for name in cards if name.endswith("-int8"))
            details = cards[name]["backend_details"]
            assert details["quantization"] == "int8" and details["golden"]["answers"] == 5
            assert "backend_details" not in cards["x"]
            body = {**CONTINUE, "model": name, "prompt": "a cat"}
            assert http.post("/v1/completions", json=body).status_code == 200
        code, out = fleet.vita("fleet", "roll", "a", "--ungated", "a test", "--backend-set", "quantization=int5")
        assert code == 2 and "is one of float32, bf16, int8, int4, not `int5`" in out
