"""Pruned = masked, on sample inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.errors import GraphOptError, ValidationError
from graphopt.ir import Graph, Value, walk
from graphopt.passes.pruning.masked import mask_slices
from graphopt.passes.pruning.rewrite.plan import Constants
from graphopt.passmanager.runner import draws_random

CLOSE = 1e-4
"""A relative difference that is rounding beyond doubt; above it, double precision decides."""

WIDE_BOUND = 1e-6
"""The most that rounding can make in double precision, in a deep network."""

ULPS = 8
"""How far tensors that pruning makes may lead outputs away, in units of their own rounding."""


class MaskedModel:
    """The masked model, run without storing it: each tensor is masked when it is used, and forgotten.

    graph, analysis: the original. selection: the channels that are masked, by group.
    """

    def __init__(
        self,
        graph: Graph,
        analysis: ChannelAnalysis,
        selection: Mapping[str, np.ndarray],
        constants: Constants = "zero",
    ) -> None:
        self.graph = graph
        self._slices = mask_slices(analysis, selection, constants=constants)

    def run(self, inputs: Sequence[Any], *, float64: bool = False) -> list[Any]:
        """Return what the masked model returns."""
        return _Masking(self.graph, self._slices, float64).run(*inputs)


class _Masking(Interpreter):
    def __init__(self, graph: Graph, slices: Mapping[str, Mapping[int, np.ndarray]], float64: bool) -> None:
        super().__init__(graph, float64=float64)
        self._slices = slices

    def constant(self, value: Value) -> torch.Tensor:
        """The stored tensor with zeros in the slices that go."""
        assert value.constant is not None
        tensor = self.widened(value.constant.tensor.detach())
        for dim, gone in self._slices.get((value.constant.names or (value.name,))[0], {}).items():
            tensor = tensor.index_fill(dim, torch.from_numpy(gone).to(tensor.device), 0)
        return tensor


def masked_error(masked: MaskedModel, pruned: Graph, inputs: Sequence[Any], *, lossy: bool = False) -> float | None:
    """Return the largest difference between the pruned graph and the masked model on the inputs, relative to each
    output's scale; None if the model does not run on them, or its outputs depend on chance.

    lossy: the two may differ, as at padded borders where constants are kept.

    Raises:
        ValidationError: the two differ by more than rounding, and are not allowed to.
    """
    outputs = len(pruned.outputs)
    try:
        want = masked.run(inputs)
        if any(map(draws_random, walk(masked.graph))) and _difference(want, masked.run(inputs), outputs) != 0:
            return None
        error = _difference(want, Interpreter(pruned).run(*inputs), outputs)
    except GraphOptError:
        return None  # the pass manager says what is wrong with the samples
    if lossy or error <= CLOSE:
        return error
    wide = _difference(masked.run(inputs, float64=True), Interpreter(pruned, float64=True).run(*inputs), outputs)
    if not wide <= _wide_bound(masked.graph, pruned):
        raise ValidationError(f"the pruned graph differs from the masked model by {wide:.2e} in double precision")
    return error


def _wide_bound(original: Graph, pruned: Graph) -> float:
    """The most that rounding can make in double precision: what is folded is stored in the model's own precision."""
    made = [v.constant.tensor.dtype for n, v in pruned.constants.items() if n not in original.constants and v.constant]
    return max([WIDE_BOUND, *(ULPS * torch.finfo(dtype).eps for dtype in made if dtype.is_floating_point)])


def _difference(want: Sequence[Any], got: Sequence[Any], outputs: int) -> float:
    worst = 0.0
    for w, g in zip(want[:outputs], got[:outputs]):
        if isinstance(w, torch.Tensor) and (w.is_floating_point() or w.is_complex()) and w.numel():
            apart = torch.where(w == g, 0.0, (w - g).abs())
            apart = torch.where(w.isnan() & g.isnan(), 0.0, apart)
            scale = w.abs().nan_to_num(0.0, posinf=0.0, neginf=0.0).max()
            worst = max(
                worst, float(apart.nan_to_num(torch.inf).max() / scale.clamp(min=torch.finfo(scale.dtype).tiny))
            )
    return worst
