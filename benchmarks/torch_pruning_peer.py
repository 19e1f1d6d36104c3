"""torch-pruning beside: prune a module without hints about its insides, and its own masked model.

It is told the layers that make the outputs, which it would prune otherwise, and nothing else. The masked model is the
original with those slices set to zero that torch-pruning removed from the output side of layers, norms and parameters.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

PRODUCERS = (
    nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.Embedding,
)  # fmt: skip


LIMIT = 60
"""Seconds after which a run is given up."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in a block that takes longer; again and again, since callbacks swallow exceptions."""

    def give_up(*_: Any) -> None:
        raise TimeoutError(f"no result within {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Outcome:
    """What came of it. share: parameters left. error: to its masked model, relative to the outputs' scale."""

    share: float = 1.0
    error: float = float("nan")
    problem: str = ""

    @property
    def pruned(self) -> bool:
        """True if it ran, gave outputs of the right shapes, and has fewer parameters."""
        return not self.problem and self.share < 1


def leaves(outputs: Any) -> list[torch.Tensor]:
    """The floating-point tensors of an output."""
    return [t for t in pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.is_floating_point()]


def call(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The outputs of a call on copies of the arguments."""
    args, kwargs = copy.deepcopy((tuple(args), dict(kwargs)))
    with torch.no_grad():
        return leaves(module(*args, **kwargs))


def output_layers(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[nn.Module]:
    """The layers whose results the model returns as they are."""
    found: dict[int, nn.Module] = {}
    hooks = [
        layer.register_forward_hook(lambda layer, _, result: found.__setitem__(id(result), layer))
        for layer in module.modules()
        if isinstance(layer, PRODUCERS)
    ]
    results: list[torch.Tensor] = []
    with torch.no_grad():
        results = leaves(module(*copy.deepcopy(tuple(args)), **copy.deepcopy(dict(kwargs))))
    for hook in hooks:
        hook.remove()
    return [found[id(t)] for t in results if id(t) in found]


class Masks:
    """Follows what is removed, in the numbering of the original, and zeroes it there."""

    def __init__(self, pruned: nn.Module, masked: nn.Module) -> None:
        self._twins = dict(zip(pruned.modules(), masked.modules()))
        self._left: dict[nn.Module, torch.Tensor] = {}
        self.complete = True

    def record(self, group: Any) -> None:
        """Zero the output slices that a group is about to lose."""
        for dependency, indices in group:
            layer, name = dependency.target.module, dependency.handler.__name__
            if "in_channels" in name or not list(getattr(layer, "parameters", lambda: ())()):
                continue
            if not isinstance(layer, PRODUCERS) or layer not in self._twins:
                self.complete = False
                continue
            count = 0 if layer.weight is None else layer.weight.shape[_axis(layer)]
            left = self._left.get(layer, torch.arange(count))
            gone = torch.as_tensor(indices)
            self._zero(self._twins[layer], left[gone])
            stays = torch.ones(len(left), dtype=torch.bool)
            stays[gone] = False
            self._left[layer] = left[stays]

    @staticmethod
    def _zero(layer: nn.Module, indices: torch.Tensor) -> None:
        with torch.no_grad():
            for tensor in (layer.weight, getattr(layer, "bias", None)):
                if isinstance(tensor, torch.Tensor):
                    tensor.index_fill_(_axis(layer) if tensor.dim() > 1 else 0, indices, 0)


def _axis(layer: nn.Module) -> int:
    """The axis of a weight that makes the outputs."""
    return 1 if isinstance(layer, nn.Embedding | nn.modules.conv._ConvTransposeNd) else 0


def prune(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], ratio: float) -> Outcome:
    """Prune a copy by group magnitude, run it, and compare."""
    import torch_pruning as tp

    pruned, masked = copy.deepcopy(module), copy.deepcopy(module)
    before = sum(p.numel() for p in pruned.parameters())
    wanted = call(module, args, kwargs)
    masks = Masks(pruned, masked)
    try:
        with limited(LIMIT):
            pruner = tp.pruner.BasePruner(
                pruned,
                example_inputs=dict(kwargs) if kwargs and not args else tuple(args),
                importance=tp.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=output_layers(pruned, args, kwargs),
                output_transform=lambda outputs: sum(t.sum() for t in leaves(outputs)),
            )
            for group in pruner.step(interactive=True):
                masks.record(group)
                group.prune()
        got = call(pruned, args, kwargs)
    except Exception as error:  # the table shows what any model does, a failure included
        return Outcome(problem=f"{type(error).__name__}: {' '.join(str(error).split())[:110]}")
    share = sum(p.numel() for p in pruned.parameters()) / before if before else 1.0
    if [t.shape for t in got] != [t.shape for t in wanted]:
        return Outcome(share, problem="the outputs have other shapes")
    if not masks.complete:
        return Outcome(share)
    reference = call(masked, args, kwargs)
    errors = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in zip(got, reference) if b.numel()]
    return Outcome(share, max(errors, default=0.0))
