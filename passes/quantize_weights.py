"""Weight-only quantization: matrices are stored in few bits, and become floats where they are read.

    x W + b   →   x D(W_q) + b,   a scale for each block of neighbours along the inputs

What it saves is memory and its traffic; the products stay in floating point. Runtimes have kernels that read the packed
form (`MatMulNBits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import DType, Graph, Value
from graphopt.ops.quantization import Format, find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.adaround import AdaRounding
from graphopt.passes.quantization.blocks import block_parameters, in_half_precision
from graphopt.passes.quantization.embeddings import Table, embedding_tables, quantize_table
from graphopt.passes.quantization.layer_formats import LayerFormats, settled, weight_names
from graphopt.passes.quantization.products import StoredProduct, stored_products
from graphopt.passes.quantization.rounding import GptqRounding, ModelGptqRounding, Rounding
from graphopt.passes.quantization.scale_tuning import tune_scales
from graphopt.passes.support.constants import drop_unused
from graphopt.passes.support.data import batches_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NOTHING = "nothing to quantize: no product of single precision has a stored matrix, and there is no embedding table"


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store the matrices of products, and embedding tables, in few bits.

    dtype: uint2 to uint8, with zero points; int2 to int8, symmetric about zero.
    formats: formats of single weights, by name or glob, `{"encoder.layer.0.*"=uint8, head=float}`; the first that fits
        counts, and `float` leaves the weight in floating point.
    block_size: how many neighbours along the inputs share a scale; 0 gives each output one.
    rounding: nearest, or, with calibration data, gptq or adaround. iterations: of adaround, for each weight.
    objective: what gptq keeps: "layer", the output of each product alone, or "model", the outputs of the model, by the
        derivatives of their random sums by the weights; then embedding tables are rounded by it, too.
    search: choose scales by least squared error; otherwise they cover all numbers.
    tuning: for how many rounds over calibration data scales then learn to keep the outputs of the model.
    embeddings: store embedding tables so, too, by blocks along their rows.
    half_scales: store scales in half precision where that has their range.
    smallest: weights of fewer elements stay. ignore: weights left in floating point, by name or glob.
    samples: how many batches of calibration data are used, at most.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"reduced-precision"})

    dtype: str = "uint4"
    formats: Mapping[str, str] = field(default_factory=dict)
    block_size: int = 32
    rounding: str = "nearest"
    iterations: int = 1000
    objective: str = "layer"
    half_scales: bool = True
    search: bool = True
    tuning: int = 0
    embeddings: bool = True
    smallest: int = 1024
    ignore: tuple[str, ...] = ()
    samples: int = 128

    def __post_init__(self) -> None:
        format_ = find_format(self.dtype)
        if format_.is_float or format_.bits > 8:
            raise GraphOptError(f"{self.dtype} is no format of stored weights; choose int2 to int8, or uint2 to uint8")
        object.__setattr__(self, "formats", settled(self.formats, 8))
        if self.block_size < 0 or self.samples < 1 or self.iterations < 1 or self.tuning < 0:
            raise GraphOptError("block_size and tuning are at least 0, samples and iterations at least 1")
        if self.rounding not in ("nearest", "gptq", "adaround"):
            raise unknown_name("value of rounding", self.rounding, ("nearest", "gptq", "adaround"))
        if self.objective not in ("layer", "model"):
            raise unknown_name("value of objective", self.objective, ("layer", "model"))

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: rounding by data without data, or data that does not fit.
            UnknownNameError: a name in `ignore` or `formats` that no weight has.
        """
        with requested():
            products, tables, formats = self.chosen(graph)
            if not products and not tables:
                return PassResult(False, notes=[_NOTHING])
            sets = self._sets(graph, context) if self.rounding != "nearest" or self.tuning else []
            rounding = self._rounding(graph, products, tables, sets)
            original = graph.clone() if self.tuning else graph
        rewriter = Rewriter(graph, context.listeners)
        stored: dict[tuple[Value, bool], _Stored] = {}
        errors = []
        for product in products:
            key = (product.weight, product.transposed)
            if key not in stored:
                stored[key], error = self._stored(product, formats[product.weight], rounding, rewriter)
                errors.append(error)
            with rewriter.at(product.node, self.name):
                self._replace(product, formats[product.weight], stored[key], rewriter)
        scales = [scale for _, scale, _ in stored.values()]
        for table in tables:
            format_ = formats[table.weight]
            by = rounding if isinstance(rounding, ModelGptqRounding) else None
            scale, error = quantize_table(table, format_, self.block_size, self.search, rewriter, self.name, by)
            scales.append(scale)
            errors.append(error)
        for weight in dict.fromkeys([weight for weight, _ in stored] + [table.weight for table in tables]):
            drop_unused(rewriter, weight)
        widths = " and ".join(dict.fromkeys(format_.name for format_ in formats.values()))
        notes = [f"{len(errors)} weights in {widths}, relative error {max(errors):.3g} at most"]
        if rounding is not None:
            notes += rounding.notes
        if self.tuning:
            with requested():
                notes.append(tune_scales(rewriter, original, scales, sets, self.tuning))
        return PassResult(True, notes=notes)

    def chosen(self, graph: Graph) -> tuple[list[StoredProduct], list[Table], dict[Value, Format]]:
        """What is quantized, and the format of each weight."""
        products = [p for p in stored_products(graph) if p.matrix.numel() >= self.smallest]
        tables = embedding_tables(graph) if self.embeddings else []
        tables = [table for table in tables if table.tensor.numel() >= self.smallest]
        weights = [product.weight for product in products] + [table.weight for table in tables]
        names = {weight: weight_names(weight) for weight in weights}
        known = [name for some in names.values() for name in some]
        given = LayerFormats(self.dtype, self.formats, self.ignore, known, self.name, "weight")
        formats = {weight: given.of(some) for weight, some in names.items() if given.why_float(some) is None}
        return (
            [product for product in products if product.weight in formats],
            [table for table in tables if table.weight in formats],
            formats,
        )

    def _sets(self, graph: Graph, context: PassContext) -> list[list[Any]]:
        what = self.rounding if self.rounding != "nearest" else "tuning"
        return batches_of(graph, context, self.samples, self.name, f"for {what}")

    def _rounding(
        self, graph: Graph, products: list[StoredProduct], tables: list[Table], sets: list[list[Any]]
    ) -> Rounding | None:
        if self.rounding == "nearest":
            return None
        nodes = [product.node for product in products]
        if self.rounding == "adaround":
            return AdaRounding(graph, nodes, sets, self.iterations)
        if self.objective == "layer":
            return GptqRounding(graph, nodes, sets)
        return ModelGptqRounding(graph, nodes, [table.weight for table in tables], sets)

    def _stored(
        self, product: StoredProduct, format_: Format, rounding: Rounding | None, rewriter: Rewriter
    ) -> tuple[_Stored, float]:
        """The integers, scales and zero points as [K, N] and [blocks, N], or [N]; and the relative error."""
        axis = 0 if self.block_size else 1
        matrix = product.matrix
        scales, zeros = block_parameters(matrix, format_, self.block_size, self.search)
        points = None if zeros is None else zeros.to(format_.storage)
        half = in_half_precision(scales) if self.half_scales else None
        scales = scales if half is None else half.float()
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
        return (integers, rewriter.constant(scales if half is None else half, f"{name}_scale"), zero), error

    def _replace(self, product: StoredProduct, format_: Format, stored: _Stored, rewriter: Rewriter) -> None:
        axis = 0 if self.block_size else 1
        wide = DType.F32 if stored[1].dtype is not DType.F32 else None
        weight = rewriter.create("graphopt.dequantize", *stored, format_.name, axis, self.block_size, wide).result
        last = rewriter.create("aten.matmul", product.x, weight).result
        if product.bias is not None:
            last = rewriter.create("aten.add.Tensor", last, product.bias).result
        rewriter.replace(product.node, [last])


_Stored = tuple[Value, Value, "Value | None"]


def _turned(tensor: torch.Tensor | None, transposed: bool) -> torch.Tensor | None:
    return tensor.t().contiguous() if tensor is not None and transposed and tensor.dim() == 2 else tensor
