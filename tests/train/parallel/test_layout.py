"""The mesh of processes and the parts of tensors that they hold, with values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from vita.spine.config import canonical
from vita.spine.errors import ConfigError
from vita.testing import tiny_model
from vita.train.orthogonalization import DividedMatrix, assign_owners
from vita.train.parallel.boxes import AxisSlice, Box, TensorLayout, chunk
from vita.train.parallel.experts import divide_experts
from vita.train.parallel.mesh import ProcessMesh, holders
from vita.train.parallel.settings import AXES, ParallelSettings, axis_sizes
from vita.train.parallel.tensor import divide_tensors
from vita.train.settings import StepSettings


def mesh(process: int = 0, **sizes: int) -> ProcessMesh:
    """Return a mesh that is not connected."""
    return ProcessMesh(process=process, sizes={**dict.fromkeys(AXES, 1), **sizes}, connected=False)


def test_processes_that_divide_a_model_read_the_same_rows():
    worlds = [mesh(process, replicate=2, shard=2, tensor=2) for process in range(8)]
    assert [world.rank for world in worlds] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {world.size for world in worlds} == {4}
    assert worlds[5].coordinates == {"replicate": 1, "expert": 0, "shard": 0, "context": 0, "tensor": 1}


def test_a_slice_by_columns_is_sharded_by_rows():
    layout = TensorLayout((10, 8), (AxisSlice(1, "tensor"),), ("shard",))
    boxes = [mesh(process, shard=4, tensor=2).box(layout) for process in range(8)]
    assert boxes[3] == Box((3, 4), (3, 4))  # rows 3 to 5, columns 4 to 7
    assert boxes[7] == Box((9, 4), (1, 4))  # the last chunk has the remaining row
    covered = torch.zeros(10, 8)
    for box in boxes:
        box.of(covered).add_(1)
    assert torch.equal(covered, torch.ones(10, 8))


@pytest.mark.parametrize(("rows", "count"), [(10, 4), (3, 4), (8, 3), (1, 2)])
def test_chunks_are_those_of_torch(rows, count):
    expected = [len(part) for part in torch.arange(rows).chunk(count)]
    sizes = [chunk(rows, index, count)[1] for index in range(count)]
    assert sizes == expected + [0] * (count - len(expected))


def test_replicas_hold_the_same_parts():
    layout = TensorLayout((4, 2), sharded=("shard",))
    assert holders(layout, mesh(replicate=2, shard=2)) == {Box((0, 0), (2, 2)): [0, 2], Box((2, 0), (2, 2)): [1, 3]}


def test_boxes_intersect_in_the_indices_that_they_share():
    first, second = Box((0, 4), (6, 4)), Box((4, 0), (4, 6))
    assert first.intersection(second) == Box((4, 4), (2, 2))
    assert Box((4, 4), (2, 2)).relative_to(second) == Box((0, 4), (2, 2))
    assert first.intersection(Box((6, 0), (1, 8))) is None


def matrix(rows: int, columns: int, *, processes: int) -> DividedMatrix:
    part = rows // processes
    boxes = {process: Box((process * part, 0), (part, columns)) for process in range(processes)}
    return DividedMatrix(0, None, (rows, columns), boxes, {}, 0)


def test_each_matrix_is_orthogonalized_once_and_the_work_is_balanced():
    """Costs are rows x columns x smaller side; the first process gets 8,192 of 13,824."""
    sizes = [(16, 32), (8, 32), (32, 8), (8, 16), (8, 8)]
    matrices = [matrix(rows, columns, processes=2) for rows, columns in sizes]
    assign_owners(matrices, mesh(shard=2))
    assert [part.cost for part in matrices] == [8192, 2048, 2048, 1024, 512]
    assert [part.owner for part in matrices] == [0, 1, 1, 1, 1]
    assert all(part.senders == {0, 1} for part in matrices)


def test_a_matrix_that_a_process_holds_completely_stays_there():
    part = DividedMatrix(0, 2, (8, 8), {1: Box((0, 0), (8, 8))}, {1: 2}, 1)
    assign_owners([part], mesh(shard=2))
    assert part.owner == 1 and part.senders == {1}


def test_shard_takes_the_processes_that_other_axes_leave():
    sizes = axis_sizes(ParallelSettings(tensor=2), 8)
    assert sizes == {"replicate": 1, "expert": 1, "shard": 4, "context": 1, "tensor": 2}


@pytest.mark.parametrize(
    ("settings", "processes", "message"),
    [
        ({"tensor": 2}, 3, r"expected a multiple of 2 processes \(tensor 2\), got 3"),
        ({"shard": 2, "replicate": 2}, 2, r"expected exactly 4 processes \(replicate 2 x shard 2\), got 2"),
        ({"context": 2}, 1, r"expected a multiple of 2 processes \(context 2\), got 1"),
    ],
)
def test_a_layout_for_another_number_of_processes_is_refused(settings, processes, message):
    with pytest.raises(ConfigError, match=message):
        axis_sizes(ParallelSettings.model_validate(settings), processes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_heads": 1}, "expected a divisor of the model's 1 key-value heads, got 2"),
        ({"feedforward": 47}, "expected a divisor of the model's 47 feed-forward units, got 2"),
        ({"qk_norm": "projection"}, "norms over all heads of a token cannot be divided"),
    ],
)
def test_a_model_that_the_tensor_axis_cannot_divide_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        divide_tensors(tiny_model(**changes), mesh(tensor=2))


def test_a_model_without_experts_cannot_use_expert_parallelism():
    with pytest.raises(ConfigError, match=r"parallel\.expert: the model has no experts"):
        divide_experts(tiny_model(), mesh(expert=2))


def test_the_layout_is_not_part_of_the_identity_of_a_run():
    settings = [StepSettings(), StepSettings(parallel=ParallelSettings(tensor=2))]
    assert canonical(settings[0]) == canonical(settings[1])
