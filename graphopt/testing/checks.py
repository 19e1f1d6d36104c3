"""Text in, text out: a pass on a written graph, against the graph and the rule counts that are expected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Graph, difference, print_graph, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassResult, as_pipeline
from graphopt.testing.equivalence import assert_equivalent


@dataclass(frozen=True)
class Checked:
    """What a checked pass returned, and the graph that it made."""

    result: PassResult
    graph: Graph


def check(
    passes: Pass | str | Any,
    before: str,
    after: str | None = None,
    applied: Mapping[str, int] | None = None,
    *,
    declined: str | None = None,
    context: PassContext | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
    special: bool | None = None,
    numeric: bool = True,
    idempotent: bool = True,
) -> Checked:
    """Run a pass (or pipeline, also as text) on a graph in text, and compare.

    after: the text that is expected, locations aside; None expects the graph to be left alone. Names of constants
        count, those of other values don't. applied: the exact counts of the rules that fired, by name.
    declined: part of a reason that a rule must have given for leaving a node alone.
    tensors: data of constants, by name; one without values gets small pseudo-random ones that its name decides.
    special: see `assert_equivalent`. numeric: interpret both graphs, and hold them to the contract that applies.
    idempotent: a second run must change nothing.

    Raises:
        AssertionError: with a diff of the graphs, or what else differs.

    >>> _ = check("canonicalize", '''
    ...     input %x: f32[N, 8]
    ...     %0 = neg(%x)
    ...     %1 = neg(%0)
    ...     return %1''', '''
    ...     input %x: f32[N, 8]
    ...     return %x''')
    """
    pass_ = single(passes)
    graph = parse(before, tensors)
    verify(graph)
    original = graph.clone()
    result = pass_.run(graph, context or PassContext())
    verify(graph)
    _text(original, graph, after, tensors)
    _truth(pass_, original, graph, result)
    _counts(result, applied, declined)
    if numeric:
        assert_equivalent(original, graph, contract=pass_.promise(result), special=special)
    if idempotent:
        again = graph.clone()
        if pass_.run(again, context or PassContext()).changed:
            raise AssertionError(f"{pass_.name} is not idempotent; a second run gives\n{_diff(graph, again)}")
    return Checked(result, graph)


def single(passes: Any) -> Pass:
    """The pass that text, a class, a rule or a list stands for."""
    pipeline = as_pipeline(passes)
    return pipeline.passes[0] if len(pipeline.passes) == 1 else pipeline


def _text(original: Graph, graph: Graph, after: str | None, tensors: Mapping[str, torch.Tensor] | None) -> None:
    expected = original if after is None else parse(after, tensors)
    found = difference(expected, graph, locations=False)
    if found is not None:
        title = "the graph was to be left alone" if after is None else "another graph was expected"
        raise AssertionError(f"{title}: {found}\n{_diff(expected, graph)}")


def _truth(pass_: Pass, original: Graph, graph: Graph, result: PassResult) -> None:
    found = difference(original, graph)
    if result.changed != (found is not None):
        raise AssertionError(f"{pass_.name} says changed={result.changed}, but the graphs differ thus: {found}")


def _counts(result: PassResult, applied: Mapping[str, int] | None, declined: str | None) -> None:
    statistics = result.statistics
    if applied is not None:
        counts = {} if statistics is None else statistics.applied
        if counts != dict(applied):
            raise AssertionError(f"rules applied: {counts}, expected: {dict(applied)}")
    if declined is not None:
        reasons = [] if statistics is None else [d.reason for d in statistics.declined]
        if not any(declined in reason for reason in reasons):
            raise AssertionError(f"no reason says {declined!r}; the reasons given: {reasons}")


def _diff(expected: Graph, graph: Graph) -> str:
    before, after = (print_graph(g, locations=False).splitlines() for g in (expected, graph))
    return "\n".join(difflib.unified_diff(before, after, "expected", "found", n=100, lineterm=""))
