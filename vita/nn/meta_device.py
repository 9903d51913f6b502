"""Memory for modules that were created on the meta device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def allocate(module: nn.Module, device: str | torch.device) -> None:
    """Replace the parameters and buffers of a module by uninitialized ones on a device; shared ones stay shared.

    `Module.to_empty` does the same and imports SymPy for it, which takes a third of a second.
    """
    replacements: dict[Tensor, Tensor] = {}
    for owner in module.modules():
        for name, parameter in [*owner.named_parameters(recurse=False, remove_duplicate=False)]:
            if parameter not in replacements:
                memory = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                replacements[parameter] = nn.Parameter(memory, requires_grad=parameter.requires_grad)
            setattr(owner, name, replacements[parameter])
        for name, buffer in [*owner.named_buffers(recurse=False, remove_duplicate=False)]:
            if buffer not in replacements:
                replacements[buffer] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
            setattr(owner, name, replacements[buffer])
