"""Orthogonalization of the update directions of Muon, on one process or divided among processes.

    orthogonalizer = Orthogonalizer(layouts, world, dtype=torch.bfloat16)
    updates = orthogonalizer.orthogonalize(directions)    # local parts, as the directions

Each matrix is orthogonalized once, by one process. Matrices that one process holds completely stay there; the others
are divided by their cost: their parts are collected on the owner, and the parts of the result are sent to all holders,
in two all-to-all exchanges per step. Stacked matrices of experts are divided one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vita.train.parallel.boxes import Box, TensorLayout
from vita.train.parallel.mesh import ProcessMesh, holders

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration that increases small singular values fastest (Jordan et al. 2024)."""


class Orthogonalizer:
    """Orthogonalizes the same list of matrices in every step."""

    def __init__(self, layouts: Sequence[TensorLayout], world: ProcessMesh, *, dtype: torch.dtype) -> None:
        """`layouts` describe matrices [rows, columns] and stacks of matrices [experts, rows, columns]."""
        self.world, self.dtype = world, dtype
        divided = world.processes > 1
        self.matrices = _divided(layouts, world) if divided else []

    def orthogonalize(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Return the local parts of the orthogonalized matrices; all processes must call it together."""
        if self.world.processes == 1:
            return _orthogonalize_together(directions, dtype=self.dtype)
        process, owned = self.world.process, [part for part in self.matrices if part.owner == self.world.process]
        updates = dict(zip(owned, _orthogonalize_together(self._collect(directions), dtype=self.dtype), strict=True))
        results = [torch.empty_like(direction) for direction in directions]
        outgoing = [[updates[part][box.slices] for part in owned if (box := part.box_of(receiver))]
                    for receiver in range(self.world.processes)]  # fmt: skip
        incoming = [[part for part in self.matrices if part.owner == owner and part.box_of(process)]
                    for owner in range(self.world.processes)]  # fmt: skip
        sizes = [[part.numel_of(process) for part in parts] for parts in incoming]
        for parts, pieces in zip(incoming, self._exchange(outgoing, sizes), strict=True):
            for part, piece in zip(parts, pieces, strict=True):
                target = part.local(results[part.tensor])
                target.copy_(piece.view(target.shape))
        return results

    def _collect(self, directions: Sequence[Tensor]) -> list[Tensor]:
        """Send the local parts of the matrices to their owners; return the matrices that this process owns."""
        process, processes = self.world.process, range(self.world.processes)
        outgoing = [[part.local(directions[part.tensor]).to(self.dtype) for part in self.matrices
                     if part.owner == owner and process in part.senders] for owner in processes]  # fmt: skip
        owned = [part for part in self.matrices if part.owner == process]
        incoming = [[part for part in owned if sender in part.senders] for sender in processes]
        sizes = [[part.numel_of(sender) for part in parts] for sender, parts in enumerate(incoming)]
        matrices = {part: torch.empty(part.shape, dtype=self.dtype, device=self.world.device) for part in owned}
        for sender, (parts, pieces) in enumerate(zip(incoming, self._exchange(outgoing, sizes), strict=True)):
            for part, piece in zip(parts, pieces, strict=True):
                box = part.boxes[sender]
                matrices[part][box.slices] = piece.view(box.sizes)
        return list(matrices.values())

    def _exchange(self, outgoing: Sequence[Sequence[Tensor]], sizes: Sequence[Sequence[int]]) -> list[list[Tensor]]:
        """Send a list of tensors to each process; return the flat tensors of known sizes from each process."""
        flat = [torch.cat([part.reshape(-1) for part in parts]) if parts else None for parts in outgoing]
        received = torch.empty(sum(map(sum, sizes)), dtype=self.dtype, device=self.world.device)
        sent = torch.cat([part for part in flat if part is not None] or [received[:0]])
        lengths = [0 if part is None else len(part) for part in flat]
        totals = [sum(part) for part in sizes]
        torch.distributed.all_to_all_single(received, sent, totals, lengths)
        return [list(part.split(list(parts))) for part, parts in zip(received.split(totals), sizes, strict=True)]


def orthogonal(matrices: Float[Tensor, "N R C"], *, dtype: torch.dtype, iterations: int = 5) -> Float[Tensor, "N R C"]:
    """Orthogonalize each [rows, columns] matrix: singular values become about one (0.7 to 1.2), vectors stay.

    x <- a x + b (x x') x + c (x x')^2 x, starting with x scaled to norm one; rows should not exceed columns.
    """
    a, b, c = NEWTON_SCHULZ
    result = matrices.to(dtype)
    result = result / result.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = result @ result.mT
        result = torch.baddbmm(result, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result


# -- division among processes


@dataclass(eq=False)
class DividedMatrix:
    """A matrix, the parts of it that processes hold, and the process that orthogonalizes it."""

    tensor: int
    """Index of its tensor in the list."""
    expert: int | None
    """Its index in a stack, or None for a matrix that is a tensor."""
    shape: tuple[int, int]
    boxes: dict[int, Box]
    """The part of the matrix that each of its holders has."""
    firsts: dict[int, int]
    """First expert in the local part of the stack of each holder."""
    process: int
    """The process that this description is for."""
    owner: int = 0
    senders: frozenset[int] = frozenset()
    """Processes that together hold each part once, and send it to the owner."""

    @property
    def cost(self) -> int:
        """Multiplications of one product with its Gram matrix."""
        return self.shape[0] * self.shape[1] * min(self.shape)

    def box_of(self, process: int) -> Box | None:
        """Return the part of a process, or None."""
        return self.boxes.get(process)

    def numel_of(self, process: int) -> int:
        """Return the number of elements that a process holds."""
        return self.boxes[process].numel if process in self.boxes else 0

    def local(self, part: Tensor) -> Tensor:
        """Return the rows of this matrix in the local part of its tensor."""
        return part if self.expert is None else part[self.expert - self.firsts[self.process]]


def _divided(layouts: Sequence[TensorLayout], world: ProcessMesh) -> list[DividedMatrix]:
    """Return all matrices with their owners; all processes compute the same."""
    matrices: list[DividedMatrix] = []
    for index, layout in enumerate(layouts):
        boxes = {process: box for box, processes in holders(layout, world).items() for process in processes}
        if len(layout.shape) == 2:
            shape = layout.shape[0], layout.shape[1]
            matrices.append(DividedMatrix(index, None, shape, dict(sorted(boxes.items())), {}, world.process))
            continue
        firsts = {process: box.starts[0] for process, box in boxes.items()}
        for expert in range(layout.shape[0]):
            parts = {process: Box(box.starts[1:], box.sizes[1:]) for process, box in sorted(boxes.items())
                     if box.starts[0] <= expert < box.starts[0] + box.sizes[0]}  # fmt: skip
            shape = layout.shape[1], layout.shape[2]
            matrices.append(DividedMatrix(index, expert, shape, parts, firsts, world.process))
    assign_owners(matrices, world)
    return matrices


def sent_numbers(layouts: Sequence[TensorLayout], world: ProcessMesh) -> int:
    """Return the numbers that this process sends to others in a step."""
    total, process = 0, world.process
    for matrix in _divided(layouts, world):
        if matrix.owner == process:
            total += sum(matrix.numel_of(holder) for holder in matrix.boxes if holder != process)
        elif process in matrix.senders:
            total += matrix.numel_of(process)
    return total


def assign_owners(matrices: Sequence[DividedMatrix], world: ProcessMesh) -> None:
    """Assign the most expensive matrix to the process with the least work so far (longest processing time first)."""
    work = [0] * world.processes
    for matrix in sorted(matrices, key=lambda matrix: -matrix.cost):
        complete = [process for process, box in matrix.boxes.items() if box.sizes == matrix.shape]
        owner = min(complete or range(world.processes), key=lambda process: (work[process], process))
        work[owner] += matrix.cost
        matrix.owner, matrix.senders = owner, _senders(matrix, owner, world)


def _senders(matrix: DividedMatrix, owner: int, world: ProcessMesh) -> frozenset[int]:
    """Return one holder of each part, the nearest to the owner."""

    def distance(process: int) -> tuple[int, int]:
        position, target = world.all_coordinates[process], world.all_coordinates[owner]
        return sum(position[axis] != target[axis] for axis in position), process

    by_box: dict[Box, list[int]] = defaultdict(list)
    for process, box in matrix.boxes.items():
        by_box[box].append(process)
    return frozenset(min(processes, key=distance) for processes in by_box.values())


# -- batches of equal shape


@dataclass(frozen=True)
class _Wide:
    """A stack of matrices with at most as many rows as columns."""

    matrices: Float[Tensor, "N R C"]
    transposed: bool
    stacked: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Wide:
        transposed = tensor.shape[-2] > tensor.shape[-1]
        matrices = tensor.mT if transposed else tensor
        return cls(matrices.reshape(-1, *matrices.shape[-2:]), transposed, tensor.ndim == 3)

    def original_form(self, matrices: Float[Tensor, "N R C"]) -> Tensor:
        result = matrices.mT if self.transposed else matrices
        return result if self.stacked else result[0]


def _orthogonalize_together(directions: Sequence[Tensor], *, dtype: torch.dtype) -> list[Tensor]:
    """Orthogonalize matrices of equal (or transposed) shape in one batch, and return them in their order."""
    results = list(directions)
    for indices in _indices_by_shape(directions).values():
        wide = [_Wide.of(directions[index]) for index in indices]
        updates = orthogonal(torch.cat([part.matrices for part in wide]), dtype=dtype)
        batches = updates.split([len(part.matrices) for part in wide])
        for index, part, batch in zip(indices, wide, batches, strict=True):
            results[index] = part.original_form(batch)
    return results


def _indices_by_shape(tensors: Sequence[Tensor]) -> dict[tuple[int, ...], list[int]]:
    """Group the indices of the tensors by the shape of their matrices, with transposed shapes together."""
    indices_by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        indices_by_shape[tuple(sorted(tensor.shape[-2:]))].append(index)
    return indices_by_shape
