"""Pipelines: passes in a row, nested at will, and loops that run until nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passmanager.base import Pass, PassResult, as_pass
from graphopt.passmanager.context import PassContext
from graphopt.rewrite import Contract, RewriteStatistics, Rule

PassLike = Any
"""A pass, a class of passes, a rule, pipeline text, or a sequence of these."""


@dataclass(frozen=True)
class Pipeline(Pass):
    """Passes that run in order. A pipeline is a pass, so pipelines nest; `str` gives its text.

    title: the text that stands for the whole pipeline, if it was registered under a name.

    >>> from graphopt.passmanager.decorators import pass_
    >>> @pass_
    ... def tidy(graph, rewriter):
    ...     pass
    >>> print(Pipeline((tidy, Fixpoint((tidy, tidy)))))
    tidy,fixpoint(tidy,tidy)
    """

    passes: tuple[Pass, ...] = field(default=(), repr=False)
    title: str = field(default="", repr=False)

    @property
    def contract(self) -> Contract:  # type: ignore[override]
        return max((p.contract for p in self.passes), default=Contract.BITWISE)

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Run the passes without any check; `PassManager` is what checks."""
        total = PassResult(False, RewriteStatistics())
        for pass_ in self.passes:
            _add(total, pass_.run(graph, context))
        return total

    def leaves(self) -> Iterator[Pass]:
        """The passes at the leaves, in order, each once per place."""
        for pass_ in self.passes:
            if isinstance(pass_, Pipeline):
                yield from pass_.leaves()
            else:
                yield pass_

    def titled(self, title: str) -> Pipeline:
        """Return this pipeline under a text that stands for it."""
        return replace(self, title=title)

    def __str__(self) -> str:
        from graphopt.passmanager.pipeline_text import print_pipeline

        return print_pipeline(self)


@dataclass(frozen=True)
class Fixpoint(Pipeline):
    """Passes repeated until a round changes nothing, or `limit` rounds have run."""

    limit: int = 10

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        total = PassResult(False, RewriteStatistics())
        for _ in range(self.limit):
            result = super().run(graph, context)
            _add(total, result)
            if not result.changed:
                return total
        total.notes.append(still_changing(self))
        return total


def fixpoint(*passes: PassLike, limit: int = 10) -> Fixpoint:
    """Repeat passes until a round changes nothing, at most `limit` rounds."""
    return Fixpoint(as_pipeline(passes).passes, limit=limit)


def still_changing(loop: Fixpoint) -> str:
    """The note of a loop that ran out of rounds."""
    return f"fixpoint still changed the graph in its last round ({loop.limit}); raise its limit"


def as_pipeline(passes: PassLike) -> Pipeline:
    """Make a pipeline of whatever names passes.

    Raises:
        ParseError, UnknownNameError: text that names no pipeline.
        GraphOptError: something that is no pass.
    """
    if isinstance(passes, Pipeline) and type(passes) is Pipeline:
        return passes
    if isinstance(passes, Sequence) and not isinstance(passes, str):
        return Pipeline(tuple(_as_pass(p) for p in passes))
    made = _as_pass(passes)
    return made if type(made) is Pipeline else Pipeline((made,))


def _as_pass(given: PassLike) -> Pass:
    if isinstance(given, Pass):
        return given
    if isinstance(given, Rule):
        return as_pass(given)
    if isinstance(given, str):
        from graphopt.passmanager.pipeline_text import parse_pipeline

        parsed = parse_pipeline(given)
        return parsed.passes[0] if len(parsed.passes) == 1 else parsed
    if isinstance(given, type) and issubclass(given, Pass):
        return _with_defaults(given)
    if isinstance(given, Sequence):
        return as_pipeline(given)
    raise GraphOptError(f"{given!r} is no pass; give a pass, a rule, pipeline text, or a list of these")


def _with_defaults(cls: type[Pass]) -> Pass:
    try:
        return cls()
    except TypeError as error:
        names = ", ".join(f.name for f in fields(cls))
        raise GraphOptError(f"pass {cls.name!r} needs options ({names}): {error}") from error


def _add(total: PassResult, result: PassResult) -> None:
    total.changed |= result.changed
    total.notes += result.notes
    if result.statistics is not None and total.statistics is not None:
        total.statistics.merge(result.statistics)
