"""The solvers against brute force, and their bounds against what they bound."""

from __future__ import annotations

import math
from dataclasses import replace
from time import monotonic

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.passes.partitioning.bounds import lower_bound
from graphopt.passes.partitioning.climb import climb
from graphopt.passes.partitioning.evaluation import cost, is_feasible, moves_forward, peaks
from graphopt.passes.partitioning.heuristic import search_split
from graphopt.passes.partitioning.minimum_cut import minimum_cut
from graphopt.passes.partitioning.problem import OBJECTIVES, Objective
from graphopt.passes.partitioning.search import Search
from graphopt.passes.partitioning.solver import NoSplit, Split, solve
from graphopt.passes.partitioning.starts import heft
from tests.passes.partitioning.random_problems import BruteForce, large_problem, random_problem, without_limits

SIZES = st.one_of(st.tuples(st.integers(1, 11), st.just(2)), st.tuples(st.integers(1, 7), st.just(3)))


@given(st.integers(0, 10**6), SIZES)
@settings(max_examples=40)
def test_the_cost_equals_brute_force(seed: int, size: tuple[int, int]) -> None:
    problem = random_problem(seed, *size)
    oracle = BruteForce(problem)
    for objective in OBJECTIVES:
        best, found = oracle.best(objective), solve(problem, objective)
        if isinstance(found, NoSplit):
            assert math.isinf(best)
            continue
        assert found.cost == pytest.approx(best)
        assert is_feasible(problem, found.assignment)
        assert found.bound <= found.cost and found.gap < 1e-6


@given(st.integers(0, 10**6), SIZES)
@settings(max_examples=60)
def test_costs_and_peaks_of_any_assignment(seed: int, size: tuple[int, int]) -> None:
    problem = random_problem(seed, *size)
    oracle = BruteForce(problem)
    row = seed % len(oracle.rows)
    assignment = oracle.x[row, :-1]
    np.testing.assert_allclose(peaks(problem, assignment), oracle.peaks()[row])
    assert is_feasible(problem, assignment) == oracle.allowed()[row]
    if np.isfinite(oracle.busy[row]).all():
        for objective in OBJECTIVES:
            assert cost(problem, assignment, objective) == pytest.approx(getattr(oracle, objective)()[row])


@given(st.integers(0, 10**6), st.integers(1, 11))
@settings(max_examples=60)
def test_a_minimum_cut_is_the_best_of_two_devices(seed: int, nodes: int) -> None:
    problem = without_limits(random_problem(seed, nodes, 2))
    assert cost(problem, minimum_cut(problem), "serial") == pytest.approx(BruteForce(problem).best("serial"))


@given(st.integers(0, 10**6), SIZES, st.sampled_from(OBJECTIVES))
@settings(max_examples=30)
def test_bounds_hold_and_searches_stay_within_limits(seed: int, size: tuple[int, int], objective: Objective) -> None:
    problem = random_problem(seed, *size)
    best = BruteForce(problem).best(objective)
    _, bound = lower_bound(problem, objective, monotonic() + 5)
    assert bound <= best * (1 + 1e-6) or math.isinf(best)
    found = search_split(problem, objective, 0, monotonic() + 0.3)
    if found is not None:
        assert is_feasible(problem, found.assignment)
        assert best * (1 - 1e-9) <= found.cost and found.bound <= found.cost


@given(st.integers(0, 10**6), SIZES)
@settings(max_examples=60)
def test_moves_keep_costs_and_memory_up_to_date(seed: int, size: tuple[int, int]) -> None:
    problem = random_problem(seed, *size)
    draw = np.random.RandomState(seed)
    able = [np.flatnonzero(np.isfinite(row)) for row in problem.seconds]
    search = Search(problem, [int(draw.choice(devices)) for devices in able])
    for _ in range(6):
        node = draw.randint(problem.nodes)
        search.move(node, int(draw.choice(able[node])))
        assert search.cost == pytest.approx(cost(problem, search.x, "serial"))
        assert (search.excess() == 0) == is_feasible(problem, search.x)


def test_heft_schedules_what_its_assignment_allows() -> None:
    problem = without_limits(large_problem(1, 60, 3))
    assignment, end = heft(problem)
    assert end <= cost(problem, assignment, "latency") * 1.5
    assert end >= lower_bound(problem, "latency", math.inf)[1] * (1 - 1e-9)
    better = climb(problem, assignment, "latency", 0.0)
    assert cost(problem, better, "latency") <= cost(problem, assignment, "latency")


def test_a_large_graph_comes_with_a_small_gap() -> None:
    problem = large_problem(5, 300, 2)
    found = solve(problem, "serial", time_limit=4)
    assert isinstance(found, Split)
    assert is_feasible(problem, found.assignment) and found.gap < 0.05


def test_a_pipeline_moves_forward() -> None:
    problem = large_problem(7, 120, 3)
    found = solve(problem, "throughput", time_limit=2)
    assert isinstance(found, Split)
    assert moves_forward(problem, found.assignment) and is_feasible(problem, found.assignment)


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_least_memory_that_would_do(seed: int) -> None:
    problem = random_problem(seed, 7, 2)
    problem = replace(problem, limits=np.array([20.0, 25.0]), busy=np.full(2, np.inf))
    found = solve(problem)
    if isinstance(found, Split):
        return
    oracle = BruteForce(problem)
    able = np.isfinite(oracle.busy).all(axis=1)
    factor = (oracle.peaks() / problem.limits).max(axis=1)[able].min()
    assert found.enough and found.factor == pytest.approx(factor, rel=1e-3)
    enough = replace(problem, limits=np.ceil(problem.limits * found.factor))
    assert isinstance(solve(enough), Split)
