"""The part of a tensor that a process holds, as a box of indices in the full tensor.

    layout = TensorLayout((512, 64), slices=(AxisSlice(0, "tensor"),), sharded=("shard",))
    box = layout.box({"tensor": 1, "shard": 0}, {"tensor": 2, "shard": 2})     # rows 256 to 384
    part = box.of(full_tensor)

Tensor and expert parallelism slice a dimension in equal parts. FSDP then divides the first dimension of the slice in
chunks of equal size, of which the last ones may be smaller or empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A range of indices in each dimension of a tensor."""

    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def full(cls, shape: Sequence[int]) -> Box:
        """Return the box of a whole tensor."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.sizes)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the box in the full tensor."""
        return tuple(slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True))

    def of(self, tensor: Tensor) -> Tensor:
        """Return the part of a full tensor, which shares its memory."""
        return tensor[self.slices] if self.sizes else tensor

    def narrow(self, dimension: int, start: int, size: int) -> Box:
        """Return a part of the box: `size` indices from `start` on, counted from the start of the box."""
        starts, sizes = [*self.starts], [*self.sizes]
        starts[dimension] += start
        sizes[dimension] = size
        return Box(tuple(starts), tuple(sizes))

    def intersection(self, other: Box) -> Box | None:
        """Return the common part of two boxes, or None without one."""
        starts = tuple(max(pair) for pair in zip(self.starts, other.starts, strict=True))
        stops = [
            min(start + size, other_start + other_size)
            for start, size, other_start, other_size in zip(
                self.starts, self.sizes, other.starts, other.sizes, strict=True
            )
        ]
        sizes = tuple(stop - start for start, stop in zip(starts, stops, strict=True))
        return Box(starts, sizes) if all(size > 0 for size in sizes) else None

    def relative_to(self, other: Box) -> Box:
        """Return the same box with indices counted from the start of `other`."""
        return Box(tuple(start - base for start, base in zip(self.starts, other.starts, strict=True)), self.sizes)


@dataclass(frozen=True)
class AxisSlice:
    """A division of a dimension in equal parts over the processes of an axis."""

    dimension: int
    axis: str


@dataclass(frozen=True)
class TensorLayout:
    """The division of a tensor among the processes of a mesh."""

    shape: tuple[int, ...]
    slices: tuple[AxisSlice, ...] = ()
    sharded: tuple[str, ...] = ()
    """Axes over which FSDP divides the first dimension of the slice, the slowest first."""

    @property
    def axes(self) -> frozenset[str]:
        """Axes whose processes hold different parts."""
        return frozenset(self.sharded) | {part.axis for part in self.slices}

    def box(self, coordinates: Mapping[str, int], sizes: Mapping[str, int]) -> Box:
        """Return the box of the process at `coordinates` of a mesh with `sizes`."""
        box = Box.full(self.shape)
        for part in self.slices:
            length = box.sizes[part.dimension] // sizes[part.axis]
            box = box.narrow(part.dimension, coordinates[part.axis] * length, length)
        if self.sharded and self.shape:
            count, index = 1, 0
            for axis in self.sharded:
                count, index = count * sizes[axis], index * sizes[axis] + coordinates[axis]
            start, length = chunk(box.sizes[0], index, count)
            box = box.narrow(0, start, length)
        return box


def chunk(rows: int, index: int, count: int) -> tuple[int, int]:
    """Return start and size of a chunk of `rows`, as `torch.chunk` divides them; the last chunks may be empty."""
    size = -(-rows // count)
    start = min(rows, index * size)
    return start, min(size, rows - start)
