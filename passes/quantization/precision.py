"""What runs in half precision, and what half precision cannot hold.

Two tables of operators; every operator that is in neither runs in single precision: softmax, norms, exponentials and
logarithms, powers, sums and means, losses, and whatever is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.analysis import watch_values
from graphopt.ir import DType, Graph, Node, TensorType, Trait, Value

_PRODUCTS = """linear matmul mm bmm addmm baddbmm conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d
conv_transpose3d scaled_dot_product_attention"""
_ELEMENTWISE = """relu relu6 leaky_relu elu gelu silu mish hardtanh hardswish hardsigmoid sigmoid tanh abs neg clamp
clamp_min clamp_max add sub rsub mul div maximum minimum where prelu dropout max_pool1d max_pool2d max_pool3d
max_pool2d_with_indices upsample_nearest1d upsample_nearest2d pixel_shuffle constant_pad_nd"""
_MOVES = """view reshape _unsafe_view permute transpose t squeeze unsqueeze expand slice select split split_with_sizes
chunk unbind narrow flatten unflatten cat stack index_select contiguous clone"""

TABLES = frozenset({"aten.embedding"})
"""What only looks stored numbers up: they are stored in half precision, and what is read goes on in single."""
REDUCED = frozenset(f"aten.{name}" for name in _PRODUCTS.split()) | {"graphopt.attention"} | TABLES
"""Sums of products: they run in half precision, and kernels add up in single precision."""
FOLLOWING = frozenset(f"aten.{name}" for name in (_ELEMENTWISE + " " + _MOVES).split())
"""Elementwise operators and those that move elements: they run in half precision if all that they read comes in it."""

FORMATS = {"float16": DType.F16, "bfloat16": DType.BF16}


def largest_finite(tensor: torch.Tensor) -> float:
    """The largest magnitude among the finite numbers of a tensor that is not empty; 0 if there is none."""
    magnitudes = tensor.detach().abs()
    return float(magnitudes.where(magnitudes.isfinite(), 0).max())


@dataclass
class Reach:
    """What was seen of one value: the largest magnitude among its finite numbers, and how many are none.

    Infinities are the same in every format: a mask may hold them.
    """

    largest: float = 0.0
    broken: int = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Take the numbers of one run."""
        if tensor.numel():
            self.broken += int(tensor.isnan().sum())
            self.largest = max(self.largest, largest_finite(tensor))


def reaches(graph: Graph, sets: Iterable[Sequence[Any]]) -> dict[Value, Reach]:
    """Run the graph on sets of inputs; return what was seen of each value of single precision."""
    found: dict[Value, Reach] = {}

    def take(value: Value, result: Any) -> None:
        if is_single(value):
            found.setdefault(value, Reach()).add(result)

    watch_values(graph, sets, take)
    return found


def is_single(value: Value | None) -> bool:
    """True for a tensor of single precision."""
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype is DType.F32


@dataclass
class Limits:
    """What a format of half precision can hold.

    margin: the share of its greatest number up to which values may reach. seen: by value, where there is data.
    """

    dtype: DType
    margin: float
    seen: dict[Value, Reach] = field(default_factory=dict)

    def objection(self, value: Value) -> str | None:
        """Return why a value cannot be in half precision, or None."""
        if value.constant is not None:
            return self._of_stored(value, value.constant.tensor.detach())
        reach = self.seen.get(value)
        if reach is None:
            return None
        if reach.broken:
            return f"%{value.name} has {reach.broken} NaN"
        info = torch.finfo(self.dtype.torch)
        if reach.largest > self.margin * info.max:
            return f"%{value.name} reaches {reach.largest:.3g}, beyond {self.margin:g} of the greatest {info.max:.3g}"
        if 0 < reach.largest < info.smallest_normal:
            return f"%{value.name} reaches {reach.largest:.3g} only, below the least normal {info.smallest_normal:.3g}"
        return None

    def _of_stored(self, value: Value, tensor: torch.Tensor) -> str | None:
        """A stored tensor may lose what rounding takes, at most half a unit in the last place, and no more."""
        if bool(tensor.isnan().any()):
            return f"{value.name} has NaN"
        info = torch.finfo(self.dtype.torch)
        largest = largest_finite(tensor) if tensor.numel() else 0.0
        if largest > info.max:
            return f"{value.name} reaches {largest:.3g}, beyond the greatest {info.max:.3g}"
        wide = tensor.double().where(tensor.isfinite(), 0)
        lost, whole = float((wide.to(self.dtype.torch).double() - wide).norm()), float(wide.norm())
        if lost > info.eps / 2 * whole:
            return f"{value.name} would lose {lost / whole:.2%}, for most of it is below {info.smallest_normal:.3g}"
        return None


def beside_quantization(node: Node) -> bool:
    """True if a node reads what is decoded from stored codes, or is read to be quantized."""
    makers = [v.producer for v in node.operands if v is not None and v.producer is not None]
    readers = [user for result in node.results for user in result.users]
    return any(Trait.DECODES in n.op.traits or Trait.STEPS in n.op.traits for n in (*makers, *readers))
