"""Checking every run of every pass while a context is active, whoever calls it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, TensorType, difference, verify
from graphopt.ir.dims import evaluate
from graphopt.passmanager import Pass, PassContext, PassResult, Pipeline
from graphopt.passmanager.runner import Runner
from graphopt.rewrite import Contract
from graphopt.testing.equivalence import assert_equivalent
from graphopt.testing.inputs import sample_bindings, sample_inputs

NODE_LIMIT = 200
ELEMENT_LIMIT = 1 << 20
"""Graphs with more nodes, or more stored or input elements, are left to their own tests."""

Run = Callable[[Pass, Graph, PassContext], PassResult]


@contextmanager
def watching() -> Iterator[None]:
    """Verify and validate around each run of a pass on a small graph.

    Raises:
        AssertionError: from the pass's `run`, if it gave a broken graph, lied about `changed`, or broke its contract.
    """
    watch = _Watch()
    watch.install(Pass)
    original = Pass.__dict__["__init_subclass__"]  # the class method itself; what is bound would stay bound to Pass

    def install_later(cls: type[Pass], **kwargs: Any) -> None:
        original.__func__(cls, **kwargs)
        watch.install(cls)

    Pass.__init_subclass__ = classmethod(install_later)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Pass.__init_subclass__ = original  # type: ignore[method-assign]
        watch.remove()


class _Watch:
    def __init__(self) -> None:
        self.replaced: list[tuple[type[Pass], Run]] = []
        self.running: list[Graph] = []

    def install(self, cls: type[Pass]) -> None:
        """Wrap `run` of a class and of those derived from it."""
        run = cls.__dict__.get("run")
        if run is not None and not issubclass(cls, Pipeline) and cls is not Pass:
            self.replaced.append((cls, run))
            setattr(cls, "run", self.wrapped(run))  # noqa: B010 (an assignment to a method, which types forbid)
        for derived in cls.__subclasses__():
            self.install(derived)

    def remove(self) -> None:
        for cls, run in self.replaced:
            setattr(cls, "run", run)  # noqa: B010

    def wrapped(self, run: Run) -> Run:
        @functools.wraps(run)
        def checked(pass_: Pass, graph: Graph, context: PassContext) -> PassResult:
            if any(graph is other for other in self.running) or not is_small(graph):
                return run(pass_, graph, context)
            before = graph.clone()
            self.running.append(graph)
            try:
                result = run(pass_, graph, context)
            finally:
                self.running.pop()
            if isinstance(result, PassResult):
                check_run(pass_, before, graph, result)
            return result

        return checked


def check_run(pass_: Pass, before: Graph, after: Graph, result: PassResult) -> None:
    """Hold one run to what any pass promises: a sound graph, the truth about `changed`, the numeric contract."""
    try:
        verify(before)
    except GraphOptError:
        return  # broken before the pass saw it
    verify(after)
    found = difference(before, after)
    if found is None:
        return
    if not result.changed:
        raise AssertionError(f"{pass_.name} says that it changed nothing, but {found}\n{before}\n{after}")
    promise = pass_.promise(result)
    if promise is not Contract.LOSSY and runs(before):
        assert_equivalent(before, after, contract=promise, special=False)


def runs(graph: Graph) -> bool:
    """True if a graph runs on inputs that are made up: indices may be out of range, or operators without meaning."""
    try:
        for sizes in sample_bindings(graph):
            Runner(graph).work(graph, sample_inputs(graph, sizes))
    except (GraphOptError, TypeError):
        return False
    return True


def is_small(graph: Graph) -> bool:
    """True if a graph can be interpreted a few times in no time."""
    if len(graph) > NODE_LIMIT:
        return False
    try:
        sizes = next(sample_bindings(graph))
        types = [v.type for v in (*graph.inputs, *graph.constants.values())]
        elements = sum(evaluate(t.numel, sizes) for t in types if isinstance(t, TensorType))
    except (GraphOptError, ArithmeticError, ValueError):
        return False
    return elements <= ELEMENT_LIMIT
