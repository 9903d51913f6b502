"""The optimizers against PyTorch's own, and what every rule in the table must do."""

from __future__ import annotations

import pytest
import torch

from vita.spine.errors import StoreError
from vita.testing import tiny_model
from vita.train.optim import RULES, Optimizer, OptimizerConfig, orthogonal, parameter_role


def named(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {f"matrix{i}": torch.randn(shape, generator=chance).requires_grad_() for i, shape in enumerate(shapes)}


def give_gradients(parameters: dict[str, torch.Tensor], *, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=chance)


def test_muon_is_torch_muon_to_the_rounding_of_its_products():
    shapes = ((8, 8), (8, 24), (24, 8), (8, 8))
    ours, theirs = named(*shapes), named(*shapes)
    settings = OptimizerConfig(matrix_rate=0.02, weight_decay=0.1, momentum=0.95)
    mine = Optimizer(ours, settings)
    reference = torch.optim.Muon(list(theirs.values()), lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(5):
        give_gradients(ours, seed=step)
        give_gradients(theirs, seed=step)
        mine.step()
        reference.step()
    begun = named(*shapes)
    for name, parameter in ours.items():
        moved = (theirs[name] - begun[name]).norm()
        assert (parameter - theirs[name]).norm() / moved < 0.01


def test_adamw_is_torch_adamw():
    ours, theirs = named((6, 4), (5,)), named((6, 4), (5,))
    settings = OptimizerConfig(matrices="adamw", matrix_rate=0.01, scalar_rate=0.01, betas=(0.8, 0.9), epsilon=1e-8)
    mine = Optimizer(ours, settings)
    reference = torch.optim.AdamW(list(theirs.values()), lr=0.01, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.0)
    for step in range(5):
        give_gradients(ours, seed=step)
        give_gradients(theirs, seed=step)
        mine.step()
        reference.step()
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name])


def test_orthogonal_keeps_the_directions_and_evens_out_the_sizes():
    matrices = torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonal(matrices, dtype=torch.float64)
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.6 and sizes.max() < 1.25
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    inner = torch.einsum("nij,nij->n", found, u @ v) / 12
    assert (inner > 0.8).all()


@pytest.mark.parametrize("rule", RULES.names())
def test_every_rule_descends_decays_and_goes_on_from_its_state(rule):
    settings = OptimizerConfig(matrices=rule, matrix_rate=0.05, weight_decay=0.0)
    goal = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))

    def steps(optimizer: Optimizer, count: int) -> float:
        weight = optimizer.parameters["matrix0"]
        for _ in range(count):
            weight.grad = weight.detach() - goal
            optimizer.step()
        return (weight.detach() - goal).norm().item()

    straight = Optimizer(named((6, 9)), settings)
    first = steps(straight, 1)
    stopped = Optimizer(named((6, 9)), settings)
    steps(stopped, 11)
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    resumed = Optimizer({"matrix0": stopped.parameters["matrix0"].detach().clone()}, settings)
    resumed.load(state, steps=stopped.steps)
    assert steps(straight, 29) < first
    steps(resumed, 19)
    assert torch.equal(straight.parameters["matrix0"], resumed.parameters["matrix0"])

    still = Optimizer(named((6, 9)), settings.model_copy(update={"weight_decay": 0.1}))
    before = still.parameters["matrix0"].detach().clone()
    still.parameters["matrix0"].grad = torch.zeros(6, 9)
    still.step()
    torch.testing.assert_close(still.parameters["matrix0"].detach(), before * (1 - 0.05 * 0.1))


def test_each_part_of_a_model_has_its_own_rate():
    model = tiny_model(tied=False)
    parameters = dict(model.named_parameters())
    groups = Optimizer(parameters, OptimizerConfig(head_rate=0.5)).groups
    assert {parameter_role(name, parameter) for name, parameter in parameters.items()} == set(groups)
    assert groups["head"].names == ["lm_head.weight"] and groups["head"].rate == 0.5
    assert groups["embedding"].names == ["model.embed_tokens.weight"]
    assert all(parameters[name].ndim == 1 for name in groups["scalars"].names)
    assert len(groups["matrices"].names) == 2 * 7


def test_a_state_of_other_parameters_is_refused_by_name():
    optimizer = Optimizer(named((4, 4)), OptimizerConfig())
    with pytest.raises(StoreError, match=r"does not fit this run: `matrix0/momentum`"):
        optimizer.load({}, steps=1)
    with pytest.raises(StoreError, match=r"matrix0/momentum: expected \(4, 4\), got \(4, 5\)"):
        optimizer.load({"matrix0/momentum": torch.zeros(4, 5)}, steps=1)
