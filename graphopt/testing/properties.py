"""What must hold of every graph and of every pass."""

from __future__ import annotations

import io
import warnings
from typing import Any

from graphopt.errors import GraphOptWarning
from graphopt.ir import Graph, difference, print_graph, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext
from graphopt.rewrite import Contract
from graphopt.testing.checks import single
from graphopt.testing.equivalence import assert_equivalent
from graphopt.testing.generate import graphs, random_graph
from graphopt.testing.linear import assert_linear


def check_pass(
    passes: Pass | type[Pass] | str | Any,
    examples: int = 50,
    *,
    idempotent: bool | None = None,
    linear: bool = True,
    context: PassContext | None = None,
    seed: int | None = None,
    **options: Any,
) -> None:
    """Property-test a pass over generated graphs: hypothesis finds and shrinks a graph on which it breaks its word.

    See `assert_pass_holds` for what is checked on each graph, and `assert_linear` for the cost, by counting calls.

    examples: how many graphs, of the search and of plain chance each. seed: other graphs than the default ones.
    idempotent: a second run changes nothing; by default, if the pass claims so (`Pass.idempotent`).
    linear: the cost is linear in nodes; False for a pass that may not be.
    options: those of `graphs`, such as `operators` near the pass's own.

    Warns where the pass changed no graph at all: then little was tested.

    Raises:
        AssertionError: with the smallest graph found, as text.

    >>> check_pass("dead-code", examples=5)

    A pass of one's own, with operators that it looks for:

    >>> from graphopt.passmanager import rewrite
    >>> from graphopt.rewrite import aten, var
    >>> @rewrite(aten.relu(aten.relu(var("x"))), contract=Contract.BITWISE)
    ... def relu_once(x):
    ...     return aten.relu(x)
    >>> check_pass(relu_once, examples=5, idempotent=True, operators=["relu", "add.Tensor"])
    """
    from hypothesis import HealthCheck, given, settings
    from hypothesis import seed as with_seed

    pass_ = single(passes)
    settled = pass_.idempotent if idempotent is None else idempotent

    @settings(
        max_examples=examples,
        derandomize=seed is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(graphs(**options))
    def holds(graph: Graph) -> None:
        assert_pass_holds(pass_, graph, idempotent=settled, context=context)

    (holds if seed is None else with_seed(seed)(holds))()
    fired = False
    for number in range(examples):  # the search keeps near what it has seen, so some graphs are drawn at random
        graph = random_graph((seed or 0) * examples + number, **options)
        assert_pass_holds(pass_, graph, idempotent=settled, context=context)
        fired = fired or _fires(pass_, graph, context)
    if not fired:
        warnings.warn(
            f"{pass_.name} changed none of {examples} random graphs, so this says little; name the operators that "
            "it looks for: check_pass(…, operators=[…])",
            GraphOptWarning,
            stacklevel=2,
        )
    if linear:
        assert_linear(pass_, context=context, **options)


def _fires(pass_: Pass, graph: Graph, context: PassContext | None) -> bool:
    """Whether a rule applies, or a pass without rules changes anything; rules drop dead nodes besides."""
    result = pass_.run(graph.clone(), context or PassContext())
    statistics = result.statistics
    return result.changed if statistics is None else bool(statistics.applied or statistics.folded)


def assert_pass_holds(
    pass_: Pass, graph: Graph, *, idempotent: bool = False, context: PassContext | None = None, seed: int = 0
) -> Graph:
    """Run a pass on one graph and hold it to its word. Returns what it made of the graph.

    The text of the graph parses to the same graph; the pass leaves the original alone, gives a sound graph that prints
    and parses, says rightly whether it changed anything, and keeps its numeric contract. idempotent: a second run
    changes nothing.
    """
    assert_round_trip(graph)
    untouched = graph.clone()
    copy = graph.clone()
    result = pass_.run(copy, context or PassContext())
    _same(untouched, graph, f"{pass_.name} changed the graph that its draft was cloned from")
    verify(copy)
    assert_round_trip(copy)
    found = difference(graph, copy)
    if found is not None and not result.changed:
        raise AssertionError(f"{pass_.name} says that it changed nothing, but {found}\n{graph}\n{copy}")
    if found is not None:
        promise = pass_.promise(result)
        if promise is not Contract.LOSSY:
            assert_equivalent(graph, copy, contract=promise, seed=seed)
    if idempotent:
        again = copy.clone()
        if pass_.run(again, context or PassContext()).changed:
            raise AssertionError(f"{pass_.name} is not idempotent; it turned\n{copy}\ninto\n{again}")
    return copy


def assert_round_trip(graph: Graph) -> None:
    """The text of a graph parses to the same graph."""
    tensors = {name: v.constant.tensor for name, v in graph.constants.items() if v.constant is not None}
    text = print_graph(graph)
    parsed = parse(text, tensors)
    _same(graph, parsed, "the text parses to another graph")
    again = print_graph(parsed)
    if again != text:
        raise AssertionError(f"the text of the parsed graph differs:\n{text}\n{again}")


def assert_saves(graph: Graph) -> None:
    """A graph that is saved and loaded is the same graph."""
    from graphopt.serialization import graph_to_bytes, load_graph

    loaded, _ = load_graph(io.BytesIO(graph_to_bytes(graph)))
    _same(graph, loaded, "the saved form loads as another graph")


def _same(expected: Graph, found: Graph, title: str) -> None:
    reason = difference(expected, found)
    if reason is not None:
        raise AssertionError(f"{title}: {reason}\n{expected}\n{found}")
