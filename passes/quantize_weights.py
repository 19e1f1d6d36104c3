"""Weight-only quantization: matrices are stored in few bits, and become floats where they are read.

    x W + b   →   x D(W_q) + b,   a scale for each block of neighbours along the inputs

What it saves is memory and its traffic; the products stay in floating point. Runtimes have kernels that read the packed
form (`MatMulNBits`).
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

import torch

from graphopt.errors import GraphOptError, InputError, requested, unknown_name
from graphopt.ir import Graph, Value
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.pruning.criteria.batches import read_batches
from graphopt.passes.quantization.blocks import block_parameters
from graphopt.passes.quantization.embeddings import Table, embedding_tables, quantize_table
from graphopt.passes.quantization.products import StoredProduct, stored_products
from graphopt.passes.quantization.rounding import GptqRounding
from graphopt.passes.support.constants import drop_unused
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NOTHING = "nothing to quantize: no product of single precision has a stored matrix, and there is no embedding table"


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the matrices of products, and embedding tables, in few bits.

    dtype: uint2 to uint8, with zero points; int2 to int8, symmetric about zero.
    block_size: how many neighbours along the inputs share a scale; 0 gives each output one.
    rounding: nearest, or gptq, which needs calibration data.
    search: choose scales by least squared error; otherwise they cover all numbers.
    embeddings: store embedding tables so, too, by blocks along their rows, to the nearest.
    smallest: weights of fewer elements stay. ignore: weights left in floating point, by name or glob.
    samples: how many batches of calibration data gptq makes use of, at most.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})

    dtype: str = "uint4"
    block_size: int = 32
    rounding: str = "nearest"
    search: bool = True
    embeddings: bool = True
    smallest: int = 1024
    ignore: tuple[str, ...] = ()
    samples: int = 128

    def __post_init__(self) -> None:
        format_ = find_format(self.dtype)
        if format_.is_float or format_.bits > 8:
            raise GraphOptError(f"{self.dtype} is no format of stored weights; choose int2 to int8, or uint2 to uint8")
        if self.block_size < 0 or self.samples < 1:
            raise GraphOptError("block_size is 0 or a number of neighbours, samples at least 1")
        if self.rounding not in ("nearest", "gptq"):
            raise unknown_name("value of rounding", self.rounding, ("nearest", "gptq"))

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: gptq without data, or data that does not fit.
            UnknownNameError: a name in `ignore` that no weight has.
        """
        with requested():
            products, tables = self._chosen(graph)
            if not products and not tables:
                return PassResult(False, notes=[_NOTHING])
            rounding = self._rounding(graph, products, context)
        rewriter = Rewriter(graph, context.listeners)
        stored: dict[tuple[Value, bool], _Stored] = {}
        errors = []
        for product in products:
            key = (product.weight, product.transposed)
            if key not in stored:
                stored[key], error = self._stored(product, rounding, rewriter)
                errors.append(error)
            with rewriter.at(product.node, self.name):
                self._replace(product, stored[key], rewriter)
        format_ = find_format(self.dtype)
        errors += [quantize_table(t, format_, self.block_size, self.search, rewriter, self.name) for t in tables]
        for weight in dict.fromkeys([weight for weight, _ in stored] + [table.weight for table in tables]):
            drop_unused(rewriter, weight)
        notes = [f"{len(errors)} weights in {self.dtype}, relative error {max(errors):.3g} at most"]
        return PassResult(True, notes=notes + (rounding.notes if rounding is not None else []))

    def _chosen(self, graph: Graph) -> tuple[list[StoredProduct], list[Table]]:
        products = [p for p in stored_products(graph) if p.matrix.numel() >= self.smallest]
        tables = embedding_tables(graph) if self.embeddings else []
        tables = [table for table in tables if table.tensor.numel() >= self.smallest]
        names = [product.weight.name for product in products] + [table.weight.name for table in tables]
        for glob in self.ignore:
            if not fnmatch.filter(names, glob):
                raise unknown_name("weight", glob, names, f"It was given to {self.name} as one to ignore.")
        ignored = {name for glob in self.ignore for name in fnmatch.filter(names, glob)}
        return (
            [product for product in products if product.weight.name not in ignored],
            [table for table in tables if table.weight.name not in ignored],
        )

    def _rounding(self, graph: Graph, products: list[StoredProduct], context: PassContext) -> GptqRounding | None:
        if self.rounding != "gptq" or not products:
            return None
        if context.calibration is not None:
            sets = [batch.inputs for batch in read_batches(graph, context.calibration, self.samples)]
        elif context.samples:
            sets = [list(inputs) for inputs in context.samples[: self.samples]]
        else:
            raise InputError(f"{self.name} needs data for gptq: give calibration=, or example inputs")
        return GptqRounding(graph, [product.node for product in products], sets)

    def _stored(
        self, product: StoredProduct, rounding: GptqRounding | None, rewriter: Rewriter
    ) -> tuple[_Stored, float]:
        """The integers, scales and zero points as [K, N] and [blocks, N], or [N]; and the relative error."""
        format_, axis = find_format(self.dtype), 0 if self.block_size else 1
        matrix = product.matrix
        scales, zeros = block_parameters(matrix, format_, self.block_size, self.search)
        points = None if zeros is None else zeros.to(format_.storage)
        q = None
        if rounding is not None:
            own = [_turned(x, product.transposed) for x in (scales, zeros)]
            along = 1 - axis if product.transposed else axis
            q = rounding(product.weight, own[0], along, format_, self.block_size, own[1])  # type: ignore[arg-type]
            q = _turned(q, product.transposed)
        if q is None:
            q = quantized(matrix, scales, points, format_, axis, self.block_size)
        found = dequantized(q, scales, points, axis, self.block_size)
        error = float((found - matrix).norm() / matrix.norm().clamp(min=torch.finfo(torch.float32).tiny))
        name = product.weight.name
        integers = rewriter.constant(q.contiguous(), f"{name}_quantized", dtype=format_.dtype)
        zero = None if points is None else rewriter.constant(points, f"{name}_zero_point", dtype=format_.dtype)
        return (integers, rewriter.constant(scales, f"{name}_scale"), zero), error

    def _replace(self, product: StoredProduct, stored: _Stored, rewriter: Rewriter) -> None:
        axis = 0 if self.block_size else 1
        weight = rewriter.create("graphopt.dequantize", *stored, self.dtype, axis, self.block_size).result
        last = rewriter.create("aten.matmul", product.x, weight).result
        if product.bias is not None:
            last = rewriter.create("aten.add.Tensor", last, product.bias).result
        rewriter.replace(product.node, [last])


_Stored = tuple[Value, Value, "Value | None"]


def _turned(tensor: torch.Tensor | None, transposed: bool) -> torch.Tensor | None:
    return tensor.t().contiguous() if tensor is not None and transposed and tensor.dim() == 2 else tensor
