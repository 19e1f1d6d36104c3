"""Products of an activation with a stored matrix, in whichever operator they are written."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value


@dataclass(frozen=True)
class StoredProduct:
    """y = x W + b. weight: the stored constant. transposed: it is stored as [N, K]. bias: added afterwards, or None."""

    node: Node
    x: Value
    weight: Value
    transposed: bool
    bias: Value | None

    @property
    def matrix(self) -> torch.Tensor:
        """W as [K, N]."""
        assert self.weight.constant is not None
        tensor = self.weight.constant.tensor.detach()
        return tensor.t() if self.transposed else tensor


def stored_products(graph: Graph) -> list[StoredProduct]:
    """Every product of a single-precision activation with a stored matrix, in graph order."""
    found = [_product(node) for node in graph]
    return [product for product in found if product is not None and _fits(product)]


def _product(node: Node) -> StoredProduct | None:
    operands = node.operands
    if node.name == "aten.linear":
        return _made(node, operands[0], operands[1], True, operands[2])
    if node.name in ("aten.matmul", "aten.mm"):
        return _made(node, operands[0], operands[1], False, None)
    if node.name == "aten.addmm" and node.attr("alpha") == 1 and node.attr("beta") == 1:
        return _made(node, operands[1], operands[2], False, operands[0])
    return None


def _made(
    node: Node, x: Value | None, weight: Value | None, transposed: bool, bias: Value | None
) -> StoredProduct | None:
    if x is None or weight is None or weight.constant is None or x.constant is not None:
        return None
    return StoredProduct(node, x, weight, transposed, bias)


def _fits(product: StoredProduct) -> bool:
    types = product.x.type, product.weight.type
    if not all(isinstance(t, TensorType) and t.dtype is DType.F32 for t in types):
        return False
    return len(product.weight.shape) == 2 and len(product.x.shape) >= 2
