"""The optimizers: parity with PyTorch, and laws that every registered rule follows."""

from __future__ import annotations

import pytest
import torch

from vita.spine.errors import StoreError
from vita.testing import tiny_model
from vita.train.optim import RULES, Optimizer, OptimizerConfig, parameter_role
from vita.train.orthogonalization import orthogonal


def create_parameters(*shapes: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"matrix{i}": torch.randn(shape, generator=generator).requires_grad_() for i, shape in enumerate(shapes)}


def give_gradients(parameters: dict[str, torch.Tensor], *, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_muon_equals_torch_muon_up_to_rounding():
    shapes = ((8, 8), (8, 24), (24, 8), (8, 8))
    parameters, reference_parameters = create_parameters(*shapes), create_parameters(*shapes)
    settings = OptimizerConfig(matrix_rate=0.02, weight_decay=0.1, momentum=0.95)
    optimizer = Optimizer(parameters, settings)
    reference = torch.optim.Muon(list(reference_parameters.values()), lr=0.02, weight_decay=0.1, momentum=0.95)
    for step in range(5):
        give_gradients(parameters, seed=step)
        give_gradients(reference_parameters, seed=step)
        optimizer.step()
        reference.step()
    initial_parameters = create_parameters(*shapes)
    for name, parameter in parameters.items():
        distance = (reference_parameters[name] - initial_parameters[name]).norm()
        assert (parameter - reference_parameters[name]).norm() / distance < 0.01


def test_adamw_equals_torch_adamw():
    parameters, reference_parameters = create_parameters((6, 4), (5,)), create_parameters((6, 4), (5,))
    settings = OptimizerConfig(matrices="adamw", matrix_rate=0.01, scalar_rate=0.01, betas=(0.8, 0.9), epsilon=1e-8)
    optimizer = Optimizer(parameters, settings)
    reference = torch.optim.AdamW(
        list(reference_parameters.values()), lr=0.01, betas=(0.8, 0.9), eps=1e-8, weight_decay=0.0
    )
    for step in range(5):
        give_gradients(parameters, seed=step)
        give_gradients(reference_parameters, seed=step)
        optimizer.step()
        reference.step()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter, reference_parameters[name])


def test_orthogonal_keeps_singular_vectors_and_equalizes_singular_values():
    matrices = torch.randn(3, 12, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orthogonalized = orthogonal(matrices, dtype=torch.float64)
    singular_values = torch.linalg.svdvals(orthogonalized)
    assert singular_values.min() > 0.6 and singular_values.max() < 1.25
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosines = torch.einsum("nij,nij->n", orthogonalized, u @ v) / 12
    assert (cosines > 0.8).all()


@pytest.mark.parametrize("rule", RULES.names())
def test_every_rule_descends_decays_and_resumes_from_its_state(rule):
    settings = OptimizerConfig(matrices=rule, matrix_rate=0.05, weight_decay=0.0)
    goal = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))

    def steps(optimizer: Optimizer, count: int) -> float:
        weight = optimizer.parameters["matrix0"]
        for _ in range(count):
            weight.grad = weight.detach() - goal
            optimizer.step()
        return (weight.detach() - goal).norm().item()

    uninterrupted = Optimizer(create_parameters((6, 9)), settings)
    first_distance = steps(uninterrupted, 1)
    stopped = Optimizer(create_parameters((6, 9)), settings)
    steps(stopped, 11)
    state = {name: tensor.clone() for name, tensor in stopped.state().items()}
    resumed = Optimizer({"matrix0": stopped.parameters["matrix0"].detach().clone()}, settings)
    resumed.load(state, steps=stopped.steps)
    assert steps(uninterrupted, 29) < first_distance
    steps(resumed, 19)
    assert torch.equal(uninterrupted.parameters["matrix0"], resumed.parameters["matrix0"])

    decaying = Optimizer(create_parameters((6, 9)), settings.model_copy(update={"weight_decay": 0.1}))
    before = decaying.parameters["matrix0"].detach().clone()
    decaying.parameters["matrix0"].grad = torch.zeros(6, 9)
    decaying.step()
    torch.testing.assert_close(decaying.parameters["matrix0"].detach(), before * (1 - 0.05 * 0.1))


def test_each_parameter_role_has_its_own_learning_rate():
    model = tiny_model(tied=False)
    parameters = dict(model.named_parameters())
    groups = Optimizer(parameters, OptimizerConfig(head_rate=0.5)).groups
    assert {parameter_role(name, parameter) for name, parameter in parameters.items()} == set(groups)
    assert groups["head"].names == ["lm_head.weight"] and groups["head"].rate == 0.5
    assert groups["embedding"].names == ["model.embed_tokens.weight"]
    assert all(parameters[name].ndim == 1 for name in groups["scalars"].names)
    assert len(groups["matrices"].names) == 2 * 7


def test_a_state_of_other_parameters_is_refused():
    optimizer = Optimizer(create_parameters((4, 4)), OptimizerConfig())
    with pytest.raises(StoreError, match=r"does not fit this run: `matrix0/momentum`"):
        optimizer.load({}, steps=1)
    with pytest.raises(StoreError, match=r"matrix0/momentum: expected \(4, 4\), got \(4, 5\)"):
        optimizer.load({"matrix0/momentum": torch.zeros(4, 5)}, steps=1)
