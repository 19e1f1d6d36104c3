"""Random well-typed graphs: from a seed, or as a hypothesis strategy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from typing import Any

from graphopt.errors import UnknownNameError, unknown_name
from graphopt.ir import ConstantKind, DType, Graph, TensorType, Value
from graphopt.ir.dims import Dim, from_symbol
from graphopt.ir.printer import all_symbols
from graphopt.testing import samplers  # noqa: F401  (fills the table)
from graphopt.testing.builder import ANY, GraphBuilder, make_symbols
from graphopt.testing.samplers.table import SAMPLERS, Sampler
from graphopt.testing.source import HypothesisSource, RandomSource, Source

SWARMS = (0, 2, 3, 4, 6, 10)
"""How many samplers a graph is drawn from (0: all). A few make operators meet their like, as rewrites need."""


def random_graph(seed: int, *, max_nodes: int = 10, **options: Any) -> Graph:
    """Return the graph of a seed; the options are those of `graphs`.

    >>> str(random_graph(3)) == str(random_graph(3))
    True
    """
    return draw_graph(RandomSource(seed), max_nodes=max_nodes, **options)


def graphs(
    *,
    max_nodes: int = 10,
    operators: Collection[str] | None = None,
    groups: Collection[str] | None = None,
    symbolic: bool = True,
    dtypes: Sequence[DType] = ANY,
) -> Any:
    """A hypothesis strategy of well-typed graphs, valid by construction.

    max_nodes: how many calls are drawn; some operators bring a node or two of their own to stay in their domain.
    operators: draw these only (names without `aten.`). groups: draw these families only, such as "binary", "shapes".
    symbolic: let sizes be symbols. dtypes: of the leaves.

    Graphs have scalars, sizes 0 and 1, symbolic sizes, parameters, buffers and constants (uniform ones and copies
    among them), repeated subexpressions, unused nodes, and outputs that repeat or pass an input through. Shrinking
    gives fewer and simpler nodes with small static sizes.

    >>> from hypothesis import given, settings
    >>> from graphopt.ir import verify
    >>> @settings(max_examples=5, database=None, deadline=None)
    ... @given(graphs(max_nodes=3))
    ... def test(graph):
    ...     verify(graph)
    >>> test()
    """
    from hypothesis import strategies

    options: dict[str, Any] = {"operators": operators, "groups": groups, "symbolic": symbolic, "dtypes": dtypes}
    chosen_samplers(operators, groups)

    @strategies.composite
    def strategy(draw: Any) -> Graph:
        return draw_graph(HypothesisSource(draw), max_nodes=max_nodes, **options)

    return strategy()


def draw_graph(
    source: Source,
    *,
    max_nodes: int = 10,
    operators: Collection[str] | None = None,
    groups: Collection[str] | None = None,
    symbolic: bool = True,
    dtypes: Sequence[DType] = ANY,
) -> Graph:
    """Draw one graph. See `graphs`."""
    builder = GraphBuilder(source, make_symbols(source) if symbolic else (), dtypes)
    table = chosen_samplers(operators, groups)
    few = source.choice(SWARMS)
    if few:
        table = [source.choice(table) for _ in range(few)]
    for _ in range(source.integer(1, max_nodes)):
        sampler = source.choice(table)
        builder.op = source.choice(_named(sampler, operators))
        sampler.build(builder)
    _choose_outputs(builder)
    _bind_symbols(builder.graph, builder.symbols)
    return builder.graph


def _bind_symbols(graph: Graph, sizes: Sequence[Dim]) -> None:
    """Give each of the sizes that is used, and that no input has, an input of its own."""
    bound = {dim for value in graph.inputs for dim in value.shape}
    used = {from_symbol(symbol) for symbol in all_symbols(graph)}
    for size in sizes:
        if size in used and size not in bound:
            graph.add_input(f"size_of_{size}", TensorType(DType.F32, (size,)))


def chosen_samplers(operators: Collection[str] | None, groups: Collection[str] | None) -> list[Sampler]:
    """The samplers to draw from, each as often as its weight says.

    Raises:
        UnknownNameError: an operator or group without a sampler.
    """
    for kind, wanted, known in (
        ("operator", operators, {name for s in SAMPLERS for name in s.names}),
        ("group", groups, {s.group for s in SAMPLERS}),
    ):
        for name in wanted or ():
            if name not in known:
                raise unknown_name(f"{kind} with a sampler", name, known)
    found = [s for s in SAMPLERS if (groups is None or s.group in groups) and _named(s, operators)]
    if not found:
        raise UnknownNameError("no sampler is left; widen operators or groups")
    return [s for s in found for _ in range(s.weight)]


def _named(sampler: Sampler, operators: Collection[str] | None) -> tuple[str, ...]:
    return sampler.names if operators is None else tuple(name for name in sampler.names if name in operators)


def _choose_outputs(builder: GraphBuilder) -> None:
    """The last result; perhaps more, inputs and constants among them, perhaps one of them twice."""
    if not builder.pool:
        builder.leaf(TensorType(DType.F32, ()))
    values = [v for v in builder.pool if isfinite(builder.domain(v).magnitude)]
    results = [v for v in values if v.producer is not None] or values
    outputs: list[Value] = [results[-1]]
    outputs += [builder.one(results) for _ in range(builder.integer(0, 2))]
    if builder.chance(6):
        outputs.append(builder.one(values))
    if builder.chance(6):
        outputs.append(outputs[0])
    builder.graph.set_outputs(outputs, _updates(builder, values) if builder.chance(6) else {})


def _updates(builder: GraphBuilder, values: Sequence[Value]) -> dict[str, Value]:
    """A buffer that takes the value of another tensor of its type at the end of each call, if there is one."""
    graph = builder.graph
    buffers = [v for v in graph.constants.values() if v.constant and v.constant.kind is ConstantKind.BUFFER]
    found = [(b.name, v) for b in buffers for v in values if v is not b and v.type == b.type]
    return dict([builder.one(found)]) if found else {}
