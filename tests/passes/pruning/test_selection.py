"""Which channels go: shares, scopes, limits, budgets; against brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import GraphOptError
from graphopt.passes.pruning.budget import Unreachable, askable, for_size, for_speed
from graphopt.passes.pruning.selection import Candidate, Limits, Plan, nearest
from graphopt.passes.pruning.size import Size
from tests.passes.pruning.nets import group

Scores = dict[str, list[float]]


def candidates(scores: Scores, limits: Limits = Limits(), **kinds: str) -> list[Candidate]:  # noqa: B008
    return [Candidate(group(n, len(s), kind=kinds.get(n, "")), np.array(s), limits) for n, s in scores.items()]


def removed(plan: Plan, share: float) -> dict[str, list[int]]:
    return {name: np.flatnonzero(gone).tolist() for name, gone in plan.select(share).items()}


def test_local_takes_the_same_share_of_each() -> None:
    plan = Plan(candidates({"a": [3, 1, 2, 4], "b": [100, 400, 300, 200, 600, 500]}), "local")
    assert removed(plan, 0.5) == {"a": [1, 2], "b": [0, 2, 3]}
    assert removed(plan, 0.0) == {}


def test_global_ranks_all_together_and_leaves_one_of_each() -> None:
    plan = Plan(candidates({"a": [3, 1, 2, 4], "b": [100, 400, 300, 200, 600, 500]}), "global")
    assert removed(plan, 0.2) == {"a": [1, 2]}
    assert removed(plan, 0.5) == {"a": [0, 1, 2], "b": [0, 3]}
    assert removed(plan, 0.99) == {"a": [0, 1, 2], "b": [0, 1, 2, 3, 5]}


def test_isomorphic_ranks_groups_of_one_structure_together() -> None:
    scores: Scores = {"a": [1, 2, 3, 4], "b": [5, 6, 7, 8], "c": [100, 200, 300, 400]}
    plan = Plan(candidates(scores, a="x", b="x", c="y"), "isomorphic")
    assert removed(plan, 0.5) == {"a": [0, 1, 2], "b": [0], "c": [0, 1]}


def test_groups_with_a_share_of_their_own_take_no_part() -> None:
    plan = Plan(candidates({"a": [3, 1, 2, 4], "b": [10, 40, 30, 20]}), "global", {"b": 0.75})
    assert removed(plan, 0.25) == {"a": [1], "b": [0, 2, 3]}


def test_shares_count_against_the_width_before_earlier_steps() -> None:
    one = Candidate(group("a", 4), np.array([1.0, 2, 3, 4]), Limits(), gone=4)
    for scope in ("local", "global"):
        plan = Plan([one], scope)  # type: ignore[arg-type]
        assert [plan.counts(share)["a"] for share in (0.25, 0.5, 0.75)] == [0, 0, 2]


def test_channels_that_must_stay_count_but_never_go() -> None:
    kept = np.array([True, False, False, False])
    for scope in ("local", "global"):
        plan = Plan([Candidate(group("a", 4), np.array([1.0, 2, 3, 4]), Limits(), kept)], scope)  # type: ignore[arg-type]
        assert removed(plan, 0.5) == {"a": [1, 2]}
        assert removed(plan, 0.99) == {"a": [1, 2, 3]}


def test_every_dim_keeps_its_best_channels() -> None:
    halves = group("a", 6, axes=[range(6), range(3), range(3, 6)])
    one = Candidate(halves, np.array([1.0, 2, 3, 10, 20, 30]), Limits(min_width=2))
    assert np.flatnonzero(one.removed(one.limit)).tolist() == [0, 3]


def test_heads_count_with_all_their_slots() -> None:
    heads = group("h", 8)
    heads.members = [_member(np.repeat(np.arange(8), 4))]
    one = Candidate(heads, np.arange(8.0), Limits(min_width=8, round_to=8))
    assert one.limit == 6  # two heads of four slots are eight
    assert [8 - one.rounded(n) for n in range(7)] == [8, 8, 6, 6, 4, 4, 2]


def _member(channels: np.ndarray) -> Any:
    return type("Member", (), {"channels": channels, "role": type("Role", (), {"makes": True})})


@pytest.mark.parametrize("name", ["min_width", "round_to"])
def test_limits_are_at_least_one(name: str) -> None:
    with pytest.raises(GraphOptError, match=f"{name} must be at least 1, got 0"):
        Limits(**{name: 0})


numbers = st.lists(st.floats(0, 100), min_size=1, max_size=12)


@settings(deadline=None, max_examples=80)
@given(
    st.dictionaries(st.sampled_from("abcdef"), numbers, min_size=1),
    st.sampled_from(["local", "global", "isomorphic"]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.lists(st.floats(0, 1), min_size=2, max_size=6),
)
def test_limits_hold_and_more_share_never_removes_less(
    scores: Scores, scope: Any, min_width: int, round_to: int, shares: list[float]
) -> None:
    plan = Plan(candidates(scores, Limits(min_width, round_to)), scope)
    before = dict.fromkeys(scores, 0)
    for share in sorted(shares):
        counts = plan.counts(share)
        for name, found in scores.items():
            left = len(found) - counts[name]
            assert counts[name] >= before[name]
            assert left == len(found) or (left >= min_width and left % round_to == 0)
            gone = plan.select(share).get(name, np.zeros(len(found), dtype=bool))
            assert gone.sum() == counts[name]
            if gone.any():
                assert max(np.array(found)[gone]) <= min(np.array(found)[~gone])
        before = counts


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.sampled_from("abcd"), numbers, min_size=1), st.floats(0, 1))
def test_global_is_a_threshold(scores: Scores, share: float) -> None:
    plan = Plan(candidates(scores), "global")
    free = sorted(v for found in scores.values() for v in sorted(found)[:-1])
    count = min(nearest(share * sum(map(len, scores.values()))), len(free))
    gone = [v for name, mask in plan.select(share).items() for v in np.array(scores[name])[mask]]
    assert sorted(gone) == free[:count]


class Squares:
    """Costs of which a group of n channels has n²."""

    def __init__(self, plan: Plan) -> None:
        self.widths = {c.group.name: c.group.size for c in plan.candidates}

    def size(self, selection: Any) -> Size:
        left = {n: w - int(selection[n].sum()) if n in selection else w for n, w in self.widths.items()}
        return Size(sum(w * w for w in left.values()), sum(left.values()))


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from("abcd"), numbers, min_size=1),
    st.floats(0.05, 1),
    st.sampled_from(["global", "local"]),
)
def test_size_budgets_are_met_with_the_least_share(scores: Scores, target: float, scope: Any) -> None:
    plan = Plan(candidates(scores), scope)
    costs: Any = Squares(plan)
    for name in ("macs", "parameters"):
        left = [getattr(costs.size(plan.select(s / plan.steps())), name) for s in range(plan.steps() + 1)]
        meets = [value / left[0] <= target for value in left]
        if not meets[-1]:
            with pytest.raises(
                Unreachable, match=rf"{name}=.* cannot be reached: the best is {name}={askable(left[-1] / left[0])}"
            ):
                for_size(plan, costs, name, target, {})
            continue
        found = for_size(plan, costs, name, target, {})
        assert found.given <= target
        assert found.share == pytest.approx(meets.index(True) / plan.steps())


SPEEDS: list[Callable[[float], float]] = [
    lambda left: 1 / left,
    lambda left: left**-0.5,
    lambda left: 1 / (0.1 + 0.9 * left),
    lambda left: 1 / left if left > 0.5 else 2 / left,
]
"""How the speed-up follows from the share of multiply-adds that is left."""


@pytest.mark.parametrize("target", [1.3, 2.0, 4.0])
@pytest.mark.parametrize("speed", SPEEDS[:3])
def test_speed_budgets_are_met_within_ten_percent(speed: Callable[[float], float], target: float) -> None:
    plan = Plan(candidates({n: list(np.random.default_rng(0).random(128)) for n in "abc"}), "local")
    costs: Any = Squares(plan)
    runs = []

    def measure(selection: Any) -> float:
        runs.append(1)
        return speed(costs.size(selection).macs / costs.size({}).macs)

    found = for_speed(plan, costs, target, measure, {})
    assert abs(found.given / target - 1) <= 0.1
    assert len(runs) <= 7


def test_speed_budgets_that_cannot_be_met_name_the_best() -> None:
    plan = Plan(candidates({"a": [1.0, 2, 3, 4]}), "local")
    costs: Any = Squares(plan)
    with pytest.raises(Unreachable, match="the best is speedup=4, with"):
        for_speed(plan, costs, 9.0, lambda s: 4 - 3 * (costs.size(s).macs - 1) / 15, {})
    wide = Plan(candidates({"a": list(np.arange(64.0))}), "local")
    many: Any = Squares(wide)
    with pytest.raises(Unreachable, match="the nearest is speedup="):  # a jump over the target
        for_speed(wide, many, 3.0, lambda s: SPEEDS[3](many.size(s).macs / 4096), {})
