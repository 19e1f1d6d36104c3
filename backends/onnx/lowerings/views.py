"""Views: reshapes, permutations and selections that move elements without computing on them."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import reshape


@lowers(
    "aten.view", "aten.reshape", "aten._unsafe_view", "aten.flatten.using_ints", "aten.unflatten.int",
    "aten.view_as", "aten.reshape_as", "aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims",
)
def lower_reshape(e: Emitter, a: Call) -> Tensor:
    """The result's type holds the shape, with every -1 resolved."""
    return reshape(e, a.self, a.out.shape)
