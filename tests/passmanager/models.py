"""Small graphs and good passes that the tests share."""

from __future__ import annotations

import torch

from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import FunctionPass, PassContext, pass_
from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import Contract, aten, var

x, w, b = var("x"), var("w"), var("b")

MLP = """
input %x: f32[N, 8]
parameter %w1: f32[16, 8]
parameter %b1: f32[16]
parameter %w2: f32[4, 16]
parameter %b2: f32[4]
%h = aten.linear(%x, %w1, %b1) @ "model.py":11 "fc1"
%a = aten.relu(%h) @ "model.py":12 "act"
%r = aten.relu(%a) @ "model.py":13 "act2"
%n = aten.layer_norm(%r) {normalized_shape=(16,)} @ "model.py":14 "norm"
%y = aten.linear(%n, %w2, %b2) @ "model.py":15 "fc2"
return %y
"""


def mlp() -> Graph:
    return parse(MLP)


def context(batch: int = 5, seed: int = 0) -> PassContext:
    generator = torch.Generator().manual_seed(seed)
    return PassContext(samples=[[torch.randn(batch, 8, generator=generator)]])


@rewrite(aten.relu(aten.relu(x)), contract=Contract.BITWISE)
def relu_once(x):
    return aten.relu(x)


@rewrite(aten.linear(x, w, b), contract=Contract.REASSOCIATING)
def split_linear(x, w, b):
    """x·wᵀ + b in two steps: the same function, rounded otherwise."""
    if b is None:
        return None
    return aten.add.Tensor(aten.linear(x, w), b)


@pass_(contract=Contract.BITWISE)
def nothing(graph, rewriter):
    pass


@pass_(contract=Contract.LOSSY)
def halve_weights(graph, rewriter, *, bits: int = 4):
    """Round the largest weight to few bits."""
    value = max((v for v in graph.constants.values() if v.num_uses), key=lambda v: v.constant.tensor.numel())
    scale = 2.0**bits
    rounded = torch.round(value.constant.tensor * scale) / scale
    rewriter.replace_value(value, rewriter.constant_like(value, rounded))


def named(function_pass: FunctionPass, name: str) -> FunctionPass:
    return FunctionPass(function_pass.function, name, function_pass.level)
