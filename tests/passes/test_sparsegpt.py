"""SparseGPT against a reference in double precision that inverts the Hessian anew for each column."""

from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt.errors import GraphOptError
from graphopt.passes.weight_pruning.patterns import masks, parse_pattern
from graphopt.passes.weight_pruning.sparsegpt import inverse_factor, sparsegpt
from tests.zoo.trained import trained_lenet


def problem(rows: int, columns: int, positions: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and inputs [columns, positions] that hang together."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(columns, dtype=torch.float64)
    mixing += torch.randn(columns, columns, generator=generator, dtype=torch.float64) / columns**0.5
    x = mixing @ torch.randn(columns, positions, generator=generator, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x


def reference(
    weight: torch.Tensor, hessian: torch.Tensor, choose: dict[int, tuple[int, int]], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Optimal brain surgeon, column by column: the inverse over the columns not yet passed is computed at each step.

    choose: at which column which range is decided; `count` weights of the range go in each row (0 < count), or over
        all rows (count < 0).
    """
    work, kept = weight.clone(), torch.ones_like(weight, dtype=torch.bool)
    columns = weight.shape[1]
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    for j in range(columns):
        if j in choose:
            first, last = choose[j]
            costs = torch.stack([work[:, k] ** 2 / inverses[k][0, 0] for k in range(first, last)], 1)
            if count > 0:
                kept[:, first:last].scatter_(1, costs.argsort(1)[:, :count], False)
            else:
                part = kept[:, first:last].reshape(-1)
                part[costs.reshape(-1).argsort()[:-count]] = False
                kept[:, first:last] = part.view_as(costs)
        for row in range(len(work)):
            if not kept[row, j]:
                work[row, j:] -= work[row, j] / inverses[j][0, 0] * inverses[j][0]
    return work * kept, kept


def damped(x: torch.Tensor, damping: float) -> torch.Tensor:
    gram = x @ x.T
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)


def error(weight: torch.Tensor, other: torch.Tensor, x: torch.Tensor) -> float:
    return float(((weight - other) @ x).norm() / (weight @ x).norm())


def test_factor() -> None:
    _, x = problem(1, 12, 30)
    upper = inverse_factor(x @ x.T, 0.01)
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped(x, 0.01)))
    assert torch.equal(upper, upper.triu())


def test_unstructured_is_the_reference() -> None:
    weight, x = problem(6, 20, 50)
    expected, marks = reference(weight, damped(x, 0.01), {0: (0, 20)}, -60)
    found, kept = sparsegpt(weight, x @ x.T, channels=20, sparsity=0.5, pattern=parse_pattern("unstructured"), refine=0)
    assert torch.equal(kept, marks)
    torch.testing.assert_close(found, expected)


def test_windows_are_the_reference() -> None:
    weight, x = problem(5, 16, 40, seed=1)
    expected, marks = reference(weight, damped(x, 0.05), {j: (j, j + 4) for j in range(0, 16, 4)}, 2)
    found, kept = sparsegpt(
        weight, x @ x.T, channels=16, sparsity=0, pattern=parse_pattern("2:4"), damping=0.05, refine=0
    )
    assert torch.equal(kept, marks)
    torch.testing.assert_close(found, expected)


def test_blocks_of_columns_change_nothing_but_who_is_chosen() -> None:
    """Across the boundary of a block the update is the same as in one go: 2:4 decides by window anyhow."""
    weight, x = problem(3, 264, 300, seed=2)
    expected, marks = reference(weight, damped(x, 0.01), {j: (j, j + 4) for j in range(0, 264, 4)}, 2)
    found, kept = sparsegpt(weight, x @ x.T, channels=264, sparsity=0, pattern=parse_pattern("2:4"), refine=0)
    assert torch.equal(kept, marks)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=1e-6)


def test_one_column_is_the_closed_form() -> None:
    """With the first column gone, the rest is the least-squares fit to the old outputs."""
    weight, x = problem(4, 9, 40, seed=3)
    given = torch.ones_like(weight, dtype=torch.bool)
    given[:, 0] = False
    found, kept = sparsegpt(
        weight,
        x @ x.T,
        channels=9,
        sparsity=0,
        pattern=parse_pattern("unstructured"),
        damping=0.0,
        refine=0,
        given=given,
    )
    fitted = torch.linalg.lstsq(x[1:].T, (weight @ x).T).solution.T
    assert torch.equal(kept, given)
    torch.testing.assert_close(found[:, 1:], fitted)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "1:4", "4x1", "2x2"])
@pytest.mark.parametrize("seed", range(3))
def test_compensation_pays(pattern: str, seed: int) -> None:
    """Between the best that its zeros allow (least squares row by row) and the same zeros without compensation; and
    better than what magnitude would take."""
    weight, x = problem(8, 24, 60, seed)
    kind = parse_pattern(pattern)
    found, kept = sparsegpt(weight, x @ x.T, channels=24, sparsity=0.5, pattern=kind, damping=1e-6)
    best = torch.zeros_like(weight)
    for row in range(len(weight)):
        columns = kept[row].nonzero().flatten()
        best[row, columns] = torch.linalg.lstsq(x[columns].T, weight[row] @ x).solution
    (largest,) = masks([weight.abs()[None]], [24], [0.5], kind, "layer")
    mine = error(weight, found, x)
    assert error(weight, best, x) <= mine * (1 + 1e-9)
    assert mine <= error(weight, weight * kept, x)
    assert mine <= error(weight, weight * largest[0], x)
    assert int((~kept).sum()) == int((~largest[0]).sum())
    assert not found[~kept].any()


def test_inputs_that_are_always_zero_cost_nothing() -> None:
    weight, x = problem(4, 8, 20)
    x[2] = x[5] = 0
    found, kept = sparsegpt(
        weight, x @ x.T, channels=8, sparsity=0.25, pattern=parse_pattern("unstructured"), damping=1e-9
    )
    assert not found[:, 2].any() and not found[:, 5].any()
    assert int((~kept).sum()) == 8
    assert error(weight, found, x) < 1e-6


def test_too_little_data_is_said() -> None:
    weight, x = problem(2, 8, 3)
    with pytest.raises(GraphOptError, match="more calibration data, or more damping"):
        sparsegpt(weight, x @ x.T, channels=8, sparsity=0.5, pattern=parse_pattern("unstructured"), damping=0.0)


def test_on_a_trained_model_it_keeps_more_than_magnitude() -> None:
    trained = trained_lenet()
    images, data = trained.data.images[:200], list(trained.data.train_images[:400].split(100))
    with torch.no_grad():
        expected = trained.module(images)
    errors = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        pruned = graphopt.compile(
            trained.module,
            (images[:2],),
            target="fx",
            dynamic_shapes="batch",
            calibration=data,
            passes=f'prune-weights{{method={method}, sparsity=0.6, ignore=("conv1*",)}}',
            on_failure="raise",
        )
        with torch.no_grad():
            errors[method] = float((pruned(images) - expected).norm() / expected.norm())
    assert errors["sparsegpt"] < 0.5 * errors["magnitude"]
    assert errors["sparsegpt"] < errors["wanda"] < errors["magnitude"]
