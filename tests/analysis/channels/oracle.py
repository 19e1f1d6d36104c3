"""A brute-force check of a removal: mask the parameters, run the graph, and look at every value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graphopt
from graphopt.analysis import Interpreter
from graphopt.analysis.channels import ChannelAnalysis, Removal, Role, State
from graphopt.ir import Graph, Node, Trait, Value
from graphopt.ops import torch_arguments

LOCAL = frozenset(
    """linear matmul mm bmm addmm conv1d conv2d conv3d batch_norm cat stack embedding permute transpose unsqueeze
    softmax max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d sum amax t numpy_T flip pad
    instance_norm""".split()  # noqa: SIM905
)
"""Operators that give the sliced result when run on sliced operands, whatever their attributes say."""

RESHAPES = {"reshape", "view", "flatten", "unflatten", "_unsafe_view"}


def trace(module: nn.Module, *args: Tensor) -> Graph:
    """The graph of a module, in eval mode, at the sizes of its arguments."""
    return graphopt.trace(module.eval(), args)


@contextmanager
def masked(
    analysis: ChannelAnalysis, selection: Mapping[str, np.ndarray], tensors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Zero the slices of removed channels in a model's own parameters, by name."""
    saved: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for group in analysis.groups:
                for member in group.members:
                    gone = _slots(member.channels, selection.get(group.name))
                    if member.role.zeroed and gone.any():
                        saved.setdefault(member.name, tensors[member.name].clone())
                        tensors[member.name].index_fill_(member.dim, torch.from_numpy(np.flatnonzero(gone)), 0.0)
            yield
    finally:
        with torch.no_grad():
            for name, old in saved.items():
                tensors[name].copy_(old)


def _slots(channels: np.ndarray, chosen: np.ndarray | None) -> np.ndarray:
    if chosen is None:
        return np.zeros(len(channels), bool)
    return np.where(channels >= 0, np.asarray(chosen, bool)[channels], False)


def check(module: nn.Module, args: Sequence[Tensor], analysis: ChannelAnalysis, selection: dict[str, Any]) -> int:
    """Check a selection on a graph and on the eager module; return what `check_graph` does."""
    tensors = dict(module.named_parameters(remove_duplicate=False))
    with masked(analysis, selection, tensors):
        outputs, count = check_graph(analysis, args, selection)
        expected = module(*args)
    for output, wanted in zip(outputs, expected if isinstance(expected, tuple) else (expected,)):
        torch.testing.assert_close(output.float(), wanted.float(), rtol=1e-3, atol=1e-4)
    return count


def check_graph(analysis: ChannelAnalysis, args: Sequence[Any], selection: dict[str, Any]) -> tuple[list[Any], int]:
    """Run a masked graph; return its outputs and the number of nodes whose sliced operands were run.

    Every removed slot that the analysis does not call varying is constant over the other dims, and every kept slot of a
    result comes from the kept slots of the operands.
    """
    removal = analysis.removed(selection)
    values: dict[Value, Any] = {}

    def observe(node: Node, results: Sequence[Any]) -> None:
        values.update(zip(node.results, results))

    outputs = Interpreter(analysis.graph, float64=True, observer=observe).run(*args)
    values |= {v: v.constant.tensor.detach() for v in analysis.graph.constants.values() if v.constant is not None}
    values |= dict(zip(analysis.graph.inputs, args))
    values = {v: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for v, t in values.items()}
    for value, dim in removal.kept:
        if not analysis.tracker.is_constant(value):
            _check_constant(analysis, removal, value, dim, values[value])
    return outputs, sum(_check_node(removal, node, values) for node in analysis.graph)


def _check_constant(analysis: ChannelAnalysis, removal: Removal, value: Value, dim: int, tensor: Tensor) -> None:
    states = [f.state for f in analysis.tracker.values[value][dim] if f.atoms is not None]
    if max(states) >= State.NORMED:
        return
    gone = np.setdiff1d(np.arange(tensor.shape[dim]), removal.kept[value, dim])
    if tensor.numel() == 0:
        return
    slots = tensor.double().movedim(dim, 0)[torch.from_numpy(gone)].reshape(len(gone), -1)
    others = slots if max(states) is State.CONSTANT else torch.cat([slots, torch.zeros_like(slots[:, :1])], 1)
    assert (others - others[:, :1]).abs().max() < 1e-9, f"{value.name} dim {dim}: removed slots are not {max(states)!r}"


def sliced(removal: Removal, value: Value, tensor: Tensor) -> Tensor:
    """The kept slots of a value."""
    for dim in range(tensor.ndim):
        kept = removal.kept.get((value, dim))
        if kept is not None:
            tensor = tensor.index_select(dim, torch.from_numpy(kept))
    return tensor


def _check_node(removal: Removal, node: Node, values: dict[Value, Tensor]) -> bool:
    if len(node.results) != 1 or not any(v in removal.shapes for v in (*node.inputs, node.result)):
        return False
    wanted = sliced(removal, node.result, values[node.result])
    assert tuple(wanted.shape) == removal.shape(node.result)
    name = node.op.base.removeprefix("aten.")
    operands = [None if v is None else sliced(removal, v, values[v]) for v in node.operands]
    if name in RESHAPES:
        found = operands[0].reshape(wanted.shape)
    elif name == "expand":
        found = operands[0].expand(wanted.shape)
    elif name in LOCAL or node.op.has(Trait.ELEMENTWISE):
        if not _contracts_zeros(removal, node, name):
            return False
        if name.startswith("conv") and node.attr("groups") != 1:
            return False
        args, kwargs = torch_arguments(node.op, operands, node.attributes, int)
        found = node.op.evaluate(*args, **kwargs)
    else:
        return False
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-9, atol=1e-9, msg=lambda m: f"{node!r}: {m}")
    return True


def _contracts_zeros(removal: Removal, node: Node, name: str) -> bool:
    """True unless a constant that is not zero has to fold into a bias."""
    if name not in ("linear", "conv1d", "conv2d", "conv3d", "addmm", "matmul"):
        return True
    axes = removal.analysis.tracker.values
    states = [
        f.state for v in node.inputs if v.constant is None for axis in axes[v] for f in axis if f.atoms is not None
    ]
    return max(states, default=State.ZERO) is State.ZERO


def tied(analysis: ChannelAnalysis, name: str) -> set[tuple[str, int, str]]:
    """The members of a group as (name, dim, role)."""
    return {(m.name, m.dim, m.role.value) for m in analysis.group(name).members}


def one_channel(analysis: ChannelAnalysis, name: str, channel: int) -> dict[str, np.ndarray]:
    """The selection that removes one channel."""
    return {name: np.arange(analysis.group(name).size) == channel}


__all__ = ["Role", "check", "check_graph", "masked", "one_channel", "sliced", "tied", "trace"]
