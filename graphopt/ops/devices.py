"""What the IR's devices are in this process."""

from __future__ import annotations

import torch


def torch_device(name: str) -> torch.device:
    """The device of PyTorch that an IR device is here: the CPU stands for one that this process does not have, so
    that a graph that was planned for another machine runs.

    >>> torch_device("npu:0"), torch_device("cpu")
    (device(type='cpu'), device(type='cpu'))
    """
    kind = name.partition(":")[0]
    present = kind in ("cpu", "meta") or (kind == "cuda" and torch.cuda.is_available())
    return torch.device(name if present else "cpu")
