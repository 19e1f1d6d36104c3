"""Learning the scales of stored integers, so that the outputs of the model stay what they were.

    s = argmin Σ ‖y(x; q, z, s) − y(x)‖² / ‖y(x)‖²       over calibration data, the integers q and z as they are

A number is (q − z) s, so derivatives by s are exact. Steps are relative to each scale, s = s₀ (1 + θ), and get smaller
along half a cosine. One set in eight is held out; where what was learned is no better on those, it is dropped.
(It is the second step of EfficientQAT, Chen et al. 2024.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.rewrite import Rewriter

RATE = 2e-3
_HELD_OUT = 8
_LEAST = -0.9
"""No scale falls below a tenth of what it was."""
_log = logging.getLogger(__name__)


def tune_scales(
    rewriter: Rewriter,
    original: Graph,
    scales: Sequence[Value],
    sets: Sequence[Sequence[Any]],
    rounds: int,
) -> str:
    """Let the scales of the rewriter's graph learn for some rounds over all sets; return a sentence.

    original: what gives the outputs to keep.

    Raises:
        GraphOptError: no output is differentiable by a scale, or a derivative is not finite.
    """
    tuning = _Tuning(rewriter.graph, original, scales)
    held = [inputs for index, inputs in enumerate(sets) if index % _HELD_OUT == _HELD_OUT - 1] or sets
    learning = [inputs for index, inputs in enumerate(sets) if index % _HELD_OUT != _HELD_OUT - 1]
    before = tuning.error(held)
    tuning.learn(learning, rounds)
    learned = tuning.stored()
    after = tuning.error(held)
    if not after < before:
        return f"scales stay: tuned, noise is {after:.3g} of the outputs' energy on data held out, not {before:.3g}"
    for value, tensor in zip(scales, learned):
        new, name = rewriter.constant_like(value, tensor), value.name
        rewriter.replace_value(value, new)
        drop_unused(rewriter, value)
        take_name(rewriter, new, name)
    return f"tuned scales: noise is {after:.3g} of the outputs' energy on data held out, it was {before:.3g}"


class _Tuning:
    """The scales of one graph."""

    def __init__(self, graph: Graph, original: Graph, scales: Sequence[Value]) -> None:
        self._scales = scales
        self._original, self._interpreter = Interpreter(original), Interpreter(graph, differentiate=scales)
        self._leaves = [self._interpreter.leaf(value) for value in scales]
        self._first = [leaf.detach().float().clone() for leaf in self._leaves]
        self._changes = [torch.zeros_like(first) for first in self._first]
        self._put()

    def _put(self) -> None:
        """In single precision, so that derivatives are; the stored tensors stay as they are."""
        for leaf, first, change in zip(self._leaves, self._first, self._changes):
            leaf.data = first * (1 + change)

    def stored(self) -> list[torch.Tensor]:
        """The scales in the precision that they are stored in, which from now on is what counts."""
        types = [value.constant.tensor.dtype for value in self._scales if value.constant is not None]
        found = [leaf.detach().to(dtype) for leaf, dtype in zip(self._leaves, types)]
        for leaf, tensor in zip(self._leaves, found):
            leaf.data = tensor.float()
        return found

    def _noise(self, inputs: Sequence[Any]) -> torch.Tensor:
        with torch.no_grad():
            wanted = self._original.run(*inputs)
        shares = [
            (y - w).square().sum() / w.square().sum().clamp(min=torch.finfo(w.dtype).tiny)
            for y, w in zip(self._interpreter.run(*inputs), wanted)
            if isinstance(y, torch.Tensor) and y.requires_grad
        ]
        if not shares:
            raise GraphOptError("no output is differentiable by a scale; leave tuning at 0")
        return torch.stack(shares).mean()

    def error(self, sets: Sequence[Sequence[Any]]) -> float:
        """The mean share of noise."""
        return math.fsum(float(self._noise(inputs).detach()) for inputs in sets) / len(sets)

    def learn(self, sets: Sequence[Sequence[Any]], rounds: int) -> None:
        """Adam over all sets, in another order each round."""
        optimizer = torch.optim.Adam(self._changes, lr=RATE)
        generator, steps, step = torch.Generator().manual_seed(0), rounds * len(sets), 0
        for number in range(rounds):
            _log.info("tuning scales, round %d of %d", number + 1, rounds)
            for index in torch.randperm(len(sets), generator=generator).tolist():
                found = torch.autograd.grad(self._noise(sets[index]), self._leaves, allow_unused=True)
                for change, first, gradient in zip(self._changes, self._first, found):
                    if gradient is not None and not bool(gradient.isfinite().all()):
                        raise GraphOptError("a derivative by a scale is not finite on the calibration data")
                    change.grad = None if gradient is None else gradient * first
                optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2
                optimizer.step()
                step += 1
                for change in self._changes:
                    change.clamp_(min=_LEAST)
                self._put()
