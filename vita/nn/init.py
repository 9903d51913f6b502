"""Weight initialization: schemes from the literature, by name.

    initialize(model, "normal", seed=0)

Each parameter has its own random generator on the CPU, seeded with the seed and the parameter's name: the values are
independent of the device and the number of processes, and an added layer does not change the other layers. Norms start
as the identity and biases at zero in every scheme. The initial loss should be close to ln V for `V` tokens (uniform
prediction).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vita.nn.transformer import Transformer
from vita.spine.registry import Registry

Role = Literal["embedding", "head", "inner", "residual"]
"""`residual` matrices write to the residual stream, `inner` matrices read from it."""


@dataclass(frozen=True)
class MatrixSpec:
    """A matrix: its shape, role and layer."""

    role: Role
    shape: tuple[int, int]
    layer: int
    layers: int
    tied: bool
    name: str = ""
    """Name of the matrix within its layer: `q_proj`."""
    head_dim: int = 64
    kv_heads: int = 1
    rope_base: float = 10000.0
    latent: bool = False
    """True for a matrix of multi-head latent attention, in which only a part of each query has a position."""

    @property
    def fan_in(self) -> int:
        """Number of inputs per output; for the embedding (a lookup) its width."""
        return self.shape[1]


Scheme = Callable[[MatrixSpec, torch.Generator], Tensor]

SCHEMES = Registry[Scheme]("scheme", plural="initialization_schemes")


def initialize(model: Transformer, scheme: str = "normal", *, seed: int = 0) -> None:
    """Initialize every parameter."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(initial_values(name, model, scheme, seed=seed))


def initial_values(name: str, model: Transformer, scheme: str, *, seed: int) -> Tensor:
    """Return the initial values of a parameter, on the CPU; `model` may be on the meta device."""
    shape = model.get_parameter(name).shape
    if len(shape) == 1:
        is_bias = name.endswith(".bias")
        return torch.full(shape, 0.0 if is_bias else 1.0 - model.architecture.norm_offset)
    return _values(name, model, SCHEMES[scheme], seed)


def _values(name: str, model: Transformer, scheme: Scheme, seed: int) -> Tensor:
    """Return the initial values of a matrix, or of the matrices of all experts."""
    matrix = matrix_of(name, model)
    if matrix.name == "router":
        return router(matrix, generator(seed, name))
    shape = model.get_parameter(name).shape
    if len(shape) == 2:
        return scheme(matrix, generator(seed, name))
    return torch.stack([scheme(matrix, generator(seed, f"{name}[{expert}]")) for expert in range(shape[0])])


def matrix_of(name: str, model: Transformer) -> MatrixSpec:
    """Return shape, role and layer of the matrix `name`."""
    parts = name.split(".")
    roles: dict[str, Role] = {
        "embed_tokens": "embedding",
        "embed_positions": "embedding",
        "embed_types": "embedding",
        "lm_head": "head",
        "o_proj": "residual",
        "down_proj": "residual",
    }
    rows, columns = model.get_parameter(name).shape[-2:]
    return MatrixSpec(
        role=roles.get(parts[-2], "inner"),
        shape=(rows, columns),
        layer=int(parts[2]) if parts[1] == "layers" else 0,
        layers=model.architecture.layers,
        tied=model.architecture.tied,
        name=parts[-2],
        head_dim=model.architecture.head_dim,
        kv_heads=model.architecture.kv_heads,
        rope_base=model.architecture.rope_base,
        latent=model.architecture.latent is not None,
    )


def router(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """N(0, 0.1/fan_in): small scores, so that all experts are chosen about equally often (Fedus et al. 2022, sec. 2.4).

    The router of a mixture of experts starts like this in every scheme.
    """
    return _gaussian(matrix, math.sqrt(0.1 / matrix.fan_in), rng)


def generator(seed: int, name: str) -> torch.Generator:
    """Return the random generator of a parameter."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@SCHEMES.add("normal")
def normal(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """N(0, 0.02); residual matrices divided by sqrt(2 layers) (Radford et al. 2019, sec. 2.3)."""
    return _gaussian(matrix, 0.02 / math.sqrt(2 * matrix.layers) if matrix.role == "residual" else 0.02, rng)


@SCHEMES.add("fan_in")
def fan_in(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """N(0, 1/fan_in), so that a unit input gives a unit output (LeCun et al. 1998, sec. 4.6)."""
    return _gaussian(matrix, matrix.fan_in**-0.5, rng)


@SCHEMES.add("llama")
def llama(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """Truncated N(0, 0.02); residual matrices decrease with depth (Zhang et al. 2019).

    The Llama 3 initialization of TorchTitan: layer l writes with std 0.02 / sqrt(2 (l + 1)), the head 1 / sqrt(width).
    """
    if matrix.role == "head" or (matrix.role == "embedding" and matrix.tied):
        return _truncated(matrix, matrix.fan_in**-0.5, rng)
    if matrix.role == "embedding":
        return _gaussian(matrix, 1.0, rng)
    return _truncated(matrix, 0.02 / math.sqrt(2 * (matrix.layer + 1)) if matrix.role == "residual" else 0.02, rng)


@SCHEMES.add("mitchell")
def mitchell(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """Truncated N(0, 1/fan_in); residual matrices decrease with depth (Groeneveld et al. 2024, OLMo)."""
    depth_scale = math.sqrt(2 * (matrix.layer + 1)) if matrix.role == "residual" else 1.0
    return _truncated(matrix, matrix.fan_in**-0.5 / depth_scale, rng)


@SCHEMES.add("mup")
def mup(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """N(0, 1/fan_in) in the layers; std 1/fan_in instead of its square root at the head (Yang et al. 2022, table 3).

    Logits then vanish as the width grows, independent of the width at which the rates were tuned. The zero queries of
    the paper are left out: a norm on zero queries would scale their gradient by 1/sqrt(norm_eps).
    """
    if matrix.role == "head" or (matrix.role == "embedding" and matrix.tied):
        return _gaussian(matrix, 1.0 / matrix.fan_in, rng)
    return _gaussian(matrix, 1.0 if matrix.role == "embedding" else matrix.fan_in**-0.5, rng)


@SCHEMES.add("zero_output")
def zero_output(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """Zero residual matrices, so that every layer starts as the identity (Goyal et al. 2017, sec. 5.1).

    As in nanochat: uniform with std 1/sqrt(fan_in) in the layers, and a head so small that the loss is ln V. A tied
    head cannot be that small, because it is also the input of the first layer; it gets 0.02.
    """
    if matrix.role == "residual":
        return torch.zeros(matrix.shape)
    if matrix.role == "head":
        return _gaussian(matrix, 0.001, rng)
    if matrix.role == "embedding":
        return _gaussian(matrix, 0.02 if matrix.tied else EMBEDDED, rng)
    bound = math.sqrt(3 / matrix.fan_in)
    return torch.empty(matrix.shape).uniform_(-bound, bound, generator=rng)


@SCHEMES.add("previous_token_heads")
def previous_token_heads(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """`zero_output` with previous-token heads: heads of the first layer that attend to the preceding tokens.

    A model first learns from the one, two, three preceding tokens, and must discover attention to them by chance. Here
    each head of layer 0 except the last starts with it: the first channel of the embedding is the same constant for
    every token, queries and keys map it to the fastest rotations (Su et al. 2021, eq. 34), and the keys are rotated by
    the distance to the attended token. All of these weights are trained like any other.
    """
    values = zero_output(matrix, rng)
    if matrix.tied:
        return values
    if matrix.role == "embedding":
        values[:, 0] = CONSTANT * EMBEDDED
    elif matrix.layer == 0 and matrix.name in ("q_proj", "k_proj") and not matrix.latent:
        dim, rotations = matrix.head_dim, min(FAST_ROTATIONS, matrix.head_dim // 2)
        heads = values.view(-1, dim, matrix.fan_in)
        speeds = matrix.rope_base ** (-torch.arange(rotations, dtype=torch.float64) * 2 / dim)
        group = len(heads) // matrix.kv_heads  # query heads per key head
        for head in range(len(heads) - group):
            distance = head // group + 1 if matrix.name == "k_proj" else 0
            heads[head, :rotations, 0] = (AHEAD / CONSTANT * (speeds * distance).cos()).float()
            heads[head, dim // 2 : dim // 2 + rotations, 0] = (AHEAD / CONSTANT * (speeds * distance).sin()).float()
    return values


EMBEDDED = 0.8
"""Standard deviation of the embedding's values in `zero_output`."""
CONSTANT = 4.0
"""Size of the constant channel of `previous_token_heads`, in multiples of `EMBEDDED`."""
FAST_ROTATIONS = 4
"""Number of the fastest rotations of a head that encode the distance: adjacent tokens differ by two nats in score."""
AHEAD = 8.0
"""Ratio of the constant part of a query to its random part, per number."""


@SCHEMES.add("orthogonal")
def orthogonal(matrix: MatrixSpec, rng: torch.Generator) -> Tensor:
    """Orthogonal matrices (Saxe et al. 2014); residual matrices divided by sqrt(2 layers)."""
    if matrix.role in ("embedding", "head"):
        return _gaussian(matrix, 0.02, rng)
    gain = 1 / math.sqrt(2 * matrix.layers) if matrix.role == "residual" else 1.0
    return nn.init.orthogonal_(torch.empty(matrix.shape), gain=gain, generator=rng)


def _gaussian(matrix: MatrixSpec, std: float, rng: torch.Generator) -> Tensor:
    return torch.empty(matrix.shape).normal_(0.0, std, generator=rng)


def _truncated(matrix: MatrixSpec, std: float, rng: torch.Generator) -> Tensor:
    """Draw from a normal distribution, truncated at three standard deviations."""
    return nn.init.trunc_normal_(torch.empty(matrix.shape), 0.0, std, -3 * std, 3 * std, generator=rng)
