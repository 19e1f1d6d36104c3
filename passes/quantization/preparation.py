"""Writing a graph so that integer kernels are found.

    mean of an image over height and width → adaptive average pooling to 1×1 (and a reshape)

since a pooling has an integer kernel in ONNX Runtime, and a mean has none.
"""

from __future__ import annotations

from graphopt.ir import Graph, Node, TensorType
from graphopt.rewrite import Rewriter


def pools_for_means(graph: Graph, rewriter: Rewriter, name: str) -> None:
    """Rewrite the means over both spatial dims in `graph`. name: of the pass."""
    for node in list(graph):
        if node.name == "aten.mean.dim" and _is_spatial(node):
            with rewriter.at(node, name):
                pooled = rewriter.create("aten.adaptive_avg_pool2d", node.operands[0], (1, 1)).result
                if not node.attr("keepdim"):
                    pooled = rewriter.create("aten.reshape", pooled, node.result.shape).result
            rewriter.replace(node, [pooled])


def _is_spatial(node: Node) -> bool:
    image = node.operands[0].type if node.operands[0] is not None else None
    dims = node.attr("dim")
    if not isinstance(image, TensorType) or image.rank != 4 or not dims or node.attr("dtype") is not None:
        return False
    return {d % 4 for d in dims} == {2, 3}
