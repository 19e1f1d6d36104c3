"""Sizes as values: `graphopt.dim` turns a dim expression into a Python integer that a graph can return or pass on."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Call, Op, Param, ParamKind, ScalarKind, ScalarType, Trait, Type
from graphopt.ops.registry import registry


def _infer_dim(call: Call) -> Sequence[Type]:
    return [ScalarType(ScalarKind.INT, call.attributes["value"])]


def _evaluate_dim(value: int) -> int:
    return value


DIM = registry.register(
    Op(
        "graphopt.dim",
        (Param("value", ParamKind.ATTRIBUTE, "int"),),
        frozenset({Trait.PURE}),
        _infer_dim,
        _evaluate_dim,
    )
)
