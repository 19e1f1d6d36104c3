"""Attention beyond what PyTorch's operator does: heads side by side, live blocks only, windows, rows in segments."""

from graphopt.ops.attention import block_sparse, segments, whole, window
from graphopt.ops.attention.plan import Call, Segment, decode, encode
from graphopt.ops.attention.planning import Planned, plan_mask, plan_window

__all__ = [
    "Call",
    "Planned",
    "Segment",
    "block_sparse",
    "decode",
    "encode",
    "plan_mask",
    "plan_window",
    "segments",
    "whole",
    "window",
]
