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
from graphopt.passes.partitioning.evaluation import cost, duplication, is_feasible, moves_forward, peaks
from graphopt.passes.partitioning.heuristic import search_split
from graphopt.passes.partitioning.latency_relaxation import LatencyRelaxation
from graphopt.passes.partitioning.minimum_cut import minimum_cut
from graphopt.passes.partitioning.ordering import solve_with_order
from graphopt.passes.partitioning.problem import OBJECTIVES, Objective, Problem
from graphopt.passes.partitioning.search import Search
from graphopt.passes.partitioning.solver import NoSplit, Split, solve
from graphopt.passes.partitioning.stage_cuts import StageCuts
from graphopt.passes.partitioning.starts import heft, single_devices
from tests.passes.partitioning.heft_oracle import heft_makespan
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


def is_never_worse(problem: Problem, time_limit: float) -> None:
    """Latency against HEFT's own schedule, wherever that fits in its own order, and against the best single device."""
    found, order = solve_with_order(problem, "latency", time_limit=time_limit)
    ordered = problem.reordered(order)
    end, placed = heft_makespan(problem)
    rivals = [cost(problem, x, "latency") for x in single_devices(problem) if is_feasible(problem, x)]
    schedule = heft(problem)
    assert (schedule.assignment == placed).all() and schedule.end == pytest.approx(end)
    if is_feasible(problem.reordered(schedule.order), schedule.assignment[schedule.order]):
        rivals.append(end + duplication(problem, placed))
    if isinstance(found, NoSplit):
        assert not rivals
        return
    assert sorted(order) == list(range(problem.nodes))
    assert all(before < after for before, after in ordered.edges)
    assert is_feasible(ordered, found.assignment)
    assert found.cost == pytest.approx(cost(ordered, found.assignment, "latency"))
    assert found.bound <= found.cost <= min(rivals, default=math.inf) * (1 + 1e-9)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 4), st.booleans())
@settings(max_examples=40)
def test_latency_is_never_worse_than_heft_and_a_single_device(
    seed: int, nodes: int, devices: int, limited: bool
) -> None:
    problem = random_problem(seed, nodes, devices, limited=limited)
    is_never_worse(problem if limited else without_limits(problem), 10.0)


@given(st.integers(0, 10**6), st.integers(41, 120), st.integers(2, 3), st.booleans())
@settings(max_examples=6, deadline=None)
def test_nor_is_the_search_of_larger_graphs(seed: int, nodes: int, devices: int, limited: bool) -> None:
    problem = large_problem(seed, nodes, devices, room=3.0)
    is_never_worse(problem if limited else without_limits(problem), 1.0)


@given(st.integers(0, 10**6), SIZES, st.sampled_from(OBJECTIVES))
@settings(max_examples=30)
def test_costs_without_order_are_those_of_any_order(seed: int, size: tuple[int, int], objective: Objective) -> None:
    problem = random_problem(seed, *size)
    order = heft(problem).order
    assignment = BruteForce(problem).x[seed % size[1] ** size[0], :-1]
    other = problem.reordered(order)
    np.testing.assert_allclose(
        peaks(other, assignment[order]), BruteForce(other).peaks()[_row(assignment[order], size)]
    )
    if objective != "latency":
        assert cost(other, assignment[order], objective) == pytest.approx(cost(problem, assignment, objective))


def _row(assignment: np.ndarray, size: tuple[int, int]) -> int:
    return int(np.ravel_multi_index(tuple(assignment), (size[1],) * size[0]))


@given(st.integers(0, 10**6), st.integers(5, 10))
@settings(max_examples=30)
def test_cuts_of_the_order_hold_for_every_assignment(seed: int, nodes: int) -> None:
    problem = random_problem(seed, nodes, 2)
    best = BruteForce(problem).best("latency")
    relaxed = LatencyRelaxation(problem)
    relaxed.tighten(monotonic() + 5)
    assert relaxed.bound <= best * (1 + 1e-6)
    rounded = relaxed.round(monotonic() + 5)
    assert rounded is None or cost(problem, rounded, "latency") >= best * (1 - 1e-9)


@given(st.integers(0, 10**6), st.sampled_from([(9, 2), (7, 3), (5, 4)]))
@settings(max_examples=30)
def test_cuts_between_stages_find_the_best_pipeline(seed: int, size: tuple[int, int]) -> None:
    problem = replace(random_problem(seed, *size), runs=math.inf)
    best, found = BruteForce(problem).best("throughput"), [math.inf]

    def offer(assignment: np.ndarray) -> float:
        if is_feasible(problem, assignment):
            found[0] = min(found[0], cost(problem, assignment, "throughput"))
        return found[0]

    bound = StageCuts(problem, offer).run(monotonic() + 100, math.inf)
    assert found[0] == pytest.approx(best) and min(bound, found[0]) == pytest.approx(best, rel=1e-5)


def test_a_pipeline_of_a_large_graph_is_proven() -> None:
    problem = large_problem(203, 200, 3)
    found = solve(problem, "throughput", time_limit=20)
    assert isinstance(found, Split) and found.gap < 1e-6 and found.method == "cuts between stages"


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
