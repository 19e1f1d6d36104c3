"""Whether a pass costs time linear in the graph: by counting calls, so that no clock and no load has a say.

A graph is put n and 4n times side by side in one, and the function calls that the pass makes on each are counted (every
call of Python and of C, each step of a generator included). A pass that is linear makes 4 times as many; one that walks
the graph for each node makes 16 times.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext
from graphopt.testing.generate import random_graph

COPIES = 16
FACTOR = 4
SLACK = 1.6
"""Times FACTOR: how many times as many calls are still linear; n·log n passes."""
GENERATED = 3

LINK = """
input %x: f32[8, 16]
%a = add.Scalar(%x) {other=0}
%b = neg(%a)
%c = neg(%b)
%d = mul.Scalar(%c) {other=1}
%e = relu(%d)
%f = transpose.int(%e) {dim0=0, dim1=1}
%g = transpose.int(%f) {dim0=0, dim1=1}
%h = sigmoid(%g)
return %h"""


def assert_linear(pass_: Pass, *, context: PassContext | None = None, **options: Any) -> None:
    """Hold a pass to a cost linear in nodes, on a chain of common clean-ups and on copies of generated graphs.

    options: those of `random_graph`, such as `operators` near the pass's own.

    Raises:
        AssertionError: with the counts, and the function whose calls grew most.

    >>> from graphopt.passmanager import pass_
    >>> @pass_
    ... def quadratic(graph, rewriter):
    ...     for node in graph:
    ...         position = sum(1 for other in graph)
    >>> assert_linear(quadratic)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    AssertionError: pass 'quadratic' is not linear: ...
    """
    for name, small, large in _pairs(options):
        pass_.run(large.clone(), context or PassContext())  # what is memoized is there from now on
        few, many = calls(pass_, small, context), calls(pass_, large, context)
        before, after = few.total(), many.total()
        if after > SLACK * FACTOR * before:
            code = max(many, key=lambda c: many[c] - FACTOR * few[c])
            raise AssertionError(
                f"pass {pass_.name!r} is not linear: on {name}, {len(small)} nodes take {before:,} calls, and "
                f"{len(large)} nodes {after:,}, which is {after / before:.1f} times as many (at most "
                f"{SLACK * FACTOR:g}). Most of them come of {code.co_qualname} ({code.co_filename}:"
                f"{code.co_firstlineno}): {few[code]:,} and {many[code]:,}"
            )


def calls(pass_: Pass, graph: Graph, context: PassContext | None = None) -> Counter[CodeType]:
    """Run a pass on a copy of a graph and count calls, by the code that is called (or that calls into C)."""
    found: Counter[CodeType] = Counter()
    copy, context = graph.clone(), context or PassContext()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            found[frame.f_code] += 1

    saved = sys.getprofile()
    sys.setprofile(count)
    try:
        pass_.run(copy, context)
    finally:
        sys.setprofile(saved)
    return found


def repeated(graph: Graph, count: int) -> Graph:
    """A graph that holds another so many times, side by side."""
    copy, outputs = Graph(graph.name), list[Value]()
    for number in range(count):
        values: dict[Value, Value] = {v: copy.add_input(f"{v.name}_{number}", v.type) for v in graph.inputs}
        for value in graph.constants.values():
            assert value.constant is not None
            values[value] = copy.add_constant(value.name, value.type, value.constant)
        for node in graph:
            copy.append(node.copy(values, tuple(region.clone() for region in node.regions)))
        outputs += [values[value] for value in graph.outputs]
    copy.set_outputs(outputs)
    return copy


def chained(graph: Graph, count: int) -> Graph:
    """A graph of one input and output of one type so many times, one behind the other."""
    copy = Graph(graph.name)
    value = copy.add_input(graph.inputs[0].name, graph.inputs[0].type)
    for _ in range(count):
        values = {graph.inputs[0]: value}
        for node in graph:
            copy.append(node.copy(values))
        value = values[graph.outputs[0]]
    copy.set_outputs([value])
    return copy


def _pairs(options: dict[str, Any]) -> Iterator[tuple[str, Graph, Graph]]:
    link = parse(LINK)
    yield "a chain", chained(link, COPIES), chained(link, FACTOR * COPIES)
    found, seed = 0, 0
    while found < GENERATED and seed < 10 * GENERATED:
        graph = random_graph(seed, **{**options, "symbolic": False})
        seed += 1
        small = repeated(graph, COPIES)
        try:
            verify(small)
        except GraphOptError:
            continue  # it binds symbols of its own, which two copies would bind twice
        if len(graph) > 1:
            found += 1
            yield f"copies of the generated graph {seed - 1}", small, repeated(graph, FACTOR * COPIES)
