"""Random integer programs, on which rewriting is exact, and the invariants that any mutation must keep."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from graphopt.ir import DType, Graph, Node, TensorType, Use, Value, verify
from graphopt.rewrite import Rewriter

UNARY = ("aten.neg", "aten.abs", "aten.relu")
BINARY = ("aten.add.Tensor", "aten.sub.Tensor", "aten.mul.Tensor", "aten.maximum")
SCALAR = ("aten.add.Scalar", "aten.mul.Scalar")


@st.composite
def programs(draw: Any, max_nodes: int = 14) -> Graph:
    """A DAG of integer arithmetic on one or two inputs and a constant; outputs may repeat, be inputs, or be unused."""
    graph = Graph()
    type_ = TensorType(DType.I64, (4,))
    pool = [graph.add_input(f"x{i}", type_) for i in range(draw(st.integers(1, 2)))]
    rewriter = Rewriter(graph)
    pool.append(rewriter.constant(torch.zeros(4, dtype=torch.int64), "zero"))
    pool.append(rewriter.constant(torch.ones(4, dtype=torch.int64), "one"))
    for _ in range(draw(st.integers(0, max_nodes))):
        op = draw(st.sampled_from(UNARY + BINARY + SCALAR))
        # Recent values first: deep chains are where patterns match.
        pick = st.integers(0, len(pool) - 1).map(lambda i: pool[-1 - i])
        if op in UNARY:
            args: list[Any] = [draw(pick)]
        elif op in BINARY:
            args = [draw(pick), draw(pick)]
        else:
            args = [draw(pick), draw(st.integers(-1, 2))]
        pool.append(rewriter.create(op, *args).result)
    outputs = draw(st.lists(st.integers(0, len(pool) - 1), min_size=1, max_size=3))
    graph.set_outputs([pool[-1 - i] for i in outputs])
    return graph


def inputs_of(graph: Graph) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(-5, 6, (4,), generator=generator) for _ in graph.inputs]


def check_invariants(graph: Graph) -> None:
    """The verifier's view, and use lists recomputed from scratch."""
    verify(graph)
    uses: dict[Value, list[Use]] = {}
    for node in (*graph, graph.terminator):
        for index, operand in enumerate(node.operands):
            assert operand is not None
            uses.setdefault(operand, []).append(Use(node, index))
    for value in values_of(graph):
        assert set(value.uses) == set(uses.get(value, ())), value


def values_of(graph: Graph) -> list[Value]:
    return [*graph.inputs, *graph.constants.values(), *(r for node in graph for r in node.results)]


def live(graph: Graph) -> list[Node]:
    return list(graph)
