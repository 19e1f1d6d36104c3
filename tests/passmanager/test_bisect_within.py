"""Looking into one pass: the application, or the mutation, after which its graph is bad; how many runs that takes."""

from __future__ import annotations

import math

import pytest

from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import PassContext, PassManager, pass_
from graphopt.passmanager.bisection import run_limit, within
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.mutations import HALVES
from graphopt.passmanager.reruns import Rerun, Reruns
from graphopt.rewrite import Contract, aten, var

x, other = var("x"), var("other")


def chain(length: int) -> Graph:
    lines = [
        f'%v{i} = aten.add.Scalar(%{f"v{i - 1}" if i else "x"}) {{other={float(i)}}} @ "m.py":{i} ""'
        for i in range(length)
    ]
    return parse("\n".join(["input %x: f32[4]", *lines, f"return %v{length - 1}"]))


@rewrite(aten.add.Scalar(x, other))
def to_sub(x, other):
    return aten.sub.Scalar(x, -other)


@pass_
def sub_by_hand(graph, rewriter):
    for node in graph.nodes:
        with rewriter.at(node):
            made = rewriter.create("aten.sub.Scalar", node.operands[0], -node.attr("other"))
        rewriter.replace(node, [made.result])


def has(number: float):
    """Judges a graph that holds a subtraction of −number."""
    return lambda rerun: any(n.op.name == "aten.sub.Scalar" and n.attr("other") == -number for n in rerun.graph)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 300])
def test_every_application_is_found_within_the_limit(length: int) -> None:
    for number in {0, length // 3, length - 1}:
        reruns = Reruns(to_sub.as_pass(), chain(length), PassContext())
        culprit = within(reruns, has(float(number)), length, offset=5)
        assert (culprit.number, culprit.application) == (number + 1, number + 6)
        assert culprit.location == f"m.py:{number}" and culprit.roots[0].results[0].name == f"v{number}"
        assert culprit.runs == reruns.runs <= 2 + math.ceil(math.log2(length)) <= culprit.limit


@pytest.mark.parametrize("guess", [1, 20, 37, 38, 39, 64])
def test_a_guess_that_is_right_takes_two_runs_and_a_wrong_one_costs_little(guess: int) -> None:
    reruns = Reruns(to_sub.as_pass(), chain(64), PassContext())
    culprit = within(reruns, has(37.0), 64, guess=guess)
    assert culprit.number == 38
    assert culprit.runs == 2 if guess == 38 else culprit.runs <= run_limit(64)


@pytest.mark.parametrize("length", [1, 2, 17, 64])
def test_mutations_of_a_pass_without_rules(length: int) -> None:
    for number in {0, length // 2, length - 1}:
        reruns = Reruns(sub_by_hand, chain(length), PassContext())

        def is_bad(rerun: Rerun, number: int = number) -> bool:
            # A node that was created and is not used yet does no harm.
            return any(
                n.op.name == "aten.sub.Scalar" and n.attr("other") == -float(number) and n.result.num_uses
                for n in rerun.graph
            )

        culprit = within(reruns, is_bad, 0)
        assert culprit.number == 0 and culprit.rule == "" and "aten.add.Scalar" in culprit.node
        assert culprit.location == f"m.py:{number}" and culprit.roots[0].results[0].name == f"v{number}"
        assert "the pass applies no rules" in culprit.note and culprit.runs <= culprit.limit


def test_changes_in_place_are_named() -> None:
    @pass_
    def louder(graph, rewriter):
        node = graph.nodes[2]
        rewriter.set_attributes(node, other=9.0)

    culprit = within(Reruns(louder, chain(4), PassContext()), lambda r: any(n.attr("other") == 9.0 for n in r.graph), 0)
    assert "%v2 = aten.add.Scalar(%v1)" in culprit.node and "changed in place" in culprit.note


def test_halves_that_make_up_for_each_other_are_not_told_apart() -> None:
    """Negate one addend here and the other there; only the third change is really wrong."""

    @pass_
    def there_and_back(graph, rewriter):
        first, second, third = graph.nodes
        for node, shift in ((first, 1.0), (second, -1.0), (third, 0.5)):
            with rewriter.at(node):
                made = rewriter.create("aten.add.Scalar", node.operands[0], node.attr("other") + shift)
            rewriter.replace(node, [made.result])

    def is_bad(rerun: Rerun) -> bool:
        return sum(n.attr("other") for n in rerun.graph if n.result.num_uses) != 3.0

    culprit = within(Reruns(there_and_back, chain(3), PassContext()), is_bad, 0)
    named = culprit.node == "" and culprit.note == HALVES
    assert named or culprit.location == "m.py:2", str(culprit)


def test_harm_that_does_not_return_is_said_to() -> None:
    culprit = within(Reruns(to_sub.as_pass(), chain(4), PassContext()), lambda rerun: False, 4)
    assert "did no harm when it ran again" in str(culprit)


def test_numbers_run_over_the_pipeline_and_are_stable() -> None:
    @rewrite(aten.sub.Scalar(x, -3.0), contract=Contract.BITWISE)
    def wrong(x):
        return aten.add.Scalar(x, 4.0)

    for _ in range(2):
        _, report = PassManager([to_sub, wrong]).run(chain(8))
        assert [(r.first_application, r.applications) for r in report.records] == [(1, 8), (9, 1)]
        assert "rule 'wrong', application 1 (number 9 of the pipeline), at %v3 = aten.sub.Scalar(%v2)" in (
            report.records[1].reason
        )


def test_the_limit_of_the_environment_counts_over_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_BISECT_MAX", "5")
    graph, _ = PassManager([to_sub]).run(chain(8))
    assert [n.op.name for n in graph].count("aten.sub.Scalar") == 5
