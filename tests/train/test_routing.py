"""Balance of experts in training: equal to transformers, over micro-batches, recomputation and checkpoints."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.nn.open_models import ids, save
from tests.nn.test_experts import mixture, router_of
from vita.nn import hf
from vita.nn.experts import Routing, observed
from vita.nn.init import initialize
from vita.nn.transformer import Transformer
from vita.spine.errors import ConfigError
from vita.train.losses import language_modelling
from vita.train.parallel.mesh import ProcessMesh
from vita.train.routing import RouterTraining, load_statistics
from vita.train.schedule import Schedule
from vita.train.settings import RouterSettings
from vita.train.trainer import StepBatch, Trainer, TrainerConfig

ROWS = ids(13, rows=8)


def model_of(**experts: Any) -> Transformer:
    model = Transformer(mixture(**experts))
    initialize(model, "fan_in")
    return model


def trainer_of(model: Transformer, **settings: Any) -> Trainer:
    values = {"schedule": Schedule(steps=20, warmup=0), "precision": "float32", "compile": "no", **settings}
    return Trainer(model, language_modelling, TrainerConfig.model_validate(values))


def batch(rows: torch.Tensor = ROWS) -> StepBatch:
    return StepBatch({"ids": rows}, targets=rows[:, 1:].numel())


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_loss_has_the_value_and_gradient_of_transformers(padded: bool, tmp_path: Path) -> None:
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    theirs = save("qwen3_moe", tmp_path)
    model, tokens = hf.load(tmp_path), ids(9)
    attention = torch.ones(2, 8, dtype=torch.long)
    learn = torch.zeros(2, 9, dtype=torch.bool)
    learn[:, 3:] = True
    if padded:
        attention[1, 5:], learn[1, 6:] = 0, False
    output = theirs(tokens[:, :-1], attention_mask=attention, output_router_logits=True, use_cache=False)
    expected = load_balancing_loss_func(output.router_logits, 4, 2, attention if padded else None)
    assert isinstance(expected, torch.Tensor)
    (3.0 * expected).backward()
    routing = RouterTraining(model, RouterSettings(router_balance_loss=3.0), ProcessMesh())
    with routing.observe(model) as routings:
        model(tokens[:, :-1])
    loss = routing.loss(routings, {"ids": tokens, "learn": learn}, share=1.0)
    assert loss is not None
    loss.backward()
    assert loss.item() == pytest.approx(3.0 * expected.item(), rel=1e-5)
    for layer in (0, 2, 3):  # layer 1 is dense
        got = model.get_parameter(f"model.layers.{layer}.mlp.router.weight").grad
        want = theirs.get_parameter(f"model.layers.{layer}.mlp.gate.weight").grad
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)
    assert routing.end_step(update=True)["router_balance_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_the_statistics_of_a_load_are_those_worked_out_by_hand() -> None:
    statistics = load_statistics(torch.tensor([[4.0, 4.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]]))
    assert statistics["router_max_load"] == 1.5 and statistics["router_max_load_by_layer"] == [2.0, 1.0]
    assert statistics["router_unused_experts"] == 0.25
    assert statistics["router_load_entropy"] == pytest.approx((math.log(2) / math.log(4) + 1) / 2, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_statistics_and_corrections_do_not_depend_on_micro_batches_or_recomputation(router: str) -> None:
    results = []
    for settings in ({}, {"micro_batch_tokens": 24}, {"recompute_activations": True}):
        rate = {"router_bias_rate": 0.01} if router == "sigmoid" else {}
        trainer = trainer_of(model_of(router=router, shared=16), router_balance_loss=0.0, **rate, **settings)
        figures = [trainer.step(batch()).figures for _ in range(2)]
        bias = router_of(trainer.model).e_score_correction_bias
        names = ("router_max_load", "router_load_entropy", "router_unused_experts", "router_max_load_by_layer")
        results.append(([[step[name] for name in names] for step in figures], None if bias is None else bias.tolist()))
    assert results[0] == results[1] == results[2]
    if router == "sigmoid":
        assert max(map(abs, results[0][1])) == pytest.approx(0.02)


def test_a_recomputed_step_has_the_gradients_of_a_plain_one_with_a_balance_loss() -> None:
    gradients = []
    for recompute in (False, True):
        trainer = trainer_of(model_of(), router_balance_loss=0.5, router_z_loss=0.1, recompute_activations=recompute)
        trainer.accumulate(batch())
        gradients.append({name: parameter.grad for name, parameter in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("router", "rate"), [("softmax", {"router_balance_loss": 1.0}), ("sigmoid", {"router_bias_rate": 0.02})]
)
def test_unbalanced_experts_become_balanced(router: str, rate: dict[str, float]) -> None:
    """All tokens prefer the experts 0 and 1 at first, by the weights of the routers or their corrections."""
    model = model_of(router=router)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("router.weight"):
                tensor.mul_(0.1)
                tensor[:2] += 0.05 * model.get_parameter(name)[2:].sum(0).sign()
            if name.endswith("e_score_correction_bias"):
                tensor[:2] = 0.15
    trainer = trainer_of(model, **rate)
    loads = [trainer.step(batch()).figures["router_load_entropy"] for _ in range(20)]
    assert max(loads[-5:]) > 0.9 and max(loads[-5:]) > loads[0] + 0.05


def test_the_corrections_of_routers_are_in_checkpoints() -> None:
    first = trainer_of(model_of(router="sigmoid"), router_bias_rate=0.01)
    for _ in range(2):
        first.step(batch())
    tensors, state = {name: tensor.clone() for name, tensor in first.tensors().items()}, first.state()
    second = trainer_of(model_of(router="sigmoid"), router_bias_rate=0.01)
    second.load(tensors, state)
    assert first.step(batch()) == second.step(batch())
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_in_bfloat16_the_router_of_deepseek_stays_in_float32_and_its_correction_is_shared() -> None:
    trainer = trainer_of(model_of(router="sigmoid", precision="float32"), precision="bfloat16", router_bias_rate=0.01)
    computed = router_of(trainer.learner.model)
    assert computed.weight is router_of(trainer.model).weight and computed.weight.dtype == torch.float32
    trainer.step(batch())
    assert computed.e_score_correction_bias is router_of(trainer.model).e_score_correction_bias
    with observed(trainer.learner.model) as routings:
        trainer.learner.model(ROWS)
    (routing,) = routings["model.layers.0.mlp"]
    assert isinstance(routing, Routing) and routing.logits.dtype == torch.float32


@pytest.mark.parametrize(
    ("experts", "settings", "message"),
    [
        ({}, {"router_bias_rate": 0.001}, "router_bias_rate: the routers of this model have no correction"),
        (None, {"router_balance_loss": 0.01}, "router_balance_loss: the model has no experts"),
        (None, {"router_z_loss": 0.001}, "router_z_loss: the model has no experts"),
    ],
)
def test_settings_without_a_meaning_for_the_model_are_refused(
    experts: dict[str, Any] | None, settings: dict[str, float], message: str
) -> None:
    from vita.testing import tiny_model

    model = tiny_model() if experts is None else model_of(**experts)
    with pytest.raises(ConfigError, match=message):
        trainer_of(model, **settings)


TWO_PROCESSES = """
import json, sys
from pathlib import Path
from tests.train.test_routing import shared_training
from vita.spine.machine import Machine
from vita.train.parallel.mesh import joined

with joined(Machine.detect()) as world:
    result = shared_training(sys.argv[1], world)
    if world.leads:
        Path(sys.argv[2]).write_text(json.dumps(result))
"""


def shared_training(router: str, world: ProcessMesh) -> dict[str, Any]:
    """Train a mixture on the rows of one process; return the statistics, gradient norms and corrections."""
    settings = {"router_bias_rate": 0.01} if router == "sigmoid" else {"router_balance_loss": 0.5, "router_z_loss": 0.1}
    values = {"schedule": Schedule(steps=20, warmup=0), "precision": "float32", "compile": "no", **settings}
    training = TrainerConfig.model_validate(values)
    trainer = Trainer(model_of(router=router), language_modelling, training, world=world, threads=1)
    rows = ROWS[world.rank * 8 // world.size : (world.rank + 1) * 8 // world.size]
    steps = [trainer.step(StepBatch({"ids": rows}, targets=8 * 12)) for _ in range(2)]
    trained = trainer.trained()  # on the meta device, but for the leading process
    correction = router_of(trained).e_score_correction_bias if world.leads else None
    return {
        "norms": [step.gradient_norm for step in steps],
        "figures": [
            {name: step.figures[name] for name in ("router_max_load", "router_balance_loss")} for step in steps
        ],
        "correction": None if correction is None else correction.tolist(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_two_processes_balance_experts_like_one(router: str, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "program.py").write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    settings = {"OMP_NUM_THREADS": "1", "VITA_DEVICE": "cpu", "PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"}
    arguments = [str(tmp_path / "program.py"), router, str(tmp_path / "result.json")]
    subprocess.run([*command, *arguments], cwd=root, check=True, env=settings)
    parallel, single = json.loads((tmp_path / "result.json").read_text()), shared_training(router, ProcessMesh())
    assert parallel["norms"][0] == pytest.approx(single["norms"][0], rel=1e-4)
    for name, value in single["figures"][0].items():
        assert parallel["figures"][0][name] == pytest.approx(value, rel=1e-5)
    assert parallel["correction"] == pytest.approx(single["correction"], abs=1e-6)
