"""`graphopt.copy`: a tensor on another device.

    copy(x: T@a, device=b): T@b

It has the same numbers, in memory of their own.
"""

from __future__ import annotations

import torch

from graphopt.ir import TensorType, Trait
from graphopt.ops.devices import torch_device
from graphopt.ops.torch_dialects import register_torch_op

COPY = "graphopt.copy"
_LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_LIBRARY.define("copy(Tensor x, str device) -> Tensor")


def _copy(x: torch.Tensor, device: str) -> torch.Tensor:
    there = torch_device(device)
    return x.clone() if x.device.type == there.type and there.index in (None, x.device.index) else x.to(there)


_LIBRARY.impl("copy", _copy, "CompositeImplicitAutograd")


def _infer(x: TensorType, device: str) -> TensorType:
    return TensorType(x.dtype, x.shape, device)


register_torch_op(COPY, (Trait.PURE,), _infer)
