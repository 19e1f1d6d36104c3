"""The table of samplers: how to draw a call of each operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.testing.builder import GraphBuilder

Build = Callable[[GraphBuilder], Any]


@dataclass(frozen=True)
class Sampler:
    """Adds a call of one of some operators to a graph.

    names: the operators, without the dialect `aten`; one with a hyphen stands for several put together.
    build: called with the builder, whose `op` is the name drawn.
    weight: how often, relative to other samplers. group: the unit that `graphs(groups=…)` selects by.
    """

    names: tuple[str, ...]
    build: Build
    weight: int
    group: str


SAMPLERS: list[Sampler] = []


def register_sampler(*names: str, weight: int = 1) -> Callable[[Build], Build]:
    """Register a function that adds a call of an operator to a `GraphBuilder`. Names may be separated by spaces.

    The function picks operands from the pool (`b.tensor`, `b.match`, `b.like`), makes leaves (`b.weight`, `b.leaf`),
    draws attributes (`b.one`, `b.integer`, `b.flag`) and ends with `b.emit`, which says what is known of the result.

    >>> from graphopt.testing import Domain
    >>> @register_sampler("aten.erfinv")
    ... def erfinv(b):
    ...     x = b.within(b.tensor(), 0.5)
    ...     b.emit(b.op, x, domain=Domain(-0.5, 0.5, False))
    >>> unregister_sampler("aten.erfinv")
    """

    def register(build: Build) -> Build:
        split = tuple(" ".join(names).split())
        taken = set(split) & set(sampled_operators())
        if taken:
            raise GraphOptError(f"operator {sorted(taken)[0]!r} has a sampler already")
        SAMPLERS.append(Sampler(split, build, weight, build.__module__.rpartition(".")[2]))
        return build

    return register


def unregister_sampler(*names: str) -> None:
    """Remove the samplers of operators, as a test does with its own."""
    SAMPLERS[:] = [s for s in SAMPLERS if not set(s.names) & set(names)]


def sampled_operators() -> Iterable[str]:
    """The names of all operators that have a sampler, without the dialect `aten`."""
    return [name for sampler in SAMPLERS for name in sampler.names if "-" not in name]
