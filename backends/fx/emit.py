"""Emission: `emit_fx` turns a graph into a `torch.fx.GraphModule`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from graphopt.backends.fx.body import Body
from graphopt.backends.fx.control_flow import stored_tensors
from graphopt.backends.fx.convention import convention_of
from graphopt.backends.fx.integers import on_integers
from graphopt.backends.fx.module import EmittedModule
from graphopt.backends.fx.mutation import emit_updates
from graphopt.backends.fx.state import State, check_unchanged
from graphopt.ir import Graph


def emit_fx(
    graph: Graph, *, share_weights: bool = False, flat: bool = False, trainable: bool = True, integers: bool = False
) -> torch.fx.GraphModule:
    """Return a module that computes `graph`: readable, trainable, and fit for export and `torch.compile`.

    Parameters and buffers have the names that the model gave them; folded constants are buffers outside of the
    state_dict. The module is in eval mode; in training mode, batch norms, dropout and their like do what they do
    in the original. Buffers and inputs that the graph updates are written in place at the end of a call.

    `module.meta["names"]` maps each name that a stored tensor has in the model to the attribute that holds it.

    share_weights: use the graph's tensors themselves. Otherwise each is copied once, so that training the
        module leaves the original alone.
    flat: take the inputs of the graph in order and return a tuple of its outputs. Otherwise take and return what
        the original model does; without a signature that is the inputs in order, and one output or a tuple.
    trainable: let batch norms, dropout and their like follow `module.training`. Otherwise they are fixed in eval mode.
    integers: compute quantized layers by integer kernels, where PyTorch has them. Nothing differentiates those.

    Raises:
        EmissionError: an operator or argument that PyTorch cannot express, or a stored tensor that was modified
            since capture; the message names it.

    >>> from graphopt.ops import parse
    >>> module = emit_fx(parse('''
    ... input %x: f32[N, 4]
    ... %y = relu(%x)
    ... %z = reshape(%y) {shape=(2*N, 2)}
    ... return %z'''))
    >>> print(module.code.strip())
    def forward(self, x):
        N = x.size(0)
        y = torch.relu(x);  x = None
        mul = 2 * N;  N = None
        z = torch.reshape(y, [mul, 2]);  y = mul = None
        return z
    """
    check_unchanged(graph)
    graph = on_integers(graph) if integers else graph
    module = EmittedModule({}, torch.fx.Graph())
    state = State(module, graph, share=share_weights)
    body = Body(graph, module, state, trainable=trainable)
    convention = convention_of(graph, flat=flat)
    for value, node in zip(graph.inputs, convention.inputs(body.fx_graph)):
        body.define(value, node)
    body.emit_nodes()
    convention.output(body.fx_graph, emit_updates(graph, body.fx_graph, body.node_of))
    module.graph = body.fx_graph
    module.meta["names"] = dict(state.names)
    module.eval()
    return module


def emit_function(graph: Graph, *, share_weights: bool = False) -> Callable[..., tuple[Any, ...]]:
    """Return a function of the graph's inputs, in order, to a tuple of its outputs: for inference alone.

    Stored tensors are bound as arguments, which costs less per call than attributes of modules. Quantized layers run on
    integer kernels.

    Raises:
        EmissionError: as `emit_fx`.
    """
    check_unchanged(graph)
    graph = on_integers(graph)
    module = torch.fx.GraphModule({}, torch.fx.Graph())
    body = Body(graph, module, trainable=False)
    state = State(torch.nn.Module(), graph, share=share_weights)
    constants = [v for v in stored_tensors(graph) if v.num_uses or v.name in graph.mutations]
    body.declare([*constants, *graph.inputs])
    body.emit_nodes()
    body.fx_graph.output(tuple(emit_updates(graph, body.fx_graph, body.node_of)))
    module.graph = body.fx_graph
    return partial(module.forward, *(state.tensor(value).detach() for value in constants))
