"""Embedding tables in few bits: rows are looked up as bytes, and only those become floats.

    W[i]   →   D(unpack(P[i])),     P: [V, D · bits / 8] bytes

Several numbers of a row share a byte: the first part of the row lies in the lowest bits of all its bytes, the next part
above it. So unpacking is a shift and a mask for each part. Scales are stored in half precision where it has their
range.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.blocks import block_parameters, in_half_precision
from graphopt.passes.quantization.rounding import Rounding
from graphopt.rewrite import Rewriter


@dataclass(frozen=True)
class Table:
    """An embedding table and the nodes that look rows up in it."""

    weight: Value
    nodes: tuple[Node, ...]

    @property
    def tensor(self) -> torch.Tensor:
        """Its rows, [V, D]."""
        assert self.weight.constant is not None
        return self.weight.constant.tensor.detach()


def embedding_tables(graph: Graph) -> list[Table]:
    """The stored tables of single precision that nothing but embeddings reads."""
    weights = [node.operands[0] for node in graph if node.name == "aten.embedding"]
    stored = [weight for weight in dict.fromkeys(weights) if weight is not None and _is_table(weight)]
    return [Table(weight, tuple(dict.fromkeys(weight.users))) for weight in stored]


def _is_table(weight: Value) -> bool:
    type_ = weight.type
    if weight.constant is None or not isinstance(type_, TensorType) or type_.dtype is not DType.F32:
        return False
    return all(user.name == "aten.embedding" for user in weight.users)


def quantize_table(
    table: Table,
    format_: Format,
    block_size: int,
    search: bool,
    rewriter: Rewriter,
    name: str,
    rounding: Rounding | None = None,
) -> tuple[Value, float]:
    """Store a table in few bits and rewrite what reads it; return its scales, and the relative error.

    name: of the pass. rounding: by what it is rounded; otherwise to the nearest.
    """
    rows, size = table.tensor, table.tensor.shape[1]
    block = block_size or size
    found = block_parameters(rows.t(), format_, block, search)
    scales, zeros = found[0].t().contiguous(), None if found[1] is None else found[1].t().contiguous()
    half = in_half_precision(scales)
    scales = scales if half is None else half.float()
    points = torch.full_like(scales, -format_.low) if zeros is None else zeros  # as unsigned numbers
    zero = None if zeros is None else zeros.to(format_.storage)
    q = None if rounding is None else rounding(table.weight, scales, 1, format_, block, zeros)
    q = quantized(rows, scales, zero, format_, 1, block) if q is None else q
    parts = 8 // format_.bits if 8 % format_.bits == 0 and size % (8 // format_.bits) == 0 else 1
    packed = _packed((q.int() - int(format_.low)).to(torch.uint8), parts)
    stored = rewriter.constant(packed, f"{table.weight.name}_packed")
    scale = rewriter.constant(scales if half is None else half, f"{table.weight.name}_scale")
    point = rewriter.constant(points.to(torch.uint8), f"{table.weight.name}_zero_point")
    for node in table.nodes:
        with rewriter.at(node, name):
            indices = node.operands[1]
            numbers = _unpacked(rewriter, rewriter.create("aten.embedding", stored, indices).result, parts)
            own, zeros_own = (rewriter.create("aten.embedding", x, indices).result for x in (scale, point))
            if half is not None:
                own = rewriter.create("aten.to.dtype", own, DType.F32).result
            axis = len(node.result.shape) - 1
            last = rewriter.create("graphopt.dequantize", numbers, own, zeros_own, "uint8", axis, block)
        rewriter.replace(node, last.results)
    error = dequantized(q, scales, zero, 1, block) - rows
    return scale, float(error.norm() / rows.norm().clamp(min=torch.finfo(torch.float32).tiny))


def _packed(numbers: torch.Tensor, parts: int) -> torch.Tensor:
    found = torch.zeros_like(numbers[:, : numbers.shape[1] // parts])
    for index, part in enumerate(numbers.chunk(parts, 1)):
        found |= part << (8 // parts * index)
    return found


def _unpacked(rewriter: Rewriter, packed: Value, parts: int) -> Value:
    if parts == 1:
        return packed
    bits = 8 // parts
    found = []
    for index in range(parts):
        shifted = packed
        if index:
            by = rewriter.constant(torch.tensor(bits * index, dtype=torch.uint8), "shift")
            shifted = rewriter.create("aten.bitwise_right_shift.Tensor", packed, by).result
        if index < parts - 1:
            shifted = rewriter.create("aten.bitwise_and.Scalar", shifted, (1 << bits) - 1).result
        found.append(shifted)
    return rewriter.create("aten.cat", found, -1).result
