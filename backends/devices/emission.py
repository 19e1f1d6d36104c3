"""A part of a graph as a function of its inputs and weights, for a device."""

from __future__ import annotations

import torch

from graphopt.backends.fx.body import Body
from graphopt.backends.fx.module import EmittedModule
from graphopt.backends.fx.names import parameter_names
from graphopt.ir import Graph


def emit_part(graph: Graph) -> torch.fx.GraphModule:
    """Return a module of one argument: a list of the inputs and then the constants of the graph, in order.

    The list is emptied at the start, so that nothing but the module holds on to them, and it gives each up at its last
    use. What is returned is a tuple.

    Raises:
        EmissionError: an operator or argument that PyTorch cannot express.

    >>> from graphopt.ops import parse
    >>> part = emit_part(parse('''
    ... input %x: f32[2]
    ... %y = aten.relu(%x)
    ... return %y'''))
    >>> print(part.code.strip())
    def forward(self, given):
        x = given.pop();  given = None
        y = torch.relu(x);  x = None
        return (y,)
    """
    module = EmittedModule({}, torch.fx.Graph())
    body = Body(graph, module, trainable=False)
    values = [*graph.inputs, *graph.constants.values()]
    given = body.fx_graph.placeholder("given")
    for value, name in reversed(list(zip(values, parameter_names([v.name for v in values])))):
        body.define(value, body.fx_graph.create_node("call_method", "pop", (given,), {}, name))
    body.emit_nodes()
    body.fx_graph.output(tuple(body.node_of(value) for value in graph.returned))
    module.graph = body.fx_graph
    return module
