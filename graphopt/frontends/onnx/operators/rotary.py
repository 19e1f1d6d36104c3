"""Rotary embedding: pairs of features turned by an angle that grows with the position.

    (x₁, x₂) → (cos·x₁ − sin·x₂, sin·x₁ + cos·x₂)

x₁ and x₂ are the halves of the first features of a head, or its even and odd features; the others stay.
"""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import Value
from graphopt.ir.dims import Dim, equal, exact_div


@translates("RotaryEmbedding")
def rotary_embedding(a: Application) -> Value:
    """Rotary embedding of `[B, H, T, E]`, or of `[B, T, H·E]` with the number of heads given."""
    x, shape = a[0], a.type(0).shape
    if len(shape) == 3:
        heads = a.attr("num_heads", 0)
        each = exact_div(shape[2], heads) if heads else None
        if each is None:
            raise Declined(f"{shape[2]} features are not known to be {heads} heads of the same size")
        x = a.reshape(x, (shape[0], shape[1], heads, each))
    size = tensor_type(x).shape[3]
    turned = a.attr("rotary_embedding_dim", 0) or size
    half = exact_div(turned, 2)
    if half is None:
        raise Declined(f"{turned} features are not known to be pairs")
    kept = None
    if equal(turned, size) is not True:
        kept = a.emit("aten.slice.Tensor", x, 3, turned, size)
        x = a.emit("aten.slice.Tensor", x, 3, 0, turned)
    result = _turned(a, x, 1 if len(shape) == 4 else 2, half)
    result = result if kept is None else a.emit("aten.cat", [result, kept], 3)
    return a.reshape(result, shape)


def _turned(a: Application, x: Value, heads: int, half: Dim) -> Value:
    """Turn all features of x, twice `half`, whose heads lie along the dim `heads`."""
    cos, sin = (a.emit("aten.unsqueeze", _angles(a, i), heads) for i in (1, 2))
    size = 2 * half
    interleaved = bool(a.attr("interleaved", 0))
    if interleaved:
        first, second = (a.emit("aten.slice.Tensor", x, 3, i, size, 2) for i in (0, 1))
    else:
        first, second = (a.emit("aten.slice.Tensor", x, 3, *ends) for ends in ((0, half), (half, size)))

    def mixed(op: str, one: Value, two: Value) -> Value:
        return a.emit(op, a.emit("aten.mul.Tensor", one, first), a.emit("aten.mul.Tensor", two, second))

    real, imaginary = mixed("aten.sub.Tensor", cos, sin), mixed("aten.add.Tensor", sin, cos)
    if interleaved:
        return a.reshape(a.emit("aten.stack", [real, imaginary], 4), tensor_type(x).shape)
    return a.emit("aten.cat", [real, imaginary], 3)


def _angles(a: Application, index: int) -> Value:
    """Cosines or sines of each position: `[B, T, E/2]`."""
    table = a[index]
    return a.emit("aten.embedding", table, a[3]) if a.has(3) else table
