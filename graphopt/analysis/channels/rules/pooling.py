"""Pooling and resampling: channels pass through, spatial dims don't."""

from __future__ import annotations

from graphopt.analysis.channels.axes import Axis, State, axis_state, with_state
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node, TensorType

_SPATIAL = {"1d": 1, "2d": 2, "3d": 3}


@rule(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d",
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d lp_pool2d",
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d",
    "upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d _upsample_nearest_exact2d",
    "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa",
)
def pool(t: Tracker, node: Node) -> None:
    """[…, C, spatial] → […, C, spatial']."""
    x = next(t.operands())
    spatial = next(n for key, n in _SPATIAL.items() if key in node.op.base)
    pads = "avg" in node.op.base and any(_padding(node))
    own = t.axes(x)
    lead = len(own) - spatial
    for axis in own[lead:]:
        t.freeze(axis, f"spatial dim of {node.op.base}")
    for index, result in enumerate(node.results):
        assert isinstance(result.type, TensorType)
        axes: list[Axis] = []
        for axis in own[:lead]:
            state = axis_state(axis)
            if index or (pads and state is not State.ZERO):
                state = State.VARYING
            axes.append(with_state(axis, state))
        axes += [t.opaque(d, f"spatial dim of {node.op.base}") for d in result.type.shape[lead:]]
        t.set(axes, index)


def _padding(node: Node) -> tuple[object, ...]:
    padding = node.arguments().get("padding", 0)
    return padding if isinstance(padding, tuple) else (padding,)
