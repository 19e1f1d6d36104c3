"""Products of an activation with a stored matrix, in whichever operator they are written."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value


@dataclass(frozen=True)
class StoredProduct:
    """y = x W + b. transposed: W is stored as [N, K]. left, right, added: the operands x, W and b; b may be none."""

    node: Node
    transposed: bool
    left: int
    right: int
    added: int | None

    @property
    def x(self) -> Value:
        """The activation, as it is now."""
        return self._operand(self.left)

    @property
    def weight(self) -> Value:
        """The stored constant."""
        return self._operand(self.right)

    @property
    def bias(self) -> Value | None:
        """What is added, as it is now."""
        return None if self.added is None else self.node.operands[self.added]

    @property
    def matrix(self) -> torch.Tensor:
        """W as [K, N]."""
        constant = self.weight.constant
        assert constant is not None
        tensor = constant.tensor.detach()
        return tensor.t() if self.transposed else tensor

    def _operand(self, index: int) -> Value:
        value = self.node.operands[index]
        assert value is not None
        return value


def stored_products(graph: Graph) -> list[StoredProduct]:
    """Every product of a single-precision activation with a stored matrix, in graph order."""
    found = [_product(node) for node in graph]
    return [product for product in found if product is not None and _fits(product)]


def _product(node: Node) -> StoredProduct | None:
    if node.name == "aten.linear":
        return StoredProduct(node, True, 0, 1, 2)
    if node.name in ("aten.matmul", "aten.mm"):
        return StoredProduct(node, False, 0, 1, None)
    if node.name == "aten.addmm" and node.attr("alpha") == 1 and node.attr("beta") == 1:
        return StoredProduct(node, False, 1, 2, 0)
    return None


def _fits(product: StoredProduct) -> bool:
    x, weight = product.x, product.weight
    if weight.constant is None or x.constant is not None:
        return False
    if not all(isinstance(t, TensorType) and t.dtype is DType.F32 for t in (x.type, weight.type)):
        return False
    return len(weight.shape) == 2 and len(x.shape) >= 2
