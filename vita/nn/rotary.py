"""Rotary positions (Su et al. 2021), and the rules that extend them to longer texts.

Frequencies and angles are computed in fp32 on the CPU, so that all devices use identical values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vita.nn.architecture import Architecture, RopeScaling

# B batch, T position, H head, E numbers in a head, F frequency

Turn = tuple[Float[Tensor, "#B T 1 F"], Float[Tensor, "#B T 1 F"]]
"""Cosine and sine of the rotary angles of each position."""


class Rotary(nn.Module):
    """Tables of the rotary angles, in fp32 and not saved."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, architecture: Architecture, *, base: float | None = None, scaled: bool = True) -> None:
        """`base` replaces `rope_base`; `scaled` applies the scaling of the architecture."""
        super().__init__()
        self.context, self.size = architecture.context, architecture.rotated
        self.base = base or architecture.rope_base
        self.scaling = architecture.rope_scaling if scaled else None
        shape = len(self._tables()), self.context, self.size // 2
        self.register_buffer("cosine", torch.empty(shape), persistent=False)
        self.register_buffer("sine", torch.empty(shape), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Compute the tables; call again after `to_empty` of a model on the meta device."""
        device = self.cosine.device
        if device.type == "meta":
            return
        positions = torch.arange(self.context, device="cpu").float()
        angles = torch.stack([torch.outer(positions, frequencies) for frequencies in self._tables()])
        cosine, sine = angles.cos(), angles.sin()
        if self.scaling and self.scaling.magnitude != 1.0:
            cosine, sine = cosine * self.scaling.magnitude, sine * self.scaling.magnitude
        self.cosine, self.sine = cosine.to(device), sine.to(device)

    def _tables(self) -> list[Float[Tensor, "F"]]:
        """The frequencies of each table: for `longrope` those of short and of long texts."""
        frequencies = base_frequencies(self.base, self.size)
        if self.scaling is None:
            return [frequencies]
        if self.scaling.type == "longrope":
            factors = self.scaling.short_factors, self.scaling.long_factors
            return [frequencies / torch.tensor(values, device="cpu") for values in factors]
        return [scaled_frequencies(frequencies, self.scaling, base=self.base, size=self.size)]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Rotary:
        """Move the tables with the model, but do not round them in `model.bfloat16()`."""
        super()._apply(fn, recurse)
        if self.cosine.dtype != torch.float32:
            self.reset_parameters()
        return self

    def forward(
        self, tokens: int, positions: Int[Tensor, "#B T"] | None, lengths: Int[Tensor, "#B"] | None = None
    ) -> Turn:
        """Return the angles of positions 0, 1, 2, ... or `positions`.

        `lengths` are the lengths of the texts, on which the frequencies of some rules depend; by default a text ends
        at its last position.
        """
        if self.scaling is None or not self.scaling.depends_on_length:
            if positions is None:
                return self.cosine[0, None, :tokens, None], self.sine[0, None, :tokens, None]
            return self.cosine[0, positions].unsqueeze(2), self.sine[0, positions].unsqueeze(2)
        if positions is None:
            positions = torch.arange(tokens, device=self.cosine.device)[None]
        if lengths is None:
            lengths = positions.amax(1) + 1
        if self.scaling.type == "longrope":
            table = (lengths > self.scaling.original_context).long()[:, None]
            return self.cosine[table, positions].unsqueeze(2), self.sine[table, positions].unsqueeze(2)
        frequencies = dynamic_frequencies(lengths, self.scaling, base=self.base, size=self.size)
        angles = (positions[:, :, None].float() * frequencies[:, None])[:, :, None]
        return angles.cos() * self.scaling.magnitude, angles.sin() * self.scaling.magnitude


def base_frequencies(base: float, size: int) -> Float[Tensor, "F"]:
    """Return the frequencies base^(-2i/size) of the pairs i (Su et al. 2021, sec. 3.2.2)."""
    return 1.0 / base ** (torch.arange(0, size, 2, device="cpu").float() / size)


def scaled_frequencies(
    frequencies: Float[Tensor, "F"], scaling: RopeScaling, *, base: float, size: int
) -> Float[Tensor, "F"]:
    """Apply a rule that does not depend on the length of the text."""
    if scaling.type == "linear":
        return frequencies / scaling.factor
    if scaling.type == "llama3":
        return _llama3(frequencies, scaling)
    if scaling.type == "yarn":
        return _yarn(frequencies, scaling, base=base, size=size)
    return frequencies


def _llama3(frequencies: Float[Tensor, "F"], scaling: RopeScaling) -> Float[Tensor, "F"]:
    """Interpolate between scaled and unscaled frequencies by the rotations within the original context."""
    rotations = scaling.original_context * frequencies / (2 * math.pi)
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    unscaled = ((rotations - scaling.low_frequency_factor) / span).clamp(0, 1)
    return unscaled * frequencies + (1 - unscaled) * frequencies / scaling.factor


def _yarn(frequencies: Float[Tensor, "F"], scaling: RopeScaling, *, base: float, size: int) -> Float[Tensor, "F"]:
    """YaRN (Peng et al. 2023, eq. 17 to 23): a ramp over the dimensions instead of the rotations."""

    def dimension(rotations: float) -> float:
        return size * math.log(scaling.original_context / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = ((torch.arange(size // 2, device="cpu") - low) / (high - low or 0.001)).clamp(0, 1)
    return frequencies * (1 - ramp) + frequencies / scaling.factor * ramp


def dynamic_frequencies(
    lengths: Int[Tensor, "#B"], scaling: RopeScaling, *, base: float, size: int
) -> Float[Tensor, "#B F"]:
    """Return the frequencies of dynamic NTK scaling: the base grows with texts longer than the original context."""
    length = lengths.clamp(min=scaling.original_context).float()
    growth = scaling.factor * length / scaling.original_context - (scaling.factor - 1)
    bases = base * growth ** (size / (size - 2))
    exponents = torch.arange(0, size, 2, device=lengths.device).float() / size
    return 1.0 / bases[:, None] ** exponents


def rotate(states: Float[Tensor, "B T H E"], turn: Turn) -> Float[Tensor, "B T H E"]:
    """Rotate each pair (i, i + r/2) of the first r numbers by the angle of its position, with r/2 angles.

    This is the half-split convention of Llama and Qwen. The other numbers of a head stay as they are.
    """
    cosine, sine = turn
    rotated = 2 * cosine.shape[-1]
    if rotated < states.shape[-1]:
        return torch.cat((_rotate(states[..., :rotated], cosine, sine), states[..., rotated:]), dim=-1)
    return _rotate(states, cosine, sine)


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).type_as(states)
