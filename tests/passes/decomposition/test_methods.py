"""Methods against their definitions: full ranks reproduce, errors are the spectrum's tails, and optima are optimal."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.evbmf import evbmf_rank, noise_variance
from graphopt.passes.decomposition.factors import Factor, balanced, dense, joined, parameters
from graphopt.passes.decomposition.methods import METHODS, cp
from graphopt.passes.decomposition.methods.base import Ranks
from graphopt.passes.decomposition.problem import Problem, Shape, as_matrix, as_weight

EXACT = ["svd", "tucker", "tensor-train", "spatial"]
CHANNELS = st.integers(2, 7)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(sizes, generator=seeded(seed), dtype=torch.float64)


def second_moment(columns: int, seed: int = 0) -> torch.Tensor:
    x = normal(4 * columns, columns, seed=seed) @ normal(columns, columns, seed=seed + 1)
    return x.t() @ x / len(x)


def conv_problem(out: int, into: int, kernel: tuple[int, ...], seed: int, data: bool) -> tuple[Problem, Shape]:
    weight = normal(out, into, *kernel, seed=seed)
    columns = int(np.prod(weight.shape[1:]))
    return Problem(weight, second_moment(columns, seed) if data else None), Shape("conv", out, into, kernel)


@given(
    CHANNELS,
    CHANNELS,
    st.sampled_from([(3, 3), (2, 3), (5, 2)]),
    st.integers(0, 99),
    st.booleans(),
    st.sampled_from(EXACT),
)
@settings(max_examples=40, deadline=None)
def test_full_rank_reproduces(out: int, into: int, kernel: tuple[int, ...], seed: int, data: bool, name: str) -> None:
    problem, shape = conv_problem(out, into, kernel, seed, data)
    method = METHODS[name]
    found = balanced(method.approximate(problem, shape, method.full(shape)).chain)
    torch.testing.assert_close(dense(found), problem.weight, rtol=1e-6, atol=1e-7)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.booleans())
@settings(max_examples=40, deadline=None)
def test_svd_error_is_the_tail_of_the_spectrum(rows: int, columns: int, seed: int, data: bool) -> None:
    problem = Problem(normal(rows, columns, seed=seed), second_moment(columns, seed) if data else None)
    shape = Shape("linear", rows, columns)
    root = torch.eye(columns, dtype=torch.float64) if problem.second is None else torch.linalg.cholesky(problem.second)
    values = torch.linalg.svdvals(problem.matrix @ root).square()
    before = 1.0
    for rank in range(1, min(rows, columns) + 1):
        tail = float(values[rank:].sum() / values.sum())
        chain = METHODS["svd"].approximate(problem, shape, (rank,)).chain
        error = problem.error(dense(chain))
        assert error == pytest.approx(tail, rel=1e-5, abs=1e-6 if data else 1e-12)
        assert METHODS["svd"].errors([problem], shape, [(rank,)])[rank,] == pytest.approx(tail, abs=1e-6)
        assert error <= before + 1e-12
        before = error


@given(st.integers(3, 8), st.integers(3, 8), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_no_perturbation_beats_the_whitened_svd(rows: int, columns: int, seed: int) -> None:
    problem = Problem(normal(rows, columns, seed=seed), second_moment(columns, seed))
    first, second = METHODS["svd"].approximate(problem, Shape("linear", rows, columns), (2,)).chain
    best = problem.error(dense([first, second]))
    for step in (1e-3, 1e-1, 1.0):
        moved = [
            Factor(f.weight + step * normal(*f.weight.shape, seed=seed + n)) for n, f in enumerate((first, second))
        ]
        assert problem.error(dense(moved)) >= best - 1e-12


@given(st.sampled_from(EXACT), st.integers(0, 99), st.booleans())
@settings(max_examples=25, deadline=None)
def test_error_falls_with_the_rank(name: str, seed: int, data: bool) -> None:
    problem, shape = conv_problem(6, 5, (3, 3), seed, data)
    method = METHODS[name]
    full = method.full(shape)
    wanted: list[Ranks] = [tuple(max(1, n * part // 4) for n in full) for part in (1, 2, 3, 4)]
    errors = [problem.error(dense(method.approximate(problem, shape, ranks).chain)) for ranks in wanted]
    assert all(after <= before * (1 + 1e-6) + 1e-9 for before, after in pairwise(errors))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kernel", [(3, 3), (3,), (2, 3, 2), (1, 3)])
def test_layouts_are_those_of_the_chains(name: str, kernel: tuple[int, ...]) -> None:
    problem, shape = conv_problem(6, 4, kernel, 0, False)
    method = METHODS[name]
    if method.why_not(shape) is not None:
        assert name == "spatial"
        return
    ranks = tuple(min(2, n) for n in method.full(shape))
    chain = method.approximate(problem, shape, ranks).chain
    layout = method.layout(shape, ranks)
    assert [(f.weight.shape, f.groups, f.axes) for f in chain] == [(f.weight.shape, f.groups, f.axes) for f in layout]
    assert dense(chain).shape == problem.weight.shape
    assert parameters(chain) == parameters(layout)
    owned = [axis for factor in chain for axis in factor.axes]
    assert sorted(owned) == list(range(len(kernel)))


@pytest.mark.parametrize("name", ["tucker", "tensor-train"])
def test_tensorly_agrees(name: str) -> None:
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import partial_tucker, tensor_train

    problem, shape = conv_problem(7, 6, (3, 3), 3, False)
    ranks: Ranks = (3, 4) if name == "tucker" else (3, 6, 4)
    own = problem.error(dense(METHODS[name].approximate(problem, shape, ranks).chain))
    if name == "tucker":
        (core, factors), _ = partial_tucker(problem.weight.numpy(), [4, 3], modes=[0, 1], tol=1e-10)
        full = tucker_to_tensor((core, [*factors, np.eye(3), np.eye(3)]))
        whole = torch.from_numpy(np.asarray(full))
    else:
        train = tensor_train(problem.weight.permute(1, 2, 3, 0).numpy(), [1, *ranks, 1])
        whole = torch.from_numpy(np.asarray(train.to_tensor())).permute(3, 0, 1, 2)
    assert own == pytest.approx(problem.error(whole), rel=1e-3)


def test_the_last_factor_fits_the_data() -> None:
    """Data lower the error on data, for every method, against the plain one of equal ranks."""
    problem, shape = conv_problem(8, 6, (3, 3), 5, True)
    plain = Problem(problem.weight)
    for name in EXACT:
        method = METHODS[name]
        ranks = tuple(max(1, n // 2) for n in method.full(shape))
        aware, blind = (problem.error(dense(method.approximate(p, shape, ranks).chain)) for p in (problem, plain))
        assert aware < blind


def test_fitted_is_least_squares() -> None:
    problem, _ = conv_problem(4, 3, (2, 2), 1, True)
    features = normal(5, 12)
    root = torch.linalg.cholesky(problem.second)  # type: ignore[arg-type]
    wanted = torch.linalg.lstsq((features @ root).t(), (problem.matrix @ root).t()).solution.t()
    torch.testing.assert_close(problem.fitted(features), wanted, rtol=1e-6, atol=1e-8)


# CP


def known_tensor(rank: int) -> torch.Tensor:
    return cp.whole([normal(size, rank, seed=n) for n, size in enumerate((6, 5, 3, 3))])


def test_cp_finds_components() -> None:
    found = cp.components(known_tensor(2), 2, sweeps=400)
    assert found.error < 1e-2
    torch.testing.assert_close(cp.whole(found.factors), known_tensor(2), rtol=0.1, atol=0.1)


def degenerate() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A tensor of border rank 2, and two components that approach it as they grow and cancel one another."""
    a, b, size = normal(5, 1, seed=1), normal(5, 1, seed=2), 300.0
    one = cp.whole([a, a, b]) + cp.whole([a, b, a]) + cp.whole([b, a, a])
    close = [torch.cat([a + b / size, a], 1) for _ in range(3)]
    close[0] = close[0] * torch.tensor([size, -size], dtype=torch.float64)
    return one, close


def test_correction_keeps_the_error_and_shrinks_components() -> None:
    tensor, factors = degenerate()
    before = float((tensor - cp.whole(factors)).norm() / tensor.norm())
    found = cp.corrected(tensor, factors, 0.05, sweeps=50)
    assert before < 0.05
    assert float((tensor - cp.whole(found)).norm() / tensor.norm()) <= 0.05 * (1 + 1e-6)
    assert cp._grown(found, tensor) < 0.1 * cp._grown(factors, tensor)


def test_what_does_not_settle_is_said() -> None:
    found = cp.components(normal(6, 6, 3, 3, seed=4), 7, sweeps=2)
    assert any("did not settle from 3 starts" in note for note in found.notes)


def test_a_start_that_fails_is_followed_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    original = cp._alternate

    def first_fails(tensor: torch.Tensor, rank: int, start: str, seed: int, sweeps: int) -> Any:
        tried.append(start)
        return None if len(tried) == 1 else original(tensor, rank, start, seed, sweeps)

    monkeypatch.setattr(cp, "_alternate", first_fails)
    assert cp.components(known_tensor(2), 2).error < 0.5
    assert len(tried) > 1
    monkeypatch.setattr(cp, "_alternate", lambda *_: None)
    with pytest.raises(GraphOptError, match="no finite numbers at rank 2 from 3 starts"):
        cp.components(known_tensor(2), 2)


# EVBMF


def brute_force_variance(values: np.ndarray, low: int, high: int) -> float:
    """σ² by a fine grid over the free energy, written out anew one component at a time."""
    alpha, squares = low / high, values**2
    tau_edge = 2.5129 * np.sqrt(alpha)
    edge = (1 + tau_edge) * (1 + alpha / tau_edge)
    best, found = np.inf, 0.0
    for variance in np.geomspace(squares.sum() / (low * high) * 1e-4, squares.sum() / (low * high), 4000):
        x = squares / (high * variance)
        energy = 0.0
        for one in x:
            if one <= edge:
                energy += one - np.log(one)
            else:
                tau = (one - 1 - alpha + np.sqrt((one - 1 - alpha) ** 2 - 4 * alpha)) / 2
                energy += one - tau + np.log((tau + 1) / one) + alpha * np.log(tau / alpha + 1)
        if energy < best:
            best, found = energy, variance
    return found


@pytest.mark.parametrize(("rows", "columns", "rank", "noise"), [(20, 40, 3, 0.3), (30, 12, 2, 0.5)])
def test_evbmf_finds_the_noise_and_the_rank(rows: int, columns: int, rank: int, noise: float) -> None:
    matrix = normal(rows, rank) @ normal(rank, columns, seed=1) + noise * normal(rows, columns, seed=2)
    values = torch.linalg.svdvals(matrix).numpy()
    low, high = sorted((rows, columns))
    own = noise_variance(np.sort(values)[::-1] ** 2, low, high)
    assert own == pytest.approx(brute_force_variance(values, low, high), rel=5e-3)
    assert evbmf_rank(values, rows, columns) == rank


@pytest.mark.parametrize("values", [np.zeros(4), np.array([]), np.array([1.0])])
def test_evbmf_of_almost_nothing(values: np.ndarray) -> None:
    assert 0 <= evbmf_rank(values, 4, max(len(values), 1)) <= 1


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_evbmf_is_a_rank(rows: int, columns: int, seed: int) -> None:
    values = torch.linalg.svdvals(normal(rows, columns, seed=seed)).numpy()
    assert 0 <= evbmf_rank(values, rows, columns) <= min(rows, columns)
    assert evbmf_rank(values, rows, columns) == evbmf_rank(10 * values, columns, rows)


# Factors


def test_composition_is_that_of_convolutions() -> None:
    x = normal(2, 3, 9, 8)
    one, two = normal(4, 3, 3, 1, seed=1), normal(5, 4, 1, 2, seed=2)
    torch.testing.assert_close(F.conv2d(x, dense([Factor(one), Factor(two)])), F.conv2d(F.conv2d(x, one), two))


def test_groups_are_joined_and_scales_shared() -> None:
    chains = [[Factor(100 * normal(2, 3, seed=n)), Factor(normal(4, 2, seed=9 + n))] for n in range(2)]
    whole = joined(chains)
    assert [(f.weight.shape, f.groups) for f in whole] == [((4, 3), 2), ((8, 2), 2)]
    even = balanced(chains[0])
    torch.testing.assert_close(dense(even), dense(chains[0]))
    torch.testing.assert_close(even[0].weight.norm(dim=1), even[1].weight.norm(dim=0))


def test_matrix_and_weight() -> None:
    weight = normal(4, 3, 2, 5)
    torch.testing.assert_close(as_weight(as_matrix(weight), 3, (2, 5)), weight)
