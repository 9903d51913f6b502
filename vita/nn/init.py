"""How every weight begins: schemes from the literature, by name.

    initialize(model, "normal", seed=0)

Each parameter draws from a generator of its own, made from the seed and the parameter's name, on the CPU: the values
depend neither on device nor on how many processes share the work, and another layer leaves the others as they were.
Norms begin at one in every scheme. `V` tokens being equally likely to an empty mind, the loss should begin near ln V.
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
from vita.spine.parts import Parts

Role = Literal["embedding", "head", "inner", "residual"]
"""`residual` matrices write to the stream that runs through all layers, `inner` ones read from it."""


@dataclass(frozen=True)
class Place:
    """A matrix and where it stands."""

    role: Role
    shape: tuple[int, int]
    layer: int
    layers: int
    tied: bool
    name: str = ""
    """What the matrix is called within its layer: `q_proj`."""
    head_dim: int = 64
    kv_heads: int = 1
    rope_base: float = 10000.0

    @property
    def fan_in(self) -> int:
        """How many numbers are summed into each output; of the embedding, which only looks up, its width."""
        return self.shape[1]


Scheme = Callable[[Place, torch.Generator], Tensor]

SCHEMES = Parts[Scheme]("scheme")


def initialize(model: Transformer, scheme: str = "normal", *, seed: int = 0) -> None:
    """Gives every parameter its first value."""
    draw = SCHEMES[scheme]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
            continue
        values = draw(place_of(name, model), generator(seed, name))
        with torch.no_grad():
            parameter.copy_(values)


def place_of(name: str, model: Transformer) -> Place:
    """Where the matrix called `name` stands."""
    parts = name.split(".")
    roles: dict[str, Role] = {
        "embed_tokens": "embedding",
        "lm_head": "head",
        "o_proj": "residual",
        "down_proj": "residual",
    }
    rows, columns = model.get_parameter(name).shape
    return Place(
        role=roles.get(parts[-2], "inner"),
        shape=(rows, columns),
        layer=int(parts[2]) if parts[1] == "layers" else 0,
        layers=model.architecture.layers,
        tied=model.architecture.tied,
        name=parts[-2],
        head_dim=model.architecture.head_dim,
        kv_heads=model.architecture.kv_heads,
        rope_base=model.architecture.rope_base,
    )


def generator(seed: int, name: str) -> torch.Generator:
    """The source of chance for one parameter."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@SCHEMES.add("normal")
def normal(place: Place, chance: torch.Generator) -> Tensor:
    """N(0, 0.02), and what writes to the stream divided by sqrt(2 layers) (Radford et al. 2019, sec. 2.3)."""
    return _gaussian(place, 0.02 / math.sqrt(2 * place.layers) if place.role == "residual" else 0.02, chance)


@SCHEMES.add("fan_in")
def fan_in(place: Place, chance: torch.Generator) -> Tensor:
    """N(0, 1/fan_in), so that a unit input gives a unit output (LeCun et al. 1998, sec. 4.6)."""
    return _gaussian(place, place.fan_in**-0.5, chance)


@SCHEMES.add("llama")
def llama(place: Place, chance: torch.Generator) -> Tensor:
    """Truncated N(0, 0.02), shrinking with depth where it writes to the stream (Zhang et al. 2019).

    As TorchTitan begins Llama 3: layer l writes with 0.02 / sqrt(2 (l + 1)), the head with 1 / sqrt(width).
    """
    if place.role == "head" or (place.role == "embedding" and place.tied):
        return _truncated(place, place.fan_in**-0.5, chance)
    if place.role == "embedding":
        return _gaussian(place, 1.0, chance)
    return _truncated(place, 0.02 / math.sqrt(2 * (place.layer + 1)) if place.role == "residual" else 0.02, chance)


@SCHEMES.add("mitchell")
def mitchell(place: Place, chance: torch.Generator) -> Tensor:
    """Truncated N(0, 1/fan_in), shrinking with depth where it writes to the stream (Groeneveld et al. 2024, OLMo)."""
    deeper = math.sqrt(2 * (place.layer + 1)) if place.role == "residual" else 1.0
    return _truncated(place, place.fan_in**-0.5 / deeper, chance)


@SCHEMES.add("mup")
def mup(place: Place, chance: torch.Generator) -> Tensor:
    """N(0, 1/fan_in) within, 1/fan_in instead of its root at the head (Yang et al. 2022, table 3).

    Logits then vanish as the width grows, whatever the width the rates were found at. Their zero queries are left out:
    a norm on the queries would multiply that nothing's gradient by 1/sqrt(norm_eps).
    """
    if place.role == "head" or (place.role == "embedding" and place.tied):
        return _gaussian(place, 1.0 / place.fan_in, chance)
    return _gaussian(place, 1.0 if place.role == "embedding" else place.fan_in**-0.5, chance)


@SCHEMES.add("zero_output")
def zero_output(place: Place, chance: torch.Generator) -> Tensor:
    """Every layer begins as nothing added: matrices that write to the stream are zero (Goyal et al. 2017, sec. 5.1).

    As nanochat does for a decoder: uniform with std 1/sqrt(fan_in) within, and a head so small that the loss is ln V.
    A tied head cannot be that small, since it is also what the first layer reads; it gets 0.02.
    """
    if place.role == "residual":
        return torch.zeros(place.shape)
    if place.role == "head":
        return _gaussian(place, 0.001, chance)
    if place.role == "embedding":
        return _gaussian(place, 0.02 if place.tied else EMBEDDED, chance)
    reach = math.sqrt(3 / place.fan_in)
    return torch.empty(place.shape).uniform_(-reach, reach, generator=chance)


@SCHEMES.add("neighbours")
def neighbours(place: Place, chance: torch.Generator) -> Tensor:
    """As `zero_output`, with heads of the first layer that begin by looking at the tokens before.

    What stands one, two, three places before is what a young model learns from first, and it has to find attention
    that looks there by chance. Here each head but the last of layer 0 begins so: the embedding's first channel holds
    the same number for every token, queries and keys read it into the fastest rotations (Su et al. 2021, eq. 34), and
    the keys are turned on by as many places as the head looks back. All of it is learnt further like any weight.
    """
    values = zero_output(place, chance)
    if place.tied:
        return values
    if place.role == "embedding":
        values[:, 0] = CONSTANT * EMBEDDED
    elif place.layer == 0 and place.name in ("q_proj", "k_proj"):
        dim, rotations = place.head_dim, min(FAST_ROTATIONS, place.head_dim // 2)
        heads = values.view(-1, dim, place.fan_in)
        speeds = place.rope_base ** (-torch.arange(rotations, dtype=torch.float64) * 2 / dim)
        group = len(heads) // place.kv_heads  # queries that share their keys
        for head in range(len(heads) - group):
            back = head // group + 1 if place.name == "k_proj" else 0
            heads[head, :rotations, 0] = (AHEAD / CONSTANT * (speeds * back).cos()).float()
            heads[head, dim // 2 : dim // 2 + rotations, 0] = (AHEAD / CONSTANT * (speeds * back).sin()).float()
    return values


EMBEDDED = 0.8
"""Standard deviation of the embedding's values in `zero_output`."""
CONSTANT = 4.0
"""How large the constant channel of `neighbours` is, in such deviations."""
FAST_ROTATIONS = 4
"""How many of a head's rotations, the fastest, tell places apart: neighbours differ by two nats in their score."""
AHEAD = 8.0
"""How large a query's constant part is beside its random one, number for number."""


@SCHEMES.add("orthogonal")
def orthogonal(place: Place, chance: torch.Generator) -> Tensor:
    """Matrices that keep lengths and angles (Saxe et al. 2014), divided by sqrt(2 layers) where they write."""
    if place.role in ("embedding", "head"):
        return _gaussian(place, 0.02, chance)
    gain = 1 / math.sqrt(2 * place.layers) if place.role == "residual" else 1.0
    return nn.init.orthogonal_(torch.empty(place.shape), gain=gain, generator=chance)


def _gaussian(place: Place, std: float, chance: torch.Generator) -> Tensor:
    return torch.empty(place.shape).normal_(0.0, std, generator=chance)


def _truncated(place: Place, std: float, chance: torch.Generator) -> Tensor:
    """No value beyond three standard deviations."""
    return nn.init.trunc_normal_(torch.empty(place.shape), 0.0, std, -3 * std, 3 * std, generator=chance)
