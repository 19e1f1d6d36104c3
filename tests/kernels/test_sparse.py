"""Products with sparse matrices, against the dense product in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from graphopt.kernels import SparseMatrix, multiply, openmp
from graphopt.kernels.schedule import Blocks, Schedule, choose, column_blocks

ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "silu": functional.silu, "gelu": functional.gelu}
TOLERANCE = 3e-6  # of the largest number


def blocks_of(weight: torch.Tensor, height: int) -> SparseMatrix:
    rows, inner = weight.shape
    blocks = weight.view(rows // height, height, inner)
    live = (blocks != 0).any(1)
    crow = torch.cat([torch.zeros(1, dtype=torch.int64), live.sum(1).cumsum(0)])
    row, column = live.nonzero(as_tuple=True)
    return SparseMatrix(crow, column, blocks[row, :, column].contiguous(), inner)


def sparse_weight(rows: int, inner: int, height: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    live = torch.rand(rows // height, inner, generator=generator) < density
    return torch.randn(rows, inner, generator=generator) * live.repeat_interleave(height, 0)


def check(
    weight: torch.Tensor, x: torch.Tensor, height: int, activation: str, layout: str, schedule: Schedule | None = None
) -> None:
    bias = torch.linspace(-1, 1, weight.shape[0])
    want = ACTIVATIONS[activation](weight.double() @ x.double() + bias.double()[:, None])
    given_x = x.t().contiguous() if layout == "transposed" else x
    got = multiply(blocks_of(weight, height), given_x, bias, activation, layout, schedule=schedule)
    got = got.t() if layout == "transposed" else got
    assert (got.double() - want).abs().max() <= TOLERANCE * (1 + want.abs().max())


SCHEDULES = st.builds(
    Schedule,
    split=st.sampled_from(["rows", "inner"]),
    depth=st.sampled_from([16, 32, 96]),
    vectors=st.integers(1, 3),
    copied=st.booleans(),
    threads=st.integers(1, 3),
    chunks=st.integers(1, 2),
)


@settings(max_examples=60)
@given(
    row_blocks=st.integers(1, 9),
    inner=st.integers(1, 130),
    columns=st.sampled_from([1, 2, 7, 15, 16, 17, 33, 64, 100]),
    height=st.sampled_from([1, 2, 4, 8]),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    activation=st.sampled_from(list(ACTIVATIONS)),
    layout=st.sampled_from(["copied", "transposed"]),
    schedule=st.none() | SCHEDULES,
    seed=st.integers(0, 9),
)
def test_equals_the_dense_product(row_blocks, inner, columns, height, density, activation, layout, schedule, seed):
    weight = sparse_weight(row_blocks * height, inner, height, density, seed)
    x = torch.randn(inner, columns, generator=torch.Generator().manual_seed(seed + 1))
    if layout == "transposed" and schedule is not None:
        split = "columns" if schedule.split == "inner" else "rows"
        schedule = Schedule(split, schedule.depth, schedule.vectors, True, schedule.threads)
    check(weight, x, height, activation, layout, schedule)


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(768, 768, 128), (64, 4608, 196), (3072, 768, 1), (96, 96, 512)]
)
@pytest.mark.parametrize("layout", ["copied", "transposed"])
def test_equals_the_dense_product_on_sizes_of_models(rows, inner, columns, layout):
    x = torch.randn(inner, columns, generator=torch.Generator().manual_seed(0))
    check(sparse_weight(rows, inner, 1, 0.1, 0), x, 1, "none", layout)


def test_special_numbers_pass_through():
    weight = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    x = torch.tensor([[float("nan"), float("inf")], [1.0, -3.0]])
    got = multiply(blocks_of(weight, 1), x, None, "relu")
    torch.testing.assert_close(got, torch.tensor([[float("nan"), float("inf")], [2.0, 0.0]]), equal_nan=True)


def test_parts_run_one_after_another_without_teams(monkeypatch):
    monkeypatch.setattr(openmp, "_runtime", lambda: None)
    x = torch.randn(64, 40, generator=torch.Generator().manual_seed(0))
    check(sparse_weight(32, 64, 1, 0.2, 0), x, 1, "silu", "copied", Schedule("inner", 16, 2, True, 3))


@pytest.mark.parametrize(
    ("crow", "columns", "message"),
    [([0, 1, 2], [0, 5], "of 4 columns"), ([0, 2, 1], [0, 1], "rise from 0"), ([0, 1, 3], [0, 1], "rise from 0 to 2")],
)
def test_indices_outside_of_the_matrix_are_refused(crow, columns, message):
    with pytest.raises(ValueError, match=message):
        SparseMatrix(torch.tensor(crow), torch.tensor(columns), torch.ones(2, 1), 4)


@given(columns=st.integers(1, 3000), vectors=st.integers(1, 8), lanes=st.sampled_from([4, 8, 16]))
def test_columns_are_cut_without_gap(columns, vectors, lanes):
    cuts = column_blocks(columns, vectors, lanes)
    assert [start for start, _, _ in cuts] == [sum(width for _, _, width in cuts[:i]) for i in range(len(cuts))]
    assert sum(width for _, _, width in cuts) == columns
    assert all(count <= vectors and (count - 1) * lanes < width <= count * lanes for _, count, width in cuts)


@pytest.mark.parametrize("registers", [16, 32])
@pytest.mark.parametrize("height", [1, 2, 4, 8])
def test_sums_fit_the_registers(height, registers):
    matrix = blocks_of(sparse_weight(64, 64, height, 0.2, 0), height)
    for layout in ("copied", "given", "transposed"):
        chosen = choose(matrix.blocks, 200, layout, 8, registers, 2)
        assert chosen.vectors * (height + 1) <= registers, chosen


def test_an_arrangement_holds_each_block_once():
    weight = sparse_weight(48, 70, 2, 0.3, 0)
    blocks: Blocks = blocks_of(weight, 2).blocks
    arranged = blocks.arranged(32, 3, relative=True, every=[0])
    found = torch.zeros_like(weight)
    for tile, (first, _) in enumerate(arranged.tiles):
        for start, stop in arranged.ranges[tile]:
            for i in range(start, stop):
                for column, *values in arranged.entries[arranged.starts[i] : arranged.starts[i + 1]]:
                    for offset, bits in enumerate(values):
                        found[arranged.rows[i] + offset, first + column] += torch.tensor(bits).view(torch.float32)
    assert torch.equal(found, weight)
