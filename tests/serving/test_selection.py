"""Which requests run together: by hand, and properties over random queues."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.serving.latency import LatencyModel
from graphopt.serving.layout import Sizes
from graphopt.serving.selection import Policy, choose


@dataclass(eq=False)
class Waits:
    rows: int
    sizes: Sizes
    caller: Hashable = None


def learned(fixed: float, slope: float) -> LatencyModel:
    model = LatencyModel()
    for work in (1, 10, 100):
        model.observe(work, fixed + slope * work)
    return model


def test_the_line_is_found() -> None:
    model = learned(2.0, 0.5)
    assert model.fixed == pytest.approx(2.0)
    assert model.slope == pytest.approx(0.5)
    assert model.predict(40) == pytest.approx(22.0)


def test_no_coefficient_is_negative() -> None:
    falling, steep = LatencyModel(), LatencyModel()
    for work in (1, 2, 3):
        falling.observe(work, 4 - work)
        steep.observe(work, work - 0.9)
    assert falling.slope == 0 and falling.fixed > 0
    assert steep.fixed == 0 and steep.slope > 0


def test_short_requests_leave_a_long_one_out_where_filling_up_costs() -> None:
    queue = [Waits(1, (8,)), Waits(1, (128,)), Waits(1, (8,)), Waits(1, (9,))]
    batch, sizes = choose(queue, Policy(4, pads=True), learned(100.0, 1.0), 1e9)
    assert batch == [queue[0], queue[2], queue[3]]
    assert sizes == (9,)


def test_a_long_request_does_not_fill_up_many_short_ones() -> None:
    queue = [Waits(1, (128,)), *[Waits(1, (8,)) for _ in range(20)], Waits(1, (120,))]
    batch, _ = choose(queue, Policy(32, pads=True), learned(20.0, 1.0), 1e9)
    assert queue[0] in batch and all(request.sizes >= (120,) for request in batch)


def test_all_run_together_where_a_batch_costs_the_same_whatever_it_holds() -> None:
    queue = [Waits(1, (8,)), Waits(1, (128,)), Waits(1, (8,))]
    batch, sizes = choose(queue, Policy(4, pads=True), learned(100.0, 0.001), 1e9)
    assert batch == queue and sizes == (128,)


@pytest.mark.parametrize(("count", "joins"), [(2, False), (64, True)])
def test_a_small_gain_is_taken_where_many_wait(count: int, joins: bool) -> None:
    """A batch of 8 takes 7.3 times as long as one: too long for two, worth it for many."""
    queue = [Waits(1, ()) for _ in range(count)]
    assert (len(choose(queue, Policy(8, pads=False), learned(0.1, 0.9), 1e9)[0]) > 1) == joins


def test_sizes_that_ran_count_more_than_the_line() -> None:
    model = learned(1.0, 1.0)
    for _ in range(20):
        model.observe(50, 500.0)
    assert model.predict(50) > 300


def test_only_equal_lengths_without_padding() -> None:
    queue = [Waits(2, (8,)), Waits(1, (7,)), Waits(1, (8,))]
    batch, _ = choose(queue, Policy(8, pads=False), LatencyModel(), 1e9)
    assert batch == [queue[0], queue[2]]


def test_a_batch_is_as_small_as_the_objective_wants() -> None:
    queue = [Waits(1, ()) for _ in range(10)]
    assert len(choose(queue, Policy(8, pads=False), learned(100.0, 1.0), 104.0)[0]) == 4
    assert len(choose(queue, Policy(8, pads=False), learned(100.0, 1.0), 0.0)[0]) == 1


def test_lengths_round_up() -> None:
    policy = Policy(8, True, lambda sizes: tuple(-(-s // 16) * 16 for s in sizes))
    assert choose([Waits(1, (9,))], policy, LatencyModel(), 1e9)[1] == (16,)


waiting = st.builds(
    Waits, st.integers(1, 9), st.tuples(st.integers(1, 5), st.integers(1, 5)), st.sampled_from((None, "a", "b"))
)


@given(st.lists(waiting, min_size=1, max_size=30), st.integers(1, 8), st.booleans(), st.floats(0, 50))
def test_what_is_chosen(queue: list[Waits], most: int, pads: bool, seconds: float) -> None:
    latency = learned(3.0, 0.1)
    batch, sizes = choose(queue, Policy(most, pads), latency, seconds)
    assert batch[0] is queue[0]
    assert batch == [r for r in queue if r in batch]
    assert len(batch) == 1 or sum(r.rows for r in batch) <= most
    assert all(own <= common for r in batch for own, common in zip(r.sizes, sizes))
    assert pads or len({r.sizes for r in batch}) == 1
    for caller in ("a", "b"):
        own = [r for r in queue if r.caller == caller]
        taken = [r for r in own if r in batch]
        assert taken == own[: len(taken)]
