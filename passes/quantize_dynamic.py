"""Dynamic quantization: products of matrices run on integers, and the scale of the activation is found as they run.

    x W + b   →   ((Q(x) − z) · W_q) s_x s_w + b,   s_x and z from the range of x in this call

It needs no data. The weight is stored in 8 bits with a scale for each column. Runtimes have one kernel for all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import DType, Graph, Value
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import quantized
from graphopt.passes.quantization.products import StoredProduct, stored_products
from graphopt.passes.quantization.weights import weight_scales
from graphopt.passes.support.constants import drop_unused
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NOTHING = "nothing to quantize: no product of single precision has a stored matrix"


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """Run products with stored matrices on 8-bit integers, with scales of activations that are found as they run.

    granularity: "channel" gives a weight a scale for each output, "tensor" one in all.
    smallest: weights of fewer elements stay; their products cost less than quantizing what they read.
    ignore: weights left in floating point, by name or glob.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"reduced-precision"})

    granularity: str = "channel"
    smallest: int = 1024
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.granularity not in ("channel", "tensor"):
            raise unknown_name("value of granularity", self.granularity, ("channel", "tensor"))
        if self.smallest < 0:
            raise GraphOptError(f"smallest is {self.smallest}; it counts elements")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            UnknownNameError: a name in `ignore` that no weight has.
        """
        with requested():
            products = self._chosen(stored_products(graph))
        if not products:
            return PassResult(False, notes=[_NOTHING])
        rewriter = Rewriter(graph, context.listeners)
        weights: dict[tuple[Value, bool], tuple[Value, Value]] = {}
        activations: dict[Value, tuple[Value, ...]] = {}
        for product in products:
            with rewriter.at(product.node, self.name):
                key = (product.weight, product.transposed)
                if key not in weights:
                    weights[key] = self._stored(product, rewriter)
                if product.x not in activations:
                    activations[product.x] = rewriter.create("graphopt.dynamic_quantize", product.x).results
                rewriter.replace(product.node, [_computed(product, weights[key], activations[product.x], rewriter)])
        for weight, _ in weights:
            drop_unused(rewriter, weight)
        return PassResult(True, notes=[f"quantized {len(products)} products, {len(activations)} activations"])

    def _chosen(self, products: list[StoredProduct]) -> list[StoredProduct]:
        names = [product.weight.name for product in products]
        check_globs(self.ignore, names, "weight", f"It was given to {self.name} as one to ignore.")
        return [
            p
            for p in products
            if p.matrix.numel() >= self.smallest and first_fitting(self.ignore, [p.weight.name]) is None
        ]

    def _stored(self, product: StoredProduct, rewriter: Rewriter) -> tuple[Value, Value]:
        format_, axis = find_format("int8"), 1 if self.granularity == "channel" else None
        scales = weight_scales(product.matrix, format_, axis, search=False)
        q = quantized(product.matrix, scales, None, format_, axis, 0).contiguous()
        name = product.weight.name
        return rewriter.constant(q, f"{name}_quantized"), rewriter.constant(scales, f"{name}_scale")


def _computed(
    product: StoredProduct, weight: tuple[Value, Value], activation: tuple[Value, ...], rewriter: Rewriter
) -> Value:
    q, scale, zero = activation
    sums = rewriter.create("graphopt.matmul_integer", q, weight[0], zero, None).result
    factor = rewriter.create("aten.mul.Tensor", scale, weight[1]).result
    real = rewriter.create("aten.to.dtype", sums, DType.F32).result
    scaled = rewriter.create("aten.mul.Tensor", real, factor).result
    if product.bias is None:
        return scaled
    return rewriter.create("aten.add.Tensor", scaled, product.bias).result
